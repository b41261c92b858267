"""The screen shows what is so, and a key does what the help line says."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from edge_simulator.fleet.engine import Engine
from edge_simulator.fleet.load import Fleet
from edge_simulator.fleet.pace import Pacer
from edge_simulator.fleet.processes import Processes
from edge_simulator.fleet.view import Ended, Screen, keys_of, render
from edge_simulator.keys import Keys

_SECOND_NS = 10**9


@pytest.fixture
def engine(make_fleet: Callable[..., Fleet], tmp_path: Path) -> Iterator[Engine]:
    """A fleet of two, half a minute after its start."""
    engine = Engine(make_fleet(), tmp_path / "run")
    engine.start()
    while engine.advance(30 * _SECOND_NS):
        pass
    yield engine
    engine.close()


@pytest.fixture
def pacer() -> Pacer:
    """Time that stands still on the wall."""
    return Pacer(1.0, lambda: 0.0)


@pytest.fixture
def screen(engine: Engine, pacer: Pacer) -> Screen:
    """A screen that nobody sees."""
    return Screen(engine, pacer, Keys(), Console(file=io.StringIO()))


def _drawn(engine: Engine, pacer: Pacer, height: int = 40) -> str:
    console = Console(width=120, height=height, record=True, file=io.StringIO())
    console.print(render(engine, pacer, height=height))
    return console.export_text()


def test_the_screen_says_who_does_what(engine: Engine, pacer: Pacer) -> None:
    """Time, speed, devices with answers, decisions, link, backlog, and the keys."""
    while engine.advance(118 * _SECOND_NS):
        pass

    text = _drawn(engine, pacer)

    for part in (
        "1min 58s of 2min",
        "1x",
        "pump-1",
        "pump-2",
        "online",
        "high",
        "▁",
        "space pause",
    ):
        assert part in text


def test_a_key_breaks_and_mends(engine: Engine, pacer: Pacer, screen: Screen) -> None:
    """The chosen device is cut off, says so, and is online again after the same key."""
    screen.press("j")
    screen.press("c")
    assert engine.troubles["pump-2"].kinds == ("cut",)
    cut = _drawn(engine, pacer)

    screen.press("c")

    assert "offline, deciding" in cut and "cut" in cut
    assert "offline" not in _drawn(engine, pacer)
    assert engine.troubles["pump-1"].kinds == ()


@pytest.mark.parametrize("key", ["h", "d", "o", "t", "f"])
def test_every_fault_key_may_be_pressed_twice(engine: Engine, screen: Screen, key: str) -> None:
    """Whatever it breaks is whole again, and the fleet goes on to lose nothing."""
    screen.press(key)
    screen.press(key)
    while engine.advance(60 * _SECOND_NS):
        pass

    counts = engine.finish().counts["pump-1"]

    assert (counts.rows_lost, counts.duplicates) == (0, 0)
    assert engine.troubles["pump-1"].kinds == ()


UPDATES = """\
faults:
  - {fault: update, at: 100s, stream: main, bundle: sum-2, signed_by: stranger}
  - {fault: update, at: 100s, stream: main, bundle: sum-2}
"""


def test_updates_of_the_file_can_be_offered_by_hand(
    make_fleet: Callable[..., Fleet], tmp_path: Path, pacer: Pacer
) -> None:
    """They take turns on the chosen device; a fleet without any has no such key."""
    engine = Engine(make_fleet(UPDATES), tmp_path / "run")
    engine.start()
    screen = Screen(engine, pacer, Keys(), Console(file=io.StringIO()))

    for key in "uju":
        screen.press(key)
    while engine.advance(30 * _SECOND_NS):
        pass

    updates = engine.ledger.updates
    assert updates["pump-1", "refused"] == updates["pump-2", "committed"] == 1
    assert "u offer update" in _drawn(engine, pacer)
    engine.close()


@pytest.mark.parametrize("is_possible", [True, False])
def test_every_fault_has_its_key_with_real_processes_too(
    make_fleet: Callable[..., Fleet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_possible: bool,
) -> None:
    """A full disk as well, wherever SQLite can be told of one."""
    monkeypatch.setattr("edge_simulator.fleet.view.can_fill", lambda: is_possible)
    fleet = make_fleet("mode: processes\nbroker: iotcore\n" + UPDATES)

    keys = keys_of(Processes(fleet, tmp_path))

    assert set(keys) == set("chdotu") | ({"f"} if is_possible else set())


def test_time_may_be_stopped_and_hurried(pacer: Pacer, screen: Screen) -> None:
    """Pause, go on, ten times as fast, and as fast as possible."""
    seen: list[object] = []
    for key in ("2", " ", " ", "0", "1", "x"):
        screen.press(key)
        seen.append("paused" if pacer.is_paused else pacer.speed)

    assert seen == [10.0, "paused", 10.0, None, 1.0, 1.0]


def test_q_ends_it(screen: Screen) -> None:
    """The viewer has seen enough."""
    with pytest.raises(Ended):
        screen.press("q")


def test_many_devices_fit_on_a_low_screen(
    make_fleet: Callable[..., Fleet], tmp_path: Path, pacer: Pacer
) -> None:
    """The chosen one is among those that are shown."""
    engine = Engine(make_fleet(edit=("count: 2", "count: 60")), tmp_path / "run")
    console = Console(width=120, height=24, record=True, file=io.StringIO())

    console.print(render(engine, pacer, selected=42, height=24))

    text = console.export_text()
    assert "pump-43" in text and "pump-1 " not in text
    assert len(text.splitlines()) <= 24
