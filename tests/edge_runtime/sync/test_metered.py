"""A metered day: what it allows, what survives a restart, and what a clock cannot do to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.ports import Message
from edge_runtime.sync.blocks import Block
from edge_runtime.sync.link import Link
from edge_runtime.sync.messages import BlobRequest, LastRow, encode
from edge_runtime.sync.metered import DAY_NS, DayBudget
from edge_runtime.sync.outbox import Batch, Outbox
from edge_runtime.sync.state import StateStore
from edge_runtime.testing.clock import FakeClock
from edge_runtime.types import Table

from .conftest import Cloud

LIMIT = 1_000_000
DAY_S = DAY_NS / 1e9


class Meter:
    """A budget that can be opened again, as after a crash."""

    def __init__(self, path: Path) -> None:
        self.clock = FakeClock()
        self.path = path
        self.open()

    def open(self) -> None:
        self.state = StateStore(self.path, self.clock)
        self.day = DayBudget(LIMIT, self.state, self.clock)

    def crash(self) -> None:
        self.state.close()
        self.open()

    @property
    def left(self) -> int:
        left = self.day.left_bytes
        assert left is not None
        return left


def test_a_day_ends_and_another_begins(tmp_path: Path) -> None:
    """The test's clock starts at midnight; a day later all is there again."""
    room = Meter(tmp_path / "state.db")
    room.day.spend(LIMIT)

    room.clock.advance(DAY_S - 1)
    assert not room.day.allows(1, is_urgent=True)
    assert room.day.renews_in_ns() == 10**9
    room.clock.advance(1)

    assert room.left == LIMIT


