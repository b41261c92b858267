"""Each instant is done once, whatever dies, sleeps or runs beside it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import EdgeError
from edge_runtime.modes.schedule import History, Job, Scheduler, When
from edge_runtime.testing.clock import FakeClock

HOUR_NS = 3600 * 10**9
START_NS = 1_356_998_400 * 10**9


class Site:
    """A history, a clock, and a job every hour that notes what it was run for."""

    def __init__(self, folder: Path, **when: object) -> None:
        self.clock = FakeClock(START_NS + 1)
        self.path = folder / "schedule.db"
        self.done: list[int] = []
        self.when = When(every_s=3600, **when)  # type: ignore[arg-type]
        self.fails = False

    def run(self, planned_ns: int) -> str:
        self.done.append((planned_ns - START_NS) // HOUR_NS)
        if self.fails:
            raise EdgeError("the disk is gone", where="job", expected="a disk", remedy="Buy one.")
        return "fine"

    def open(self) -> tuple[History, Scheduler]:
        history = History(self.path, self.clock)
        return history, Scheduler([Job("hourly", self.when, self.run)], history, self.clock)

    def look(self) -> None:
        """Start, do what is due, and end."""
        history, scheduler = self.open()
        with closing(history):
            scheduler.run_due()


def test_nothing_is_due_before_the_first_instant(tmp_path: Path) -> None:
    """A job that was just written down has missed nothing."""
    site = Site(tmp_path, catch_up="each")

    site.look()
    site.clock.advance(3598)
    site.look()

    assert site.done == []


@pytest.mark.parametrize(
    ("catch_up", "expected"), [("latest", [5]), ("each", [1, 2, 3, 4, 5]), ("none", [])]
)
def test_what_a_downtime_missed_is_made_up_for_as_asked(
    tmp_path: Path, catch_up: str, expected: list[int]
) -> None:
    """Five hours and a half away; what is let go is counted."""
    site = Site(tmp_path, catch_up=catch_up)
    site.look()
    site.clock.advance(5.5 * 3600)

    site.look()
    site.look()

    assert site.done == expected
    history, _ = site.open()
    with closing(history):
        skipped = [run.told for run in history.runs() if run.outcome == "skipped"]
    assert skipped == ([] if catch_up == "each" else [f"{5 - len(expected)} missed"])


def test_on_time_is_not_missed(tmp_path: Path) -> None:
    """With `none`, a job begins within a minute of its instant or not at all."""
    site = Site(tmp_path, catch_up="none")
    site.look()
    site.clock.advance(3600 + 30)

    site.look()

    assert site.done == [1]


def test_a_failure_is_noted_and_the_next_instant_comes_all_the_same(tmp_path: Path) -> None:
    """A failed run is over; it is not tried again and again."""
    site = Site(tmp_path)
    site.fails = True
    site.look()
    for _ in range(2):
        site.clock.advance(3600)
        site.look()
        site.look()

    history, _ = site.open()
    with closing(history):
        runs = history.runs()
    assert site.done == [1, 2]
    assert [run.outcome for run in runs] == ["failed", "failed"]
    assert "the disk is gone" in runs[0].told


@given(st.lists(st.floats(-20_000, 20_000), max_size=15))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_clock_that_jumps_repeats_nothing(
    tmp_path_factory: pytest.TempPathFactory, jumps: list[float]
) -> None:
    """Back and forth by hours: no instant is done twice, and they are done in order."""
    site = Site(tmp_path_factory.mktemp("site"), catch_up="each")
    site.look()

    for jump in jumps:
        site.clock.jump(jump)
        site.look()

    assert site.done == sorted(set(site.done))


def test_two_processes_do_not_do_one_job(tmp_path: Path) -> None:
    """While one has the lock, the other leaves the job alone."""
    site = Site(tmp_path)
    first, _ = site.open()
    site.clock.advance(3600)

    with closing(first), first.locked("hourly") as is_mine:
        site.look()

        assert is_mine
        assert site.done == []
    site.look()
    assert site.done == [1]


_DIES = """
import os, signal, sys
from pathlib import Path
from edge_runtime.modes.schedule import History, Job, Scheduler, When
from edge_runtime.testing.clock import FakeClock
clock = FakeClock(int(sys.argv[2]))
history = History(Path(sys.argv[1]), clock)
def run(planned_ns):
    os.kill(os.getpid(), signal.SIGKILL)
Scheduler([Job("hourly", When(every_s=3600, catch_up="each"), run)], history, clock).run_due()
"""


def test_what_was_killed_in_the_middle_is_done_again(tmp_path: Path) -> None:
    """The lock is free, the run counts as interrupted, and it comes before what followed."""
    site = Site(tmp_path, catch_up="each")
    site.look()
    site.clock.advance(3600)
    argv = [sys.executable, "-c", _DIES, str(site.path), str(site.clock.now_ns())]
    killed = subprocess.run(argv, check=False).returncode
    site.clock.advance(3600)

    site.look()

    assert killed == -signal.SIGKILL
    assert site.done == [1, 2]


def test_the_next_instant_of_all_jobs_is_known(tmp_path: Path) -> None:
    """So that somebody can wait for it."""
    site = Site(tmp_path)
    history = History(site.path, site.clock)

    with closing(history):
        jobs = [
            Job("a", When(every_s=7200), site.run),
            Job("b", When(every_s=3600), site.run),
        ]
        scheduler = Scheduler(jobs, history, site.clock)
        assert scheduler.next_ns() == START_NS + HOUR_NS
        assert scheduler.next_of(jobs[0]) == START_NS + 2 * HOUR_NS
        assert Scheduler([], history, site.clock).next_ns() is None


def test_several_jobs_go_in_the_order_of_their_instants(tmp_path: Path) -> None:
    """And a wish to stop is heard between two of them."""
    site = Site(tmp_path)
    done: list[str] = []

    def noting(name: str) -> Callable[[int], str]:
        return lambda _: done.append(name) or name

    history = History(site.path, site.clock)
    with closing(history):
        jobs = [
            Job("late", When(every_s=3600), noting("late")),
            Job("early", When(every_s=1800, catch_up="each"), noting("early")),
        ]
        scheduler = Scheduler(jobs, history, site.clock)
        site.clock.advance(3600)
        count = scheduler.run_due(lambda: len(done) == 2)

    assert count == 2
    assert done[0] == "early"
