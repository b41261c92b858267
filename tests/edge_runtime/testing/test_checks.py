"""The contract checks find sources that break the contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.sources import Recording, RecordingConfig, Track
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import check_source
from edge_runtime.types import Frame

NEED = StreamSpec((ChannelSpec("x"),), 10.0)


class Recorded(Recording):
    """A sound recording of twelve rows, for others to break."""

    def __init__(self) -> None:
        track = Track(np.arange(12, dtype=np.int64), np.arange(12.0)[:, None])
        super().__init__(RecordingConfig(path=Path("x"), block=5), lambda _: track)


class Forgetful(Recorded):
    """Starts over whatever the index."""

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        super().open(stream, need, 0)


class Skipping(Recorded):
    """Loses the first sample of every frame."""

    def read(self, timeout_s: float) -> Frame | None:
        frame = super().read(timeout_s)
        if frame is None:
            return None
        return Frame(frame.stream, frame.index + 1, frame.time_ns[1:], frame.samples[1:])


class Unnamed(Recorded):
    """Forgets the name of its stream."""

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        super().open("", need, index)


class Deaf(Recorded):
    """Cannot be closed."""

    def close(self) -> None:
        return None


def test_sound_source_passes() -> None:
    """The example that the others break is sound itself."""
    check_source(Recorded, NEED, resume_at=range(12))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (Forgetful, "begins at index"),
        (Skipping, "without gap"),
        (Unnamed, "stream's name"),
        (Deaf, "closed source delivers nothing"),
    ],
)
def test_broken_source_is_found(make: Callable[[], Recording], sentence: str) -> None:
    """Each breach is told in a sentence."""
    with pytest.raises(AssertionError, match=sentence):
        check_source(make, NEED)