def test_a_quarter_is_kept_for_decisions(tmp_path: Path) -> None:
    """What is not urgent has three quarters, and what is urgent all."""
    room = Meter(tmp_path / "state.db")
    room.day.spend(LIMIT * 3 // 4)

    assert not room.day.allows(1, is_urgent=False)
    assert room.day.allows(LIMIT // 4, is_urgent=True)
    assert not room.day.allows(LIMIT // 4 + 1, is_urgent=True)


def test_a_crash_gives_nothing_back_and_costs_at_most_a_step(tmp_path: Path) -> None:
    """What is spent is on the disk before it is sent."""
    room = Meter(tmp_path / "state.db")
    for _ in range(500):
        room.day.spend(1000)

    room.crash()

    assert LIMIT // 2 - LIMIT // 64 - 1000 <= room.left <= LIMIT // 2


def test_a_clean_end_keeps_the_exact_remainder(tmp_path: Path) -> None:
    """Closing writes what was really spent."""
    room = Meter(tmp_path / "state.db")
    room.day.spend(1234)

    room.day.close()
    room.crash()

    assert room.left == LIMIT - 1234


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("spend"), st.integers(1, 200_000)),
            st.tuples(st.just("jump"), st.integers(-400, 400).map(lambda days: days * 86_400)),
            st.tuples(st.just("pass"), st.integers(0, 40_000)),
        ),
        max_size=30,
    )
)
def test_a_clock_that_jumps_gives_no_second_budget(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Between two renewals by elapsed time no more than the limit is allowed, whatever NTP does."""
    room = Meter(tmp_path_factory.mktemp("day") / "state.db")
    spent, passed = 0, 0
    for step, size in steps:
        if step == "jump":
            room.clock.jump(size)
        elif step == "pass":
            room.clock.advance(size)
            passed += size
        elif room.day.allows(size, is_urgent=True):
            room.day.spend(size)
            spent += size

    assert spent <= LIMIT * (1 + passed // 86_400)
    room.state.close()


def test_a_clock_that_comes_up_in_1970_goes_on_with_the_old_day(tmp_path: Path) -> None:
    """A board without a battery has no better budget after each power cut."""
    room = Meter(tmp_path / "state.db")
    room.day.spend(LIMIT)
    room.clock.jump(-43 * 365 * DAY_S)

    room.crash()
    assert room.left == 0
    room.clock.advance(DAY_S)

    assert room.left == LIMIT


def test_the_next_day_begins_while_the_device_is_off(tmp_path: Path) -> None:
    """A wall clock that is a day further at a start is believed."""
    room = Meter(tmp_path / "state.db")
    room.day.spend(LIMIT)
    room.state.close()
    room.clock.advance(DAY_S)

    room.open()

    assert room.left == LIMIT


def test_no_budget_writes_nothing(tmp_path: Path) -> None:
    """A link that costs nothing has no business with the disk."""
    state = StateStore(tmp_path / "state.db", FakeClock())
    day = DayBudget(None, state, FakeClock())

    day.spend(10**9)
    day.close()

    assert (day.left_bytes, state.keys()) == (None, ())
    assert day.allows(10**9, is_urgent=False)


# --- on a link ------------------------------------------------------------------------


def noise(n: int, stream: str, kind: str = "estimate", seed: int = 0) -> Batch:
    """A batch that hardly compresses: about 40 bytes a row."""
    random = np.random.default_rng(seed).random((n, 5))
    return Batch(stream, kind, Table({"x": np.arange(n), "noise": random}))


def test_decisions_pass_estimates_that_wait_for_tomorrow(
    make_link: Callable[..., Link],
    outbox: Outbox,
    cloud: Cloud,
    commit: Callable[..., None],
    clock: FakeClock,
) -> None:
    """Estimates take three quarters of the day and wait; decisions made later still go."""
    link = make_link(bytes_per_day=262_144)
    commit(outbox, *(noise(400, "main", seed=seed) for seed in range(40)))
    turns(link, cloud)
    waiting = outbox.rows
    assert waiting > 0

    commit(outbox, noise(10, "main-decisions", "decision"))
    turns(link, cloud)

    assert outbox.rows == waiting
    assert len(cloud.rows[(7, 1, "main-decisions")]) == 10
    clock.advance(DAY_S)
    turns(link, cloud)
    assert outbox.rows < waiting


def test_a_spent_day_leaves_life_and_acknowledgements(
    make_link: Callable[..., Link],
    outbox: Outbox,
    cloud: Cloud,
    commit: Callable[..., None],
    clock: FakeClock,
) -> None:
    """Newest answers and reports wait, and come when the next day begins."""
    link = make_link(bytes_per_day=262_144)
    turns(link, cloud)
    link._day.spend(262_144)
    cloud.heard.clear()
    commit(outbox, noise(10, "main"))

    link.send(Message("er/1/d/pump/up/blob", encode(BlobRequest("pump", "a" * 64, 0, 1))))
    link.show("main", lambda: LastRow(1, {"a": 1.0}))
    link.announce(base={}, effective={}, runtime="2")
    turns(link, cloud)

    assert leaves(cloud) == ["life"]
    clock.advance(DAY_S)
    turns(link, cloud)
    assert {"blob", "last", "tel"} <= set(leaves(cloud))


def turns(link: Link, cloud: Cloud) -> None:
    for _ in range(8):
        link.step(0.0)
        cloud.step()


def leaves(cloud: Cloud) -> list[str]:
    return [message.topic.split("/")[5] for message in cloud.heard]


def test_a_backlog_without_decisions_is_looked_through_once(
    make_link: Callable[..., Link],
    outbox: Outbox,
    cloud: Cloud,
    commit: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A spent day with a full outbox costs no scan of it at every commit."""
    link = make_link(bytes_per_day=262_144)
    link._day.spend(262_144 * 3 // 4)
    commit(outbox, *(noise(10, "main", seed=seed) for seed in range(20)))
    turns(link, cloud)
    asked = []
    pending = outbox.pending

    def noted(after: int, limit_bytes: int, *, which: str) -> list[Block]:
        asked.append((which, after))
        return pending(after, limit_bytes, which=which)

    monkeypatch.setattr(outbox, "pending", noted)
    newest = outbox.newest_id()
    commit(outbox, noise(10, "main-decisions", "decision"))
    turns(link, cloud)

    assert min(after for which, after in asked if which == "decisions") >= newest
    assert len(cloud.rows[(7, 1, "main-decisions")]) == 10
