"""Sequences are bounded in number and time, and let go of what they hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.backends.reference import Reference
from edge_runtime.bundle import write_arrays
from edge_runtime.errors import RequestError
from edge_runtime.modes.realtime.sequences import Sequences
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import SessionOptions
from edge_runtime.spec import ArtefactSpec, ChannelSpec, ModelSpec, StreamSpec, WindowSpec
from edge_runtime.testing import FakeClock

SPEC = ModelSpec(
    name="sum",
    version="1",
    kind="regressor",
    stream=StreamSpec((ChannelSpec("a"),), rate_hz=10.0),
    window=WindowSpec(length=3, hop=2),
    artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
    labels=("total",),
)
MODEL = write_arrays({"w0": np.ones((3, 1), np.float32), "b0": np.zeros(1, np.float32)})


class Model:
    """Counts the streams that it opens and closes."""

    def __init__(self) -> None:
        self.opened = self.closed = 0

    def open_stream(self, sequence: str | int | None = None) -> Pipeline:
        del sequence
        self.opened += 1
        return Pipeline(SPEC, Reference().load(MODEL, SessionOptions()), base="0" * 64)

    def close_stream(self, opened: Callable[[], Pipeline | None]) -> None:
        self.closed += opened() is not None


def sequences(clock: FakeClock, limit: int = 3) -> Sequences:
    return Sequences(limit=limit, idle_s=10.0, clock=clock)


def test_only_those_that_nobody_asks_expire() -> None:
    """A use renews; the others go after their time, and make room."""
    clock, model = FakeClock(), Model()
    found = sequences(clock)
    for name in (1, 2, 3):
        found.start(("b", name), model).push(np.zeros((1, 1)), None)
        clock.advance(3)

    found.find(("b", 1))
    clock.advance(7)
    found.expire()

    assert len(found) == 1
    assert (found.counts["expired"], model.closed) == (2, 2)
    with pytest.raises(RequestError, match="never started, ended, or expired"):
        found.find(("b", 2))


def test_unloading_ends_those_of_one_base() -> None:
    """The same id under another base is another stream."""
    model, found = Model(), sequences(FakeClock())
    for base in ("a", "b"):
        found.start((base, 1), model)

    found.unload("a")

    assert len(found) == 1
    assert found.find(("b", 1))
    assert found.counts["unloaded"] == 1


@given(st.lists(st.integers(0, 40), max_size=8))
def test_any_requests_give_the_windows_of_the_whole(seams: list[int]) -> None:
    """Samples spread over requests in any way, counted by rate."""
    samples = np.arange(40, dtype=np.float32)[:, None]
    whole = sequences(FakeClock()).start(("b", 1), Model()).push(samples, None)
    sequence = sequences(FakeClock()).start(("b", 1), Model())

    parts = [sequence.push(part, None) for part in np.split(samples, sorted(seams))]

    for name in ("index", "start_ns", "end_ns", "value"):
        joined = np.concatenate([getattr(part.estimates, name) for part in parts])
        assert joined.tobytes() == getattr(whole.estimates, name).tobytes()


def test_what_gave_no_result_is_told_once() -> None:
    """Each request tells its own discards, so that they add up."""
    sequence = sequences(FakeClock()).start(("b", 1), Model())
    time_ns = np.array([0, 10**8, 10**8, 5 * 10**9], np.int64)

    sequence.push(np.zeros((4, 1), np.float32), time_ns)
    first = dict(sequence.discarded)
    sequence.push(np.zeros((1, 1), np.float32), time_ns[-1:] + 10**8)

    assert (first["out_of_order"], first["gap"]) == (1, 2)
    assert not any(sequence.discarded.values())
