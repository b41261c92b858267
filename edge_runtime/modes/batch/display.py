"""Progress on a terminal, as one line; elsewhere a line every few seconds."""

from __future__ import annotations

from typing import TextIO

from edge_runtime.modes.batch.run import Progress
from edge_runtime.ports import Clock

__all__ = ["Display"]

_BAR = 24
_REDRAW_NS = 200_000_000
_LINE_NS = 5_000_000_000


class Display:
    """Shows how far a run is.

    Args:
        stream: Where to, such as standard error.
        clock: For the pace of lines.
    """

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._shown_ns = clock.monotonic_ns()
        self._width = 0

    def show(self, progress: Progress) -> None:
        """Show this, unless something was shown just now."""
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._shown_ns < (_REDRAW_NS if self._is_terminal else _LINE_NS):
            return
        self._shown_ns = now_ns
        if self._is_terminal:
            text = line_of(progress, bar=True)
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(line_of(progress, bar=False) + "\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()


def line_of(progress: Progress, *, bar: bool) -> str:
    """Say percent, rows, rate and time to go."""
    full = round(_BAR * progress.share)
    drawn = f"[{'#' * full}{'-' * (_BAR - full)}] " if bar else ""
    total = "" if progress.total is None else f" of {progress.total:,}"
    left = progress.remaining_s
    eta = "" if left is None else f", {_duration(left)} to go"
    return (
        f"{drawn}{100 * progress.share:3.0f} %, {progress.rows:,}{total} rows, "
        f"{progress.rows_per_s:,.0f} rows/s{eta}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
