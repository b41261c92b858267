"""What the viewer of a simulation sees and presses: one screen that is redrawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge_simulator.disk import can_fill
from edge_simulator.fleet.config import (
    ClockJump,
    Cut,
    DiskFull,
    Drop,
    FaultConfig,
    HalfOpen,
    PowerOff,
    Update,
)
from edge_simulator.fleet.faults import by_hand
from edge_simulator.fleet.load import Fault
from edge_simulator.fleet.pace import Pacer, Speed
from edge_simulator.fleet.play import Running
from edge_simulator.fleet.spans import span_text
from edge_simulator.keys import Keys
from edge_simulator.screen import (
    PANEL_LINES,
    Face,
    LiveScreen,
    device_panel,
    events_panel,
    faults_text,
    head_panel,
    link_text,
    sparkline,
)

__all__ = ["Ended", "Screen", "keys_of", "looked_at", "render"]

_EVENTS = 8
_FRAME_LINES = 8
_SHORT = 24
_SECOND_NS = 1_000_000_000
_UNTIL_PRESSED = "0s"

_BY_KEY: Mapping[str, tuple[str, FaultConfig]] = {
    "c": ("cut", Cut(lasts=_UNTIL_PRESSED)),
    "h": ("half open", HalfOpen(lasts=_UNTIL_PRESSED)),
    "d": ("drop", Drop()),
    "o": ("power off", PowerOff(lasts=_UNTIL_PRESSED)),
    "t": ("clock +1 h", ClockJump(seconds=3600.0)),
    "f": ("disk full", DiskFull(lasts=_UNTIL_PRESSED)),
}
_OFFER = "u"
_SPEEDS: Mapping[str, tuple[str, Speed]] = {
    "1": ("1x", 1.0),
    "2": ("10x", 10.0),
    "0": ("as fast as possible", None),
}


class Ended(Exception):
    """The viewer pressed q."""


class Screen:
    """Shows a fleet and does what keys ask for; used by the thread that plays it.

    Args:
        running: What is shown, and interfered with.
        pacer: Changed by keys.
        keys: What is pressed.
        console: A terminal.
    """

    def __init__(self, running: Running, pacer: Pacer, keys: Keys, console: Console) -> None:
        self._running = running
        self._pacer = pacer
        self._keys = keys
        self._console = console
        self._live = LiveScreen(self._drawing, console)
        self._offered = 0
        self.selected = 0

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__()

    def show(self, _elapsed_ns: int) -> None:
        """Do what was pressed, and redraw at most eight times a second.

        Raises:
            Ended: The viewer has seen enough.
        """
        if self._live.is_due:
            for key in self._keys.pressed():
                self.press(key)
            self._live.refresh()

    def press(self, key: str) -> None:
        """Do what one key stands for; nothing for any other.

        Raises:
            Ended: It was q.
        """
        if key == "q":
            raise Ended
        names = list(self._running.troubles)
        if key in "jk":
            self.selected = (self.selected + (1 if key == "j" else -1)) % len(names)
        elif key in keys_of(self._running):
            self._running.toggle(names[self.selected], self._fault(key))
        elif key == " ":
            self._pacer.pause(self._running.elapsed_ns)
        elif key in speeds_of(self._running):
            self._pacer.set(_SPEEDS[key][1], self._running.elapsed_ns)

    def _fault(self, key: str) -> Fault:
        """Return what a key stands for; updates take turns, in the order of the file."""
        if key != _OFFER:
            return by_hand(_BY_KEY[key][1])
        offers = _offers(self._running)
        self._offered += 1
        return offers[(self._offered - 1) % len(offers)]

    def _drawing(self) -> RenderableType:
        return render(
            self._running, self._pacer, selected=self.selected, height=self._console.height
        )


def keys_of(running: Running) -> Mapping[str, str]:
    """Return the keys of the faults that can be made by hand in this way of running, in words."""
    keys = {key: words for key, (words, _) in _BY_KEY.items()}
    if running.fleet.mode == "processes" and not can_fill():
        del keys["f"]
    return keys | ({_OFFER: "offer update"} if _offers(running) else {})


def speeds_of(running: Running) -> Sequence[str]:
    """Return the keys of the speeds that this way of running has."""
    return [key for key in _SPEEDS if key != "0" or running.fleet.mode == "fast"]


def _offers(running: Running) -> Sequence[Fault]:
    """Return the updates of the fleet's file, for whoever offers one by hand."""
    return [fault for fault in running.fleet.faults if isinstance(fault.config, Update)]


