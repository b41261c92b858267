"""Answers as named arrays, as they go out; on a grid with what late samples changed."""

from __future__ import annotations

import numpy as np

from edge_runtime.pipeline.records import decisions_table, with_quality
from edge_runtime.quality import MASK
from edge_runtime.types import Estimates, Output

__all__ = ["DECISION", "stream_arrays", "window_arrays"]

DECISION = "decision_"
"""What the names of arrays about decisions begin with."""

Arrays = dict[str, np.ndarray]


def window_arrays(estimates: Estimates) -> Arrays:
    """Return the answers to windows, shape (n, labels); of a cascade who gave them, too."""
    stage = {} if estimates.stage is None else {"stage": estimates.stage}
    return {"value": estimates.value, "score": estimates.score, **stage}


def stream_arrays(output: Output, *, has_decisions: bool) -> Arrays:
    """Return the answers to the samples of a stream, a row for each window.

    Of a stream that can be revised they say ``revision``, ``is_retracted`` and
    ``quality`` too, and rows that are taken back stand at the end.

    Args:
        output: What the samples completed.
        has_decisions: Whether decisions go along.
    """
    told, gone = output.estimates, output.retracted
    can_be_revised = told.revision is not None
    arrays = _revised(told, gone) if can_be_revised else _rows(told)
    return arrays | (_decisions(output, is_full=can_be_revised) if has_decisions else {})


def _rows(estimates: Estimates) -> Arrays:
    return {
        "index": estimates.index,
        "start_ns": estimates.start_ns,
        "end_ns": estimates.end_ns,
        **window_arrays(estimates),
    }


def _revised(told: Estimates, gone: Estimates | None) -> Arrays:
    parts = [told] if gone is None else [told, gone]
    columns = [_rows(part) | _marks(part, is_retracted=part is gone) for part in parts]
    return {name: np.concatenate([one[name] for one in columns]) for name in columns[0]}


def _marks(estimates: Estimates, *, is_retracted: bool) -> Arrays:
    count = len(estimates)
    revision, quality = estimates.revision, estimates.quality
    return {
        "revision": np.zeros(count, np.int64) if revision is None else revision,
        "is_retracted": np.full(count, is_retracted),
        "quality": np.zeros(count, MASK) if quality is None else quality,
    }


def _decisions(output: Output, *, is_full: bool) -> Arrays:
    """Return a row for each decision; ``is_full`` tells of each whether it is taken back."""
    (table,) = with_quality([decisions_table(output.decisions)], is_wanted=is_full)
    columns = dict(table.columns)
    if is_full:
        columns["is_retracted"] = np.array([d.is_retracted for d in output.decisions], np.bool_)
    return {DECISION + name: column for name, column in columns.items()}
