"""Frames from an open device, and closing it from another thread."""

from __future__ import annotations

import threading

import numpy as np

from edge_runtime.sources.intake import Block, Intake

PATIENCE_S = 60.0


class Silent:
    """Gives nothing until it is woken."""

    def __init__(self) -> None:
        self.woken, self.inside = threading.Event(), threading.Event()
        self.closed = 0

    def read(self, timeout_s: float) -> Block | None:
        self.inside.set()
        assert self.woken.wait(timeout_s)
        assert self.closed == 0
        return None

    def wake(self) -> None:
        self.woken.set()

    def close(self) -> None:
        self.closed += 1


class Steady(Silent):
    """Gives three samples at a time."""

    def read(self, timeout_s: float) -> Block | None:
        return Block(np.arange(3), np.zeros((3, 1)), "ntp", 1)


def test_frames_follow_each_other() -> None:
    """The index counts what was delivered, from where the stream goes on."""
    intake = Intake()
    intake.open(Steady(), "hall", 40)

    frames = [intake.read(0.0), intake.read(0.0)]

    assert [(frame.stream, frame.index, frame.step_ns) for frame in frames if frame] == [
        ("hall", 40, 1),
        ("hall", 43, 1),
    ]


def test_a_close_wakes_the_reader_and_waits_until_it_is_out() -> None:
    """The device is closed once, and never under a reader; then nothing is delivered."""
    reader, intake = Silent(), Intake()
    intake.open(reader, "hall", 0)
    threads = [threading.Thread(target=intake.close) for _ in range(3)]
    reading = threading.Thread(target=intake.read, args=(PATIENCE_S,))

    reading.start()
    assert reader.inside.wait(PATIENCE_S)
    for thread in threads:
        thread.start()
    for thread in (reading, *threads):
        thread.join(PATIENCE_S)

    assert reader.closed == 1
    assert intake.read(0.0) is None
