"""Samples of one stream, sorted, and one for each instant."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ModelError
from edge_runtime.pipeline.timeline.rows import Rows, RowsState
from edge_runtime.quality import MASK


def _rows(times: list[int], values: list[float], channels: int = 1) -> Rows:
    samples = np.array(values, np.float32).reshape(len(times), channels)
    return Rows(np.array(times, np.int64), samples)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), max_size=30), st.integers(0, 30))
def test_the_first_sample_of_an_instant_counts(rows: list[tuple[int, int]], cut: int) -> None:
    """However they come in, later ones of the same instant are counted and left out."""
    first: dict[int, float] = {}
    for time_ns, value in rows:
        first.setdefault(time_ns, float(value))
    merged, lost = Rows.none(1, np.dtype(np.float32)), 0

    for part in (rows[:cut], rows[cut:]):
        new = _rows([time for time, _ in part], [float(value) for _, value in part])
        merged, counts = merged.merged(new, 64, 1)
        lost += sum(counts.values())

    assert merged.time_ns.tolist() == sorted(first)
    assert merged.samples[:, 0].tolist() == [first[time] for time in sorted(first)]
    assert lost == len(rows) - len(first)


def test_sensors_that_share_an_instant_share_a_row() -> None:
    """What one does not have, the other fills in; that is no duplicate."""
    nan = float("nan")
    known = _rows([1, 2], [1.0, nan, 2.0, nan], channels=2)

    merged, lost = known.merged(_rows([2, 1], [nan, 20.0, 9.0, 10.0], channels=2), 64, 1)

    assert merged.samples.tolist() == [[1.0, 10.0], [2.0, 20.0]]
    assert lost == {"duplicate": 0}


def test_what_is_suspect_counts_with_the_value_it_came_with() -> None:
    """A sample that fills in a channel brings its mark along; one that is left out does not."""
    nan = float("nan")
    known = _rows([1, 2], [1.0, nan, 2.0, 5.0], channels=2)
    new = _rows([1, 2], [nan, 20.0, 9.0, 10.0], channels=2)
    new = msgspec.structs.replace(new, quality=np.array([4, 2], MASK))

    merged, _ = known.merged(new, 64, 1)

    assert merged.quality is not None
    assert merged.quality.tolist() == [4, 0]
    assert new.quality.tolist() == [4, 2]


@pytest.mark.parametrize(
    "state",
    [
        RowsState("<f4", b"1234", b""),
        RowsState("nonsense", b"", b""),
        RowsState("<f4", b"", b"1"),
        RowsState("<f4", b"", b"", b"12"),
    ],
)
def test_bytes_that_are_no_rows_are_refused(state: RowsState) -> None:
    """A damaged snapshot does not become samples."""
    with pytest.raises(ModelError, match="do not fit"):
        Rows.of_state(state, 1)
