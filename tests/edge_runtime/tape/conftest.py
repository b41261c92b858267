"""A tape as a device leaves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.ports import Choice
from edge_runtime.tape import Answers, Gathered, Limits, Origin, Recorder, Ring, Standing, Taken
from edge_runtime.testing import FakeClock
from edge_runtime.types import Frame

Record = Callable[..., Recorder]


def standing(position: int = 0) -> Standing:
    """Say how a stream stands; the snapshot is never restored here."""
    return Standing(position, position, "ab" * 32, "m@1", Choice(), (), b"snapshot")


def taken(first: int, count: int = 20) -> Taken:
    """Make what one commit brings: two frames and an answer for every sample."""
    times = np.arange(first, first + count, dtype=np.int64) * 10**9
    samples = np.arange(first, first + count, dtype=np.float64)[:, None]
    half = count // 2
    frames = [
        Frame("main", first, times[:half], samples[:half]),
        Frame("main", first + half, times[half:], samples[half:]),
    ]
    index = np.arange(first, first + count, dtype=np.int64)
    answers = Answers("id", index.tobytes(), samples.tobytes(), b"", ())
    gathered = Gathered()
    for frame in frames:
        gathered.add(frame)
    return Taken(gathered.take(), first + count, first + count, b"snapshot", [answers])


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Make a recorder into ``tmp_path / "rec" / "main"``."""

    def make(
        clock: FakeClock | None = None,
        *,
        quota_bytes: int = 1 << 30,
        max_age_s: float | None = None,
        keep_free_bytes: int = 0,
        epoch: int = 1,
        position: int = 0,
    ) -> Recorder:
        limits = Limits(quota_bytes, max_age_s, keep_free_bytes)
        ring = Ring(tmp_path / "rec" / "main", limits, clock or FakeClock())
        origin = Origin(1, "pump-1", "main", epoch, 7, (), 0)
        return Recorder(ring, origin, standing(position))

    return make
