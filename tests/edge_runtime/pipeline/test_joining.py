"""Frames that follow each other are one frame cut in pieces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.pipeline.joining import follows, joined, joined_many
from edge_runtime.quality import MASK
from edge_runtime.types import Frame

ROWS = 40


def whole(quality: np.ndarray | None = None) -> Frame:
    """Forty samples of two channels."""
    samples = np.arange(2 * ROWS, dtype=np.int16).reshape(ROWS, 2)
    return Frame("main", 7, np.arange(ROWS) ** 2, samples, clock="ntp", quality=quality)


def parts_of(frame: Frame, cuts: Sequence[int]) -> list[Frame]:
    """Cut a frame; a part of which nothing is suspect has no masks."""
    edges = [0, *sorted(cuts), len(frame)]
    parts = []
    for first, last in itertools.pairwise(edges):
        quality = None if frame.quality is None else frame.quality[first:last]
        parts.append(
            msgspec.structs.replace(
                frame,
                index=frame.index + first,
                time_ns=frame.time_ns[first:last],
                samples=frame.samples[first:last],
                quality=quality if quality is not None and quality.any() else None,
            )
        )
    return parts


@given(
    st.lists(st.integers(0, ROWS), max_size=10),
    st.none() | st.lists(st.integers(0, 3), min_size=ROWS, max_size=ROWS),
)
def test_the_pieces_of_a_frame_give_it_back(cuts: list[int], masks: list[int] | None) -> None:
    """Samples, times and what is suspect, wherever it was cut."""
    frame = whole(None if masks is None or not any(masks) else np.array(masks, MASK))

    (found,) = joined_many(parts_of(frame, cuts))

    assert (found.stream, found.index, found.clock) == ("main", 7, "ntp")
    assert found.samples.dtype == np.int16
    assert np.array_equal(found.samples, frame.samples)
    assert np.array_equal(found.time_ns, frame.time_ns)
    assert (found.quality is None) == (frame.quality is None)
    assert found.quality is None or np.array_equal(found.quality, frame.quality)


@pytest.mark.parametrize(
    "change",
    [
        {"index": 18},
        {"stream": "other"},
        {"clock": "unsynced"},
        {"samples": np.zeros((ROWS - 10, 2), np.int32)},
        {"samples": np.zeros((ROWS - 10, 3), np.int16)},
        {"keys": np.full(ROWS - 10, "pump", object)},
    ],
)
def test_a_frame_of_another_kind_begins_a_new_one(change: dict[str, Any]) -> None:
    """A gap, another stream, clock, dtype or width, or samples of many devices."""
    before, after = parts_of(whole(), [10])
    other = msgspec.structs.replace(after, **change)

    assert follows(after, before)
    assert not follows(other, before)
    assert list(joined_many([before, other])) == [before, other]


def test_a_promise_of_a_steady_clock_does_not_span_pieces() -> None:
    """Nobody promised how much later the next piece comes."""
    pieces = [msgspec.structs.replace(part, step_ns=5) for part in parts_of(whole(), [10])]

    assert joined(pieces).step_ns is None
    assert joined(pieces[:1]) is pieces[0]


def test_large_blocks_stay_bounded() -> None:
    """About eight thousand samples, however many follow each other."""
    frames = parts_of(
        Frame("main", 0, np.arange(30_000), np.zeros((30_000, 1))), range(1000, 30_000, 1000)
    )

    assert [len(one) for one in joined_many(frames)] == [9000, 9000, 9000, 3000]
