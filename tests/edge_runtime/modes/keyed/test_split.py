"""Rows of many devices are parted, each device's in order, with what is suspect about them."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.modes.keyed.split import LONGEST_KEY, split
from edge_runtime.quality import MASK
from edge_runtime.types import Frame

rows = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", None, "", "x" * (LONGEST_KEY + 1)]), st.integers(0, 3)
    ),
    min_size=1,
    max_size=40,
)


@given(rows, st.sets(st.integers(1, 39)))
def test_each_device_gets_its_rows_and_no_others(
    rows: list[tuple[str | None, int]], cuts: set[int]
) -> None:
    """However the rows are spread over frames; what names no device is of none."""
    bounds = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    frames = [_frame(rows, first, last) for first, last in itertools.pairwise(bounds)]

    found = dict(split(frames))

    names = [key if key and len(key) <= LONGEST_KEY else None for key, _ in rows]
    assert list(found) == list(dict.fromkeys(names))
    for key, frame in found.items():
        mine = [row for row, name in enumerate(names) if name == key]
        assert frame.time_ns.tolist() == mine
        assert frame.samples.ravel().tolist() == mine
        masks = [rows[row][1] for row in mine]
        assert (frame.quality is None) is not any(masks)
        assert frame.quality is None or frame.quality.tolist() == masks


def _frame(rows: list[tuple[str | None, int]], first: int, last: int) -> Frame:
    keys = np.empty(last - first, np.object_)
    keys[:] = [key for key, _ in rows[first:last]]
    masks = np.array([mask for _, mask in rows[first:last]], MASK)
    time_ns = np.arange(first, last)
    samples = time_ns[:, None].astype(np.float32)
    return Frame("main", first, time_ns, samples, quality=masks, keys=keys)
