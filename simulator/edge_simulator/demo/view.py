"""What the viewer sees: one screen that is redrawn, or lines when there is no terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

__all__ = ["DeviceScene", "LineView", "LiveView", "Scene", "View", "render", "sparkline"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARK_POINTS = 48
_EVENT_LINES = 12
_OTHER_LINES = 24
_REDRAW_HZ = 8
_LINE_S = 5.0


class DeviceScene:
    """One device as the viewer sees it; written by the driver, read when drawing."""

    def __init__(self, name: str, what: str, unit: str = "", signal_unit: str = "") -> None:
        self.name = name
        self.what = what
        self.unit = unit
        self.signal_unit = signal_unit
        self.pid: int | None = None
        self.is_alive = False
        self.is_connected = False
        self.backlog_rows = 0
        self.base = ""
        self.layers = ""
        self.decision = ""
        self.signal: deque[float] = deque(maxlen=_SPARK_POINTS)
        self.answers: deque[float] = deque(maxlen=_SPARK_POINTS)


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

    def __init__(self, days: int, devices: Sequence[DeviceScene]) -> None:
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, leaving the terminal as it was."""
        ...

    def refresh(self) -> None:
        """Show what changed; cheap enough to be called at every step."""
        ...


class LiveView:
    """Redraws one screen; rich's own thread is not used, so that drawing never races."""

    def __init__(self, scene: Scene, console: Console) -> None:
        self._scene = scene
        self._console = console
        self._live = Live(self._drawing(), console=console, auto_refresh=False)
        self._drawn = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.update(self._drawing(), refresh=True)
        self._live.stop()

    def refresh(self) -> None:
        """Redraw, at most eight times a second."""
        now = time.monotonic()
        if now - self._drawn >= 1 / _REDRAW_HZ:
            self._drawn = now
            self._live.update(self._drawing(), refresh=True)

    def _drawing(self) -> RenderableType:
        return render(self._scene, self._console.height)


class LineView:
    """Prints each event once, and a line of progress every few seconds."""

    def __init__(self, scene: Scene, console: Console) -> None:
        self._scene = scene
        self._console = console
        self._shown: tuple[float, int, str, str] | None = None
        self._printed_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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


def render(scene: Scene, height: int = 32) -> RenderableType:
    """Draw the whole screen on at most ``height`` lines, as far as that is possible."""
    return Group(
        _head(scene),
        *(_device(device) for device in scene.devices),
        _facts(scene),
        _events(scene, max(2, min(_EVENT_LINES, height - _OTHER_LINES))),
    )


def sparkline(values: Sequence[float]) -> str:
    """Draw values as a row of blocks, from their lowest to their highest."""
    if not len(values):
        return ""
    array = np.asarray(values, dtype=np.float64)
    low, high = np.nanmin(array), np.nanmax(array)
    if not high > low:
        return _BLOCKS[3] * len(array)
    levels = np.nan_to_num((array - low) / (high - low) * (len(_BLOCKS) - 1), nan=0.0)
    return "".join(_BLOCKS[round(level)] for level in levels)


# --- parts of the screen -------------------------------------------------------------


def _head(scene: Scene) -> RenderableType:
    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    remaining_s = scene.remaining_s()
    left = f"{scene.year or '----'}  day {scene.day} of {scene.days}"
    right = f"{scene.seconds:4.0f} s" + (f", {remaining_s:.0f} s to go" if remaining_s else "")
    line.add_row(
        Text(left, "bold"), ProgressBar(total=max(1, scene.days), completed=scene.day), right
    )
    return Panel(line, title=f"edge-runtime demo · {scene.phase}", title_align="left")


def _device(device: DeviceScene) -> RenderableType:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(style="dim", no_wrap=True, width=9)
    grid.add_column(no_wrap=True, ratio=1)
    if device.signal:
        now = f"  {device.signal[-1]:.1f} {device.signal_unit}"
        grid.add_row("signal", Text(sparkline(device.signal), "dim") + Text(now, "dim"))
    if device.answers:
        now = f"  {device.answers[-1]:.2f} {device.unit}"
        grid.add_row("answer", Text(sparkline(device.answers), "cyan") + Text(now, "bold"))
    grid.add_row("decision", Text(device.decision or "none yet"))
    grid.add_row("runs", Text(f"{device.base}  {device.layers}".strip() or "starting"))
    rows = device.backlog_rows
    waiting = f"{rows} rows wait on its disk" if rows else "no backlog"
    grid.add_row("link", _state(device) + Text(f"  {waiting}"))
    title = f"{device.name} · {device.what}" + (f" · pid {device.pid}" if device.pid else "")
    return Panel(grid, title=title, title_align="left")


def _state(device: DeviceScene) -> Text:
    if not device.is_alive:
        return Text("process down", "bold red")
    if device.is_connected:
        return Text("online", "green")
    return Text("offline, deciding", "bold yellow")


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


def _events(scene: Scene, count: int) -> RenderableType:
    lines = [_event_line(event) for event in list(scene.events)[-count:]]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    lines += [Text()] * (count - len(lines))
    return Panel(Group(*lines), title="what happened", title_align="left")


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
