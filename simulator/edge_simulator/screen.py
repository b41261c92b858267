"""What a viewer sees, in parts: `simulate` and the demo put their screens together from these."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Self

import msgspec
import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

__all__ = [
    "PANEL_LINES",
    "SPARK_POINTS",
    "Face",
    "LiveScreen",
    "device_panel",
    "events_panel",
    "faults_text",
    "head_panel",
    "link_text",
    "sparkline",
]

SPARK_POINTS = 48
"""Values of a sparkline in a panel."""
PANEL_LINES = 6
"""Lines of a `device_panel` with answers and without a signal."""

_BLOCKS = "▁▂▃▄▅▆▇█"
_REDRAW_S = 0.125


class Face(msgspec.Struct, frozen=True, kw_only=True):
    """One device as the viewer sees it.

    Attributes:
        name: Its id.
        what: What it does, in words.
        unit: Of its answers.
        signal_unit: Of its signal.
        pid: Of its process, if it has one.
        faults: What is wrong with it at present.
        is_linked: Whether it has its broker.
        backlog_rows: Rows on its disk.
        runs: Bases and layers, in words.
        decision: The last one, in words.
        signal: The newest values of one of its channels, oldest first.
        answers: Its newest answers, oldest first.
    """

    name: str
    what: str = ""
    unit: str = ""
    signal_unit: str = ""
    pid: int | None = None
    faults: tuple[str, ...] = ()
    is_linked: bool = False
    backlog_rows: int = 0
    runs: str = ""
    decision: str = ""
    signal: tuple[float, ...] = ()
    answers: tuple[float, ...] = ()


class LiveScreen:
    """Redraws one screen; rich's own thread is not used, so that drawing never races.

    Args:
        draw: Returns the whole screen.
        console: A terminal.
    """

    def __init__(self, draw: Callable[[], RenderableType], console: Console) -> None:
        self._draw = draw
        self._live = Live(console=console, auto_refresh=False)
        self._drawn_s = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.update(self._draw(), refresh=True)
        self._live.stop()

    @property
    def is_due(self) -> bool:
        """Whether it may be drawn again: at most eight times a second."""
        return time.monotonic() - self._drawn_s >= _REDRAW_S

    def refresh(self) -> None:
        """Redraw, if that is due."""
        if self.is_due:
            self._drawn_s = time.monotonic()
            self._live.update(self._draw(), refresh=True)


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


def head_panel(title: str, left: str, right: Text | str, *, done: float, total: float) -> Panel:
    """Draw how far something is."""
    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(justify="right", no_wrap=True)
    line.add_row(Text(left, "bold"), ProgressBar(total=max(1, total), completed=done), right)
    return Panel(line, title=title, title_align="left")


def device_panel(face: Face, *, is_chosen: bool = False) -> Panel:
    """Draw one device at its full size."""
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(style="dim", no_wrap=True, width=9)
    grid.add_column(no_wrap=True, ratio=1)
    if face.signal:
        now = f"  {face.signal[-1]:.1f} {face.signal_unit}"
        grid.add_row("signal", Text(sparkline(face.signal), "dim") + Text(now, "dim"))
    if face.answers:
        now = f"  {face.answers[-1]:.2f} {face.unit}"
        grid.add_row("answer", Text(sparkline(face.answers), "cyan") + Text(now, "bold"))
    grid.add_row("decision", Text(face.decision or "none yet"))
    grid.add_row("runs", Text(face.runs or "starting"))
    rows = face.backlog_rows
    waiting = f"  {rows} rows wait on its disk  " if rows else "  no backlog  "
    grid.add_row("link", link_text(face) + Text(waiting) + faults_text(face))
    parts = [face.name, face.what, f"pid {face.pid}" if face.pid else ""]
    title = ("▸ " if is_chosen else "") + " · ".join(part for part in parts if part)
    return Panel(grid, title=title, title_align="left")


def link_text(face: Face) -> Text:
    """Say whether a device has its broker, or no power."""
    if "power_off" in face.faults:
        return Text("no power", "bold red")
    if face.is_linked:
        return Text("online", "green")
    return Text("offline, deciding", "bold yellow")


def faults_text(face: Face) -> Text:
    """Say what is wrong with a device."""
    return Text(", ".join(dict.fromkeys(face.faults)).replace("_", " "), "bold yellow")


def events_panel(lines: Sequence[Text], count: int) -> Panel:
    """Draw the last ``count`` lines of what happened, each on one line."""
    shown = list(lines[-count:])
    for line in shown:
        line.no_wrap, line.overflow = True, "ellipsis"
    shown += [Text()] * (count - len(shown))
    return Panel(Group(*shown), title="what happened", title_align="left")
