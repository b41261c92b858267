"""A bar for runs that take longer than two seconds, where somebody looks."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from edge_simulator.fleet.load import Fleet
from edge_simulator.fleet.spans import span_text

__all__ = ["Progress"]

_PATIENCE_S = 2.0
_REDRAW_S = 0.2
_DAY_NS = 86_400_000_000_000


class Progress:
    """Shows how far a run is; nothing at all where standard error is no terminal.

    Args:
        fleet: What runs.
        console: Where to.
    """

    def __init__(self, fleet: Fleet, console: Console) -> None:
        self._console = console
        self._total_ns = fleet.duration_ns
        self._name = fleet.name
        self._shown_s = time.monotonic() + _PATIENCE_S - _REDRAW_S
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, elapsed_ns: int) -> None:
        """Show the simulated time so far, unless something was shown just now."""
        now_s = time.monotonic()
        if not self._console.is_terminal or now_s - self._shown_s < _REDRAW_S:
            return
        self._shown_s = now_s
        bar = self._bar = self._bar or self._begun()
        words = f"{self._name}: {span_text(elapsed_ns // _DAY_NS * _DAY_NS)}"
        bar.update(bar.task_ids[0], completed=elapsed_ns, description=words, refresh=True)

    def _begun(self) -> Bar:
        bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        bar.start()
        bar.add_task(self._name, total=self._total_ns)
        return bar
