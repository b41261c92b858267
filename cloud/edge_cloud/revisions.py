"""What stands: of every answer the last revision, without those that were taken back."""

from __future__ import annotations

import numpy as np

from edge_runtime.types import Table

__all__ = ["current_rows", "not_retracted"]

_DECISION = ("model", "label", "edge")


def current_rows(table: Table) -> Table:
    """Return the last revision of every answer; order is kept.

    An answer is known by its device, index and event time, a decision also by model,
    label and edge: the same slot of a stream is the same answer after a restart of
    its device, so the epoch is no part of it. The tier ``cloud`` ranks above ``edge``,
    then the higher revision, then the row that was sent later.

    Args:
        table: Rows of one stream with their identity, such as `Store.rows` returns.
    """
    columns = table.columns
    if not len(table):
        return table
    time = columns["time_ns"] if "time_ns" in columns else columns["end_ns"]
    names = [columns[name] for name in _DECISION if name in columns]
    key = [_coded(one) for one in (columns["device"], *names)] + [columns["index"], time]
    rank = [columns["seq"], columns["epoch"], columns["incarnation"], *_revision(table)]
    order = np.lexsort([*rank, *key])
    is_last = np.ones(len(order), np.bool_)
    is_last[:-1] = np.any([one[order][1:] != one[order][:-1] for one in key], axis=0)
    kept = np.sort(order[is_last])
    return not_retracted(Table({name: column[kept] for name, column in columns.items()}))


def not_retracted(table: Table) -> Table:
    """Leave out rows that say that an answer is void."""
    is_retracted = table.columns.get("is_retracted")
    if is_retracted is None or not is_retracted.any():
        return table
    return Table({name: column[~is_retracted] for name, column in table.columns.items()})


def _coded(column: np.ndarray) -> np.ndarray:
    """Return numbers that are equal where texts are."""
    return np.unique(column, return_inverse=True)[1]


def _revision(table: Table) -> list[np.ndarray]:
    columns = table.columns
    ranks = [columns["revision"]] if "revision" in columns else []
    return [*ranks, columns["tier"] == "cloud"] if "tier" in columns else ranks
