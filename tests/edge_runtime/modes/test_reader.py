"""A source is read to its end, and opened again when it fails."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edge_runtime.errors import SourceError
from edge_runtime.modes.reader import Reader
from edge_runtime.modes.status import Made
from edge_runtime.ports import SourceHealth
from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame


def frame(index: int) -> Frame:
    return Frame("main", index, np.array([index]), np.zeros((1, 1)))


class Scripted:
    """A source that does what it is told, item by item; None is a read that gives nothing."""

    def __init__(self, *script: Frame | SourceError | None) -> None:
        self._script = list(script)
        self.closed = 0
        self.opened: list[int] = []
        self.refusals: list[OSError | None] = []

    @property
    def is_exhausted(self) -> bool:
        return not self._script

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """Nothing to open."""

    def open_at(self, index: int) -> None:
        self.opened.append(index)
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            raise refusal

    def read(self, timeout_s: float) -> Frame | None:
        del timeout_s
        item = self._script.pop(0)
        if isinstance(item, SourceError):
            raise item
        return item

    def close(self) -> None:
        self.closed += 1


class Hurried(threading.Event):
    """Nobody waits for it."""

    def wait(self, timeout: float | None = None) -> bool:
        del timeout
        return self.is_set()


def read(source: Scripted, stop: threading.Event) -> tuple[list[int], list[int], Made]:
    """Return the indices that came, at which the source was opened, and the counts."""
    came: list[int] = []
    made = Made()
    reader = Reader(
        "main",
        source,
        open_at=source.open_at,
        offer=lambda frame: came.append(frame.index),
        made=made,
        stop=stop,
        closing=threading.Event(),
    )
    reader.open(0)
    reader.run()
    return came, source.opened, made


def test_a_source_is_read_to_its_end_and_closed() -> None:
    """Frames are handed on in order; a read that gives nothing ends nothing."""
    source = Scripted(frame(0), None, frame(1))

    assert read(source, Hurried())[:2] == ([0, 1], [0])
    assert source.closed == 1


def test_a_source_that_fails_is_opened_again_and_counted() -> None:
    """It goes on behind what has been delivered."""
    source = Scripted(frame(0), SourceError("cable out"), SourceError("still out"), frame(1))

    came, opened, made = read(source, Hurried())

    assert (came, opened, made.restarts) == ([0, 1], [0, 1, 1], 2)


def test_a_source_that_cannot_be_opened_again_is_tried_until_it_can() -> None:
    """A sensor that stays unplugged does not end its thread, and with it the device."""
    source = Scripted(frame(0), SourceError("cable out"), frame(1))
    source.refusals = [None, SourceError("no such device"), OSError("bus busy"), None]

    came, opened, made = read(source, Hurried())

    assert came == [0, 1]
    assert opened == [0, 1, 1, 1]
    assert made.restarts == 3


def test_a_live_source_may_be_absent_when_the_device_starts() -> None:
    """It is tried again like one that was unplugged."""

    class Live(Scripted):
        def health(self) -> SourceHealth:
            return SourceHealth()

    source = Live(frame(0))
    source.refusals = [SourceError("not plugged in"), None]

    assert read(source, Hurried())[0] == [0]


def test_a_recording_that_cannot_be_read_fails_the_start() -> None:
    """It will not come back by itself."""
    source = Scripted(frame(0))
    source.refusals = [SourceError("no such file")]

    with pytest.raises(SourceError, match="no such file"):
        read(source, Hurried())


def test_a_long_absence_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """And once more when it is over."""
    source = Scripted(*(SourceError("cable out") for _ in range(5)), frame(0))

    read(source, Hurried())

    said = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert said == ["source.failed", "source.recovered"]


def test_a_device_that_stops_does_not_open_a_failed_source_again() -> None:
    """The wait for the next try ends with the device."""
    stop = Hurried()

    class Last(Scripted):
        def read(self, timeout_s: float) -> Frame | None:
            stop.set()
            return super().read(timeout_s)

    came, opened, made = read(Last(SourceError("cable out"), frame(1)), stop)

    assert (came, opened, made.restarts) == ([], [0], 1)
