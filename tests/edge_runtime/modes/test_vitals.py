"""Signs of life cross from one process to another, and outlive the one that wrote them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from edge_runtime.modes.vitals import Vitals
from edge_runtime.modes.watchdog import Watchdog

WRITER = """
import os, signal, sys
from edge_runtime.modes.vitals import Vitals
vitals = Vitals(int(sys.argv[1]))
vitals.tell(2.5, {"a": "base-a", "b": "base-b"})
vitals.enter(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_dead_process_wrote_is_read() -> None:
    """After SIGKILL the page tells limit, bases, and in whose call the process died."""
    vitals, page = Vitals.make()

    done = subprocess.run([sys.executable, "-c", WRITER, str(page)], pass_fds=(page,), check=False)

    os.close(page)
    assert done.returncode == -signal.SIGKILL
    assert (vitals.limit_s, vitals.beats, vitals.busy) == (2.5, 1, 1)
    assert vitals.bases == {"a": "base-a", "b": "base-b"}
    assert vitals.busy_bases() == {"b": "base-b"}


def test_a_page_nobody_wrote_tells_nothing() -> None:
    """A device that died before it spoke is blamed for nothing."""
    vitals = Vitals()

    assert (vitals.limit_s, vitals.beats, vitals.busy) == (None, 0, None)
    assert vitals.bases == vitals.busy_bases() == {}


@pytest.mark.parametrize("damage", [b"\xff", b"\n\n", b" x y "])
def test_a_damaged_page_blames_nobody(damage: bytes) -> None:
    """Whatever a device writes when its heap is broken, its supervisor goes on."""
    vitals = Vitals()
    vitals.tell(1.0, {"a": "base-a"})

    vitals._page[24 : 24 + len(damage)] = damage

    assert vitals.bases == {}


def test_a_call_that_ended_blames_nobody() -> None:
    """Between two calls no stream is busy."""
    vitals = Vitals()
    vitals.tell(1.0, {"a": "base-a"})

    vitals.enter(0)
    vitals.leave()

    assert (vitals.busy, vitals.busy_bases()) == (None, {})


def test_loads_may_overlap() -> None:
    """A page says that a model is loaded until the last of several loads has ended."""
    vitals = Vitals()

    with vitals.loading():
        with vitals.loading():
            assert vitals.is_loading
        assert vitals.is_loading

    assert not vitals.is_loading


@pytest.mark.parametrize("number", [254, 300, 65535])
def test_more_streams_than_the_page_names(number: int) -> None:
    """A stream beyond the last number that fits is not taken for another one."""
    vitals = Vitals()

    vitals.enter(number)

    assert vitals.busy is None


def test_names_that_do_not_fit_are_left_out() -> None:
    """A table too long for the page is no table, rather than half of one."""
    vitals = Vitals()

    vitals.tell(1.0, {f"stream-{i}": "0" * 64 for i in range(2000)})

    assert vitals.bases == {}
    assert vitals.limit_s == 1.0


# --- the watchdog ----------------------------------------------------------------------


def _watched(limit_s: float = 10.0) -> tuple[Vitals, Watchdog, list[int]]:
    vitals = Vitals()
    interrupted: list[int] = []

    def interrupt(number: int) -> bool:
        interrupted.append(number)
        return True

    return vitals, Watchdog(vitals, limit_s=limit_s, interrupt=interrupt), interrupted


def test_a_call_that_lasts_is_interrupted_once_a_limit() -> None:
    """The stream in the call is told to stop when the limit is over, not before."""
    vitals, watchdog, interrupted = _watched()
    vitals.enter(3)

    for now_s in (0.0, 9.9):
        watchdog.check(now_s)
    assert interrupted == []
    for now_s in (10.0, 15.0, 19.9):
        watchdog.check(now_s)

    assert interrupted == [3]
    watchdog.check(20.0)
    assert interrupted == [3, 3]


def test_short_calls_and_idleness_are_let_alone() -> None:
    """Many calls one after the other are no long one, and no call at all is none."""
    vitals, watchdog, interrupted = _watched()

    for now_s in range(0, 60, 6):
        vitals.enter(0)
        watchdog.check(now_s)
        vitals.leave()
        vitals.beat()
    for now_s in range(60, 120, 6):
        watchdog.check(now_s)

    assert interrupted == []
