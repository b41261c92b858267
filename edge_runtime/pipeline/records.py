"""Results in columns, as outbox, wire and store keep them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.types import Decision, Estimates, Table

__all__ = ["decisions_table", "estimates_table"]


def estimates_table(estimates: Estimates) -> Table:
    """Return one row per window.

    Columns: ``index``, ``start_ns``, ``end_ns`` int64; ``score``, ``value``
    float64 (n, k); ``inputs`` (n, …) if they were kept; ``effective_id`` text.
    """
    columns = {
        "index": estimates.index,
        "start_ns": estimates.start_ns,
        "end_ns": estimates.end_ns,
        "score": estimates.score,
        "value": estimates.value,
    }
    if estimates.inputs is not None:
        columns["inputs"] = estimates.inputs
    columns["effective_id"] = np.full(len(estimates), estimates.effective_id, dtype="<U16")
    return Table(columns)


def decisions_table(decisions: Sequence[Decision]) -> Table:
    """Return one row per decision.

    Columns: ``index``, ``time_ns``, ``revision`` int64; ``value`` float64;
    ``model``, ``label``, ``edge``, ``effective_id``, ``tier`` text.
    """
    return Table(
        {
            "index": np.array([d.index for d in decisions], np.int64),
            "time_ns": np.array([d.time_ns for d in decisions], np.int64),
            "model": np.array([d.model for d in decisions], np.str_),
            "label": np.array([d.label for d in decisions], np.str_),
            "edge": np.array([d.edge for d in decisions], np.str_),
            "value": np.array([d.value for d in decisions], np.float64),
            "effective_id": np.array([d.effective_id for d in decisions], "<U16"),
            "tier": np.array([d.tier for d in decisions], np.str_),
            "revision": np.array([d.revision for d in decisions], np.int64),
        }
    )
