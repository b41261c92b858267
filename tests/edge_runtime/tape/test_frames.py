"""Frames come back from a stretch to the bit, however they were spread."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import StoreError
from edge_runtime.quality import MASK
from edge_runtime.tape import Stretch, frames_of, stretches_of
from edge_runtime.tape.entries import Column, decode, encode, scan
from edge_runtime.types import Frame

CLOCKS = ("unsynced", "ntp", "cloud")
LEAST, MOST = -(2**63), 2**63 - 1


@st.composite
def frames(draw: st.DrawFn) -> list[Frame]:
    """Draw a stream: chunks of any size, gaps in the index, times that jump anywhere."""
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    dtype = draw(st.sampled_from(["float64", "float32", "int16", "int8", "uint8", "bool"]))
    channels = draw(st.integers(1, 3))
    made, index = [], draw(st.integers(0, 2**40))
    for count in draw(st.lists(st.integers(0, 9), max_size=8)):
        times = draw(st.lists(st.integers(LEAST, MOST), min_size=count, max_size=count))
        if draw(st.booleans()):
            times = [draw(st.integers(0, 2**60)) + 1000 * i for i in range(count)]
        samples = random.integers(0, 255, (count, channels)).astype(dtype)
        clock = draw(st.sampled_from(CLOCKS))
        step_ns = draw(st.sampled_from([None, 1000]))
        quality = draw(st.sampled_from([None, random.integers(0, 16, count).astype(MASK)]))
        time_ns = np.array(times, np.int64)
        made.append(Frame("s", index, time_ns, samples, clock, step_ns, quality))
        index += count + draw(st.sampled_from([0, 0, 3]))
    return made


def masks_of(frame: Frame) -> list[int] | None:
    """Return a frame's masks; None is not the same as masks that are all 0."""
    return None if frame.quality is None else frame.quality.tolist()


@given(frames())
def test_frames_survive_to_the_bit(given_frames: list[Frame]) -> None:
    """Index, times, samples, dtype, clock, step, masks and the seams between frames are kept."""
    bodies = b"".join(encode(one) for one in stretches_of(given_frames))

    found = [
        frame
        for _, body in scan(b"edge-runtime tape\n" + bodies)
        for frame in frames_of(decode(body, "test"))  # type: ignore[arg-type]
    ]

    assert len(found) == len(given_frames)
    for frame, before in zip(found, given_frames, strict=True):
        assert (frame.index, frame.clock, frame.step_ns) == (
            before.index,
            before.clock,
            before.step_ns,
        )
        assert frame.time_ns.tobytes() == before.time_ns.tobytes()
        assert frame.samples.tobytes() == before.samples.tobytes()
        assert frame.samples.dtype == before.samples.dtype
        assert frame.samples.shape == before.samples.shape
        assert masks_of(frame) == masks_of(before)


def test_steady_frames_make_one_stretch_without_times() -> None:
    """A steady clock costs two numbers, not eight bytes a sample."""
    times = np.arange(1000, dtype=np.int64) * 62_500
    samples = np.zeros((1000, 1), np.int16)
    chunks = [Frame("s", i, times[i : i + 10], samples[i : i + 10]) for i in range(0, 1000, 10)]

    (stretch,) = stretches_of(chunks)

    assert stretch.jitter is None
    assert len(encode(stretch)) < 2 * 1000 + 400


def test_masks_take_room_only_where_there_are_any() -> None:
    """Frames about which nothing is suspect have no column for it."""
    clean = Frame("s", 0, np.arange(4), np.zeros((4, 1)))
    suspect = Frame("s", 4, np.arange(4, 8), np.zeros((4, 1)), quality=np.ones(4, MASK))

    stretches = stretches_of([clean, suspect])

    assert [sorted(one.columns) for one in stretches] == [["samples"], ["quality", "samples"]]


def test_a_tape_keeps_everything_a_frame_has() -> None:
    """Whoever gives frames another field has to keep it on the tape too."""
    frame = Frame("s", 0, np.arange(4), np.zeros((4, 1)), quality=np.ones(4, MASK))

    (stretch,) = stretches_of([frame])

    kept = {*stretch.columns, *stretch.facts, "index", "time_ns"}
    fields = {field.name for field in msgspec.structs.fields(Frame)}
    # Streams of many devices have no tape.
    assert kept == fields - {"keys"}


def test_parts_that_do_not_fit_are_refused() -> None:
    """A column that is shorter than the frames is told, not read past."""
    (stretch,) = stretches_of([Frame("s", 0, np.arange(4), np.zeros((4, 1)))])
    short = Column("<f8", (1,), bytes(8))
    broken = msgspec.structs.replace(stretch, columns={"samples": short})

    with pytest.raises(StoreError, match="do not unpack"):
        frames_of(broken)


def test_what_a_later_frame_carries_is_passed_over() -> None:
    """A tape of a newer version, whose frames have another column, is read as far as known."""
    (stretch,) = stretches_of([Frame("s", 0, np.arange(4), np.zeros((4, 1)))])
    columns = {**stretch.columns, "colour": Column("<i8", (), bytes(32))}
    newer: Stretch = msgspec.structs.replace(
        stretch, columns=columns, facts={**stretch.facts, "mood": 3}
    )

    (frame,) = frames_of(newer)

    assert frame.samples.shape == (4, 1)
