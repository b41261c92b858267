"""What the viewer sees: one screen that is redrawn, or lines when there is no terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edge_simulator.screen import Face, LiveScreen, device_panel, events_panel, head_panel

__all__ = ["LineView", "Scene", "View", "live_view", "render"]

_EVENT_LINES = 12
_OTHER_LINES = 24
_LINE_S = 5.0


class Scene:
    """Everything on the screen.

    Attributes:
        phase: What is going on, in words.
        day: Simulated days done.
        days: Simulated days in all.
        year: Of the row being replayed.
        rows: Rows released so far.
        devices: In order.
        committed: Updates committed.
        refused: Updates refused.
        bytes_up: From the devices.
        bytes_down: To the devices.
        is_link_up: Whether the link is forwarding.
        hybrid_error: Mean absolute error of the answers last seen, or None.
        alone_error: The same for the network alone.
        keys: Help line; empty when nobody can press a key.
    """

    def __init__(self, days: int, devices: Sequence[Face]) -> None:
        self.phase = "starting"
        self.day = 0
        self.days = days
        self.year = 0
        self.rows = 0
        self.devices = list(devices)
        self.committed = 0
        self.refused = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.is_link_up = True
        self.hybrid_error: float | None = None
        self.alone_error: float | None = None
        self.keys = ""
        self.events: deque[tuple[float, int, str, str]] = deque(maxlen=200)
        self._began = time.monotonic()
        self._pace: deque[tuple[float, int, int]] = deque(maxlen=40)

    @property
    def seconds(self) -> float:
        """Time since the demo began, s."""
        return time.monotonic() - self._began

    def tell(self, text: str, style: str = "") -> None:
        """Add a line to the event log."""
        self.events.append((self.seconds, self.day, text, style))

    def note_progress(self, day: int, rows: int) -> None:
        """Set how far the replay is; rates and the remaining time follow from it."""
        self.day, self.rows = day, rows
        if not self._pace or self.seconds - self._pace[-1][0] > 0.2:
            self._pace.append((self.seconds, day, rows))

    def rates(self) -> tuple[float, float]:
        """Return days and rows a second over the last seconds."""
        if len(self._pace) < 2:
            return 0.0, 0.0
        (first_s, first_day, first_rows), (last_s, last_day, last_rows) = (
            self._pace[0],
            self._pace[-1],
        )
        span_s = max(1e-3, last_s - first_s)
        return (last_day - first_day) / span_s, (last_rows - first_rows) / span_s

    def remaining_s(self) -> float | None:
        """Return the time to the end at the present pace, or None when there is none."""
        days_per_s, _ = self.rates()
        return (self.days - self.day) / days_per_s if days_per_s > 0.5 else None


class View(Protocol):
    """Shows a scene; used as a context by the driver's thread."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(self, *_: object) -> None:
        """End, leaving the terminal as it was."""
        ...

    def refresh(self) -> None:
        """Show what changed; cheap enough to be called at every step."""
        ...


class LineView:
    """Prints each event once, and a line of progress every few seconds."""

    def __init__(self, scene: Scene, console: Console) -> None:
        self._scene = scene
        self._console = console
        self._shown: tuple[float, int, str, str] | None = None
        self._printed_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._print_events()

    def refresh(self) -> None:
        """Print what is new."""
        self._print_events()
        if self._scene.seconds - self._printed_s >= _LINE_S:
            self._printed_s = self._scene.seconds
            self._console.print(_progress_line(self._scene), soft_wrap=True)

    def _print_events(self) -> None:
        events = list(self._scene.events)
        start = events.index(self._shown) + 1 if self._shown in events else 0
        for event in events[start:]:
            self._console.print(_event_line(event), soft_wrap=True)
            self._shown = event


def live_view(scene: Scene, console: Console) -> LiveScreen:
    """Return a view that redraws one screen."""
    return LiveScreen(lambda: render(scene, console.height), console)


def render(scene: Scene, height: int = 32) -> RenderableType:
    """Draw the whole screen on at most ``height`` lines, as far as that is possible."""
    return Group(
        _head(scene),
        *(device_panel(face) for face in scene.devices),
        _facts(scene),
        events_panel(
            [_event_line(event) for event in scene.events],
            max(2, min(_EVENT_LINES, height - _OTHER_LINES)),
        ),
    )


# --- parts of the screen -------------------------------------------------------------


def _head(scene: Scene) -> RenderableType:
    remaining_s = scene.remaining_s()
    return head_panel(
        f"edge-runtime demo · {scene.phase}",
        f"{scene.year or '----'}  day {scene.day} of {scene.days}",
        f"{scene.seconds:4.0f} s" + (f", {remaining_s:.0f} s to go" if remaining_s else ""),
        done=scene.day,
        total=scene.days,
    )


def _facts(scene: Scene) -> RenderableType:
    days_per_s, rows_per_s = scene.rates()
    cells = [
        ("pace", f"{days_per_s:.1f} days/s, {rows_per_s:.0f} rows/s"),
        ("updates", f"{scene.committed} live, {scene.refused} refused"),
        ("traffic", f"{_size(scene.bytes_up)} up, {_size(scene.bytes_down)} down"),
        ("error", _error(scene)),
    ]
    grid = Table.grid(padding=(0, 2))
    grid.add_row(*(Text(f"{name} ", "dim") + Text(value) for name, value in cells[:3]))
    tail = Text("error of late  ", "dim") + Text(cells[3][1])
    link = Text("link up", "green") if scene.is_link_up else Text("LINK CUT", "bold yellow")
    help_line = Text(f"   {scene.keys}", "dim") if scene.keys else Text()
    return Panel(Group(grid, tail, link + help_line), title="cloud and link", title_align="left")


def _error(scene: Scene) -> str:
    if scene.hybrid_error is None or scene.alone_error is None:
        return "labels come a day late"
    return f"network alone {scene.alone_error:.1f}, with layers {scene.hybrid_error:.1f} mg/m³"


def _event_line(event: tuple[float, int, str, str]) -> Text:
    seconds, day, text, style = event
    return Text(f"{seconds:6.1f} s  day {day:3d}  ", "dim") + Text(text, style, overflow="fold")


def _progress_line(scene: Scene) -> Text:
    days_per_s, _ = scene.rates()
    backlog = scene.devices[0].backlog_rows if scene.devices else 0
    return Text(
        f"{scene.seconds:6.1f} s  day {scene.day:3d} of {scene.days}, {days_per_s:.1f} days/s, "
        f"{scene.committed} updates live, backlog {backlog} rows; error {_error(scene)}",
        "dim",
    )


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
