"""A scripted source fails and pauses where its script says, and replays exactly."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import SourceError
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import Abort, End, Quiet, Samples, ScriptedSource, check_source, read_all

NEED = StreamSpec((ChannelSpec("x"),), 10.0)


def _samples(first: int, last: int) -> Samples:
    return Samples(np.arange(first, last, dtype=np.float64)[:, None])


def test_steps_happen_in_order() -> None:
    """Samples, silence and the end come as written."""
    source = ScriptedSource([_samples(0, 2), Quiet(), _samples(2, 5), End()], start_ns=7)

    source.open("s", NEED, 0)
    frames = [source.read(0) for _ in range(4)]

    assert [frame and (frame.index, len(frame)) for frame in frames] == [(0, 2), None, (2, 3), None]
    assert frames[2] is not None
    assert frames[2].time_ns.tolist() == [200_000_007, 300_000_007, 400_000_007]
    assert source.is_exhausted


def test_abort_happens_once() -> None:
    """A failed source that is opened again at its position goes on."""
    source = ScriptedSource([_samples(0, 3), Abort("cable"), _samples(3, 5), End()])
    source.open("s", NEED, 0)
    source.read(0)

    with pytest.raises(SourceError, match="cable"):
        source.read(0)
    source.open("s", NEED, 3)
    frames = read_all(source)

    assert [frame.samples[:, 0].tolist() for frame in frames] == [[3, 4]]
    assert source.opened == [0, 3]


def test_own_times_are_kept() -> None:
    """A script may contain gaps and steps back."""
    step = Samples(np.zeros((2, 1)), np.array([50, 20], np.int64))
    source = ScriptedSource([step])

    source.open("s", NEED, 1)
    frame = source.read(0)

    assert frame is not None
    assert (frame.index, frame.time_ns.tolist()) == (1, [20])


def test_script_without_an_end_is_live() -> None:
    """A sensor is never exhausted."""
    source = ScriptedSource([_samples(0, 1)])
    source.open("s", NEED, 0)
    source.read(0)

    assert source.read(0) is None
    assert not source.is_exhausted


def test_scripted_recording_obeys_the_contract() -> None:
    """The fake is as good as a real source."""
    steps = [_samples(0, 3), Quiet(), _samples(3, 4), _samples(4, 20), End()]

    check_source(lambda: ScriptedSource(steps), NEED, resume_at=range(20))