# --- drawing ----------------------------------------------------------------------------


def render(
    running: Running, pacer: Pacer, *, selected: int = 0, height: int = 40
) -> RenderableType:
    """Draw everything on at most ``height`` lines, as far as that is possible."""
    room = max(3, height - _EVENTS - _FRAME_LINES)
    faces = [looked_at(running, Face(name=name)) for name in running.troubles]
    events = [_event(entry) for entry in running.journal.entries[-_EVENTS:]]
    return Group(
        _head(running, pacer),
        _panels(faces, selected)
        if PANEL_LINES * len(faces) <= room
        else _table(faces, selected, room),
        events_panel(events, _EVENTS),
        _help(running),
    )


def looked_at(running: Running, face: Face) -> Face:
    """Return a device's face as it is now."""
    name, ledger = face.name, running.ledger
    return msgspec.structs.replace(
        face,
        pid=running.pid_of(name),
        faults=running.troubles[name].kinds,
        is_linked=ledger.is_linked[name],
        backlog_rows=ledger.backlog[name],
        runs=ledger.runs.get(name, ""),
        decision=ledger.last_decision.get(name, ""),
        answers=tuple(ledger.recent[name]),
    )


def _head(running: Running, pacer: Pacer) -> RenderableType:
    fleet = running.fleet
    elapsed = span_text(running.elapsed_ns // _SECOND_NS * _SECOND_NS)
    speed = "as fast as possible" if pacer.speed is None else f"{pacer.speed:g}x"
    return head_panel(
        f"{fleet.name} · {fleet.mode}",
        f"{elapsed} of {span_text(fleet.duration_ns)}",
        Text("paused", "bold yellow") if pacer.is_paused else speed,
        done=running.elapsed_ns,
        total=fleet.duration_ns,
    )


def _panels(faces: Sequence[Face], selected: int) -> RenderableType:
    chosen = [i == selected and len(faces) > 1 for i in range(len(faces))]
    return Group(
        *(device_panel(face, is_chosen=each) for face, each in zip(faces, chosen, strict=True))
    )


def _table(faces: Sequence[Face], selected: int, room: int) -> RenderableType:
    first = max(0, min(selected - room // 2, len(faces) - room))
    table = Table(expand=True, box=None, padding=(0, 1))
    for title in ("", "device", "answers", "last decision", "link", "backlog", "faults"):
        table.add_column(title, no_wrap=True, justify="right" if title == "backlog" else "left")
    for i, face in enumerate(faces[first : first + room], start=first):
        table.add_row("▸" if i == selected else "", *_cells(face))
    return table


def _cells(face: Face) -> Sequence[RenderableType]:
    now = f" {face.answers[-1]:.2f}" if face.answers else ""
    return (
        Text(face.name, "bold"),
        Text(sparkline(face.answers[-_SHORT:]), "cyan") + Text(now),
        Text(face.decision or "none yet"),
        link_text(face),
        Text(str(face.backlog_rows)),
        faults_text(face),
    )


def _event(entry: Mapping[str, object]) -> Text:
    at_ns = int(str(entry["at_ns"]))
    facts = " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in entry.items()
        if key not in ("at_ns", "event", "device", "time_ns", "number", "effective_id")
    )
    line = Text(f"{span_text(at_ns // _SECOND_NS * _SECOND_NS):>16}  ", "dim")
    line.append(f"{entry['device']}  {entry['event']}  {facts}")
    return line


def _help(running: Running) -> Text:
    faults = [f"{key} {words}" for key, words in keys_of(running).items()]
    speeds = [f"{key} {_SPEEDS[key][0]}" for key in speeds_of(running)]
    return Text(" · ".join(["j k device", *faults, "space pause", *speeds, "q quit"]), "dim")
