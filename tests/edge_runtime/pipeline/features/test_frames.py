"""Frames that windows share: computed once, and the same bytes as ever."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.pipeline.features import Extractor, compute
from edge_runtime.pipeline.features.frames import FRAMES_AT_ONCE
from edge_runtime.spec import FeatureSpec, LogMel, Mfcc, Statistics

RATE_HZ = 8000.0
LENGTH = 200
MEL = LogMel(64, 32, 64, 8, 20.0, 3000.0)
MARVIN_LIKE = LogMel(
    64, 16, 128, 8, 0.0, 4000.0, 0.0, pre_emphasis=0.97, log="db", clip=(-20.0, 40.0)
)
SPECS: list[tuple[FeatureSpec, ...]] = [
    (MEL,),
    (MARVIN_LIKE,),
    (Mfcc(MEL, 5),),
    (LogMel(64, 32, 64, 8, 20.0, 3000.0, peak=True),),
    (Statistics(("rms",)), Mfcc(MARVIN_LIKE, 4)),
]


def stream_of(count: int, seed: int, dtype: str) -> np.ndarray:
    """Draw a stream of one channel, loud and quiet."""
    random = np.random.default_rng(seed)
    loudness = 10.0 ** random.uniform(0, 4, count)
    return (random.normal(size=count) * loudness).astype(dtype)[:, None]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    specs=st.sampled_from(SPECS),
    hop=st.sampled_from([8, 16, 32, 64, 96, 160, 192, 200, 224, 256]),
    count=st.integers(1, 60),
    seams=st.lists(st.integers(1, 60), max_size=6),
    are_copies=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["int16", "float32", "float64", "int32"]),
)
def test_kept_frames_have_the_bytes_of_new_ones(
    cut: Callable[..., np.ndarray],
    specs: tuple[FeatureSpec, ...],
    hop: int,
    count: int,
    seams: Sequence[int],
    are_copies: bool,
    seed: int,
    dtype: str,
) -> None:
    """However a stream's windows are spread over calls, each is as if computed alone."""
    windows = cut(stream_of(LENGTH + (count - 1) * hop, seed, dtype), LENGTH, hop)
    extract = Extractor(specs, (LENGTH, 1), rate_hz=RATE_HZ, hop=hop)
    bounds = itertools.pairwise(sorted({0, count, *(seam % count for seam in seams)}))

    parts = [
        extract(
            windows[first:last].copy() if are_copies else windows[first:last], is_fresh=first == 0
        )
        for first, last in bounds
    ]

    alone = [compute(specs, windows[i : i + 1], rate_hz=RATE_HZ) for i in range(count)]
    assert np.concatenate(parts).tobytes() == np.concatenate(alone).tobytes()


@pytest.mark.parametrize("spec", [MEL, MARVIN_LIKE])
def test_windows_in_any_order_share_nothing(spec: LogMel) -> None:
    """Fresh windows that do not lie one hop apart in memory are taken one by one."""
    windows = stream_of(10 * LENGTH, 1, "int16").reshape(10, LENGTH, 1)
    extract = Extractor([spec], (LENGTH, 1), rate_hz=RATE_HZ, hop=32)

    shuffled = extract(windows[::-1])

    assert shuffled.tobytes() == compute([spec], windows[::-1], rate_hz=RATE_HZ).tobytes()


def test_a_fresh_window_forgets_what_came_before(cut: Callable[..., np.ndarray]) -> None:
    """After a gap no frame of the old stretch is used."""
    before, after = (cut(stream_of(LENGTH + 320, seed, "int16"), LENGTH, 32) for seed in (1, 2))
    extract = Extractor([MEL], (LENGTH, 1), rate_hz=RATE_HZ, hop=32)
    extract(before)

    found = extract(after[:1])

    assert found.tobytes() == compute([MEL], after[:1], rate_hz=RATE_HZ).tobytes()


def test_only_new_frames_are_computed(cut: Callable[..., np.ndarray]) -> None:
    """A window that follows another reads its last samples only."""
    windows = cut(stream_of(LENGTH + 32, 3, "float32"), LENGTH, 32).copy()
    extract = Extractor([MEL], (LENGTH, 1), rate_hz=RATE_HZ, hop=32)
    expected = compute([MEL], windows, rate_hz=RATE_HZ)
    extract(windows[:1])
    windows[1, : 4 * 32] = np.nan

    found = extract(windows[1:], is_fresh=False)

    assert found.tobytes() == expected[1:].tobytes()


def test_forks_hear_streams_of_their_own(cut: Callable[..., np.ndarray]) -> None:
    """Two streams through forks of one extractor answer as if each had its own."""
    streams = [cut(stream_of(LENGTH + 640, seed, "int16"), LENGTH, 32) for seed in (5, 6)]
    first = Extractor([MARVIN_LIKE], (LENGTH, 1), rate_hz=RATE_HZ, hop=32)
    first(streams[1][:1])
    forks = [first.fork(), first]

    found = [
        [
            fork(windows[i : i + 1], is_fresh=i == 0)
            for fork, windows in zip(forks, streams, strict=True)
        ]
        for i in range(len(streams[0]))
    ]

    for number, windows in enumerate(streams):
        together = np.concatenate([pair[number] for pair in found])
        assert together.tobytes() == compute([MARVIN_LIKE], windows, rate_hz=RATE_HZ).tobytes()


def test_a_window_of_very_many_frames_is_taken_in_blocks() -> None:
    """More frames than a block holds are the frames of the parts."""
    stream = stream_of(64 + 32 * (3 * FRAMES_AT_ONCE + 4), 7, "float32")

    found = compute([MEL], stream[None], rate_hz=RATE_HZ)[0]

    parts = [
        compute([MEL], stream[None, 32 * i : 32 * i + 64], rate_hz=RATE_HZ)[0, 0]
        for i in range(len(found))
    ]
    assert len(found) == 3 * FRAMES_AT_ONCE + 5
    assert found.tobytes() == np.stack(parts).tobytes()


def test_no_windows_give_no_features() -> None:
    """An empty block is answered by an empty one, and the next block goes on."""
    extract = Extractor([MEL], (LENGTH, 1), rate_hz=RATE_HZ, hop=32)

    found = extract(np.empty((0, LENGTH, 1), np.int16), is_fresh=False)

    assert found.shape == (0, 5, 8)
