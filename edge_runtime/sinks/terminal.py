"""Results as lines for people."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, TextIO

import msgspec
from msgspec import Meta

from edge_runtime.clock import SystemClock
from edge_runtime.errors import Rejected
from edge_runtime.identity import decision_id
from edge_runtime.ports import Clock
from edge_runtime.quality import names_of_mask
from edge_runtime.sinks.rows import id_device
from edge_runtime.types import Decision, Estimates, Output

__all__ = ["TerminalConfig", "TerminalSink"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COLOURS = {"start": "\x1b[1;31m", "end": "\x1b[1;32m"}
_PLAIN = "\x1b[0m"


class TerminalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the terminal.

    Attributes:
        colour: ``auto`` colours on a terminal alone.
        estimates: Whether the latest estimate is shown.
        every_s: Shortest time between two estimates of a stream.
    """

    colour: Literal["auto", "always", "never"] = "auto"
    estimates: bool = True
    every_s: Annotated[float, Meta(ge=0)] = 1.0


class TerminalSink:
    """Writes one line for every decision, and now and then the latest estimate.

    A decision's line ends with what it is called, for ``edge-runtime explain``.

    Delivery: estimates between two lines are not shown. Thread: one.

    Args:
        config: Options.
        output: Where to; None for the standard output at `open`.
        clock: Paces the estimates.
    """

    Config = TerminalConfig

    def __init__(
        self, config: TerminalConfig, *, output: TextIO | None = None, clock: Clock | None = None
    ) -> None:
        self._config = config
        self._given = output
        self._output: TextIO | None = None
        self._clock = clock or SystemClock()
        self._device, self._epoch = "", 0
        self._is_coloured = False
        self._shown_ns: dict[str, int] = {}

    def open(self, device: str, *, epoch: int = 0) -> None:
        """Find out whether the output is a terminal."""
        output = self._given or sys.stdout
        is_terminal = output.isatty()
        self._is_coloured = self._config.colour == "always" or (
            self._config.colour == "auto" and is_terminal
        )
        self._shown_ns.clear()
        self._device, self._epoch = device, epoch
        self._output = output

    def write(self, output: Output) -> None:
        """Show what a person wants to see of one block.

        Raises:
            Rejected: The terminal is gone, or the sink is not open.
        """
        name = output.device or output.stream
        device = id_device(self._device, output)
        lines = [self._decision(name, device, decision) for decision in output.decisions]
        if len(output.estimates) and self._is_due(output.stream):
            lines.append(_estimate(name, output.estimates))
        if lines:
            self._show("".join(f"{line}\n" for line in lines))

    def close(self) -> None:
        """Forget the output, which belongs to somebody else; safe to call twice."""
        self._output = None

    def _show(self, text: str) -> None:
        if self._output is None:
            raise _gone("it is not open")
        try:
            self._output.write(text)
            self._output.flush()
        except (OSError, ValueError) as error:
            raise _gone(str(error)) from error

    def _is_due(self, stream: str) -> bool:
        now_ns = self._clock.monotonic_ns()
        shown_ns = self._shown_ns.get(stream)
        if not self._config.estimates:
            return False
        if shown_ns is not None and now_ns - shown_ns < self._config.every_s * 1e9:
            return False
        self._shown_ns[stream] = now_ns
        return True

    def _decision(self, name: str, device: str, decision: Decision) -> str:
        edge = f"{'void' if decision.is_retracted else decision.edge:5}"
        if self._is_coloured:
            edge = f"{_COLOURS[decision.edge]}{edge}{_PLAIN}"
        shown = f"{name:12}  {edge}  {decision.label}  {decision.value:.4g}"
        result = decision_id(device, self._epoch, decision)
        return f"{_time(decision.time_ns)}  {shown}{_suspicion(decision.quality)}  {result}"


def _estimate(name: str, estimates: Estimates) -> str:
    values = "  ".join(f"{value:.4g}" for value in estimates.value[-1].tolist())
    mask = 0 if estimates.quality is None else int(estimates.quality[-1])
    time = _time(int(estimates.end_ns[-1]))
    return f"{time}  {name:12}  now    {values}{_suspicion(mask)}"


def _suspicion(mask: int) -> str:
    return f"  ({', '.join(names_of_mask(mask))})" if mask else ""


def _time(time_ns: int) -> str:
    instant = _EPOCH + timedelta(microseconds=time_ns // 1000)
    return instant.strftime("%Y-%m-%d %H:%M:%S.") + f"{instant.microsecond // 1000:03}"


def _gone(reason: str) -> Rejected:
    return Rejected(
        f"cannot be written ({reason})",
        where="terminal",
        expected="an open terminal or pipe",
        remedy="Leave the sink out, or keep the reader of the pipe alive.",
    )
