"""Answers as arrays: a stream that cannot be revised has no room for revisions."""

from __future__ import annotations

import msgspec
import numpy as np

from edge_runtime.modes.realtime.arrays import stream_arrays
from edge_runtime.types import Estimates, Output


def _estimates(*index: int, revision: int | None = None) -> Estimates:
    at = np.array(index, np.int64)
    values = at[:, None] / 2
    revisions = None if revision is None else np.full(len(at), revision, np.int64)
    return Estimates(at, at, at, values, values, None, "0" * 16, revisions)


def test_without_a_grid_there_is_nothing_about_revisions() -> None:
    """Clients of such models get what they always got."""
    arrays = stream_arrays(Output("main", _estimates(3), ()), has_decisions=True)

    assert list(arrays)[:5] == ["index", "start_ns", "end_ns", "value", "score"]
    assert not {"is_retracted", "revision", "quality", "decision_quality"} & set(arrays)


def test_rows_that_are_taken_back_stand_at_the_end() -> None:
    """Each with the revision that says so."""
    output = Output("main", _estimates(3, 5, revision=0), ())
    output = msgspec.structs.replace(output, retracted=_estimates(1, revision=2))

    arrays = stream_arrays(output, has_decisions=True)

    assert arrays["index"].tolist() == [3, 5, 1]
    assert arrays["revision"].tolist() == [0, 0, 2]
    assert arrays["is_retracted"].tolist() == [False, False, True]
    assert arrays["quality"].tolist() == [0, 0, 0]
    assert len(arrays["decision_is_retracted"]) == 0
