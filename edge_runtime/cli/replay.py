"""``edge-runtime replay``: what was recorded, answered again."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from edge_runtime.cli.keys import keys
from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError
from edge_runtime.modes.batch.display import Display
from edge_runtime.modes.batch.run import Progress
from edge_runtime.modes.player import Player, Span, StreamReport, apart
from edge_runtime.modes.replay import Bundles, Comparison, Step
from edge_runtime.plural import counted
from edge_runtime.ports import Sink
from edge_runtime.sinks.jsonl import JsonLinesConfig, JsonLinesSink
from edge_runtime.sinks.terminal import TerminalConfig, TerminalSink
from edge_runtime.sources.instants import instant_ns
from edge_runtime.tape import open_tapes
from edge_runtime.types import Decision, Output

__all__ = ["Replay"]

_SHOWN = 20
_KEYS = "space or enter: next window   d: next decision   r: run on   q: quit"
_LATEST_NS = 1 << 62


class Replay:
    """Play a tape through the pipeline."""

    name = "replay"
    help = (
        "answer again what `run --record` kept: same bundle same bytes, other bundle what differs"
    )
    example = "edge-runtime replay recording --speed max -o again.jsonl"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        add = parser.add_argument
        add("recording", type=Path, help="folder of a device or of a stream, or one .tape file")
        add("--stream", metavar="NAME", help="this stream alone; all of them by default")
        add("--speed", type=_speed, default=None, metavar="N|max", help="1 as it was (default max)")
        add("--step", action="store_true", help="wait for a key after every window")
        add("--from", dest="first", metavar="TIME", help="show windows that end here or later")
        add("--to", dest="last", metavar="TIME", help="and before this, such as 2026-01-01T12:00Z")
        add("--bundle", type=Path, help="run this bundle instead, and say what differs")
        add("-o", "--output", type=Path, help="write estimates and decisions as JSON lines")
        add("--overwrite", action="store_true", help="replace an output that exists")
        add("--quiet", action="store_true", help="show no decisions and no progress")
        add("--json", action="store_true", help="print the report as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Play; 1 if the recorded bundle did not give the recorded bytes."""
        tapes = open_tapes(args.recording, args.stream)
        player = Player(tapes, Bundles(args.bundle), _span(args))
        device = next(iter(tapes.values())).device
        with contextlib.closing(player), _shown(args, device) as show:
            for step in _paced(args, player, device):
                show(step)
        reports = player.report()
        if args.json:
            text = msgspec.json.encode(reports).decode()
        else:
            text = "\n".join(line for name, one in reports.items() for line in _lines(name, one))
        sys.stdout.write(text + "\n")
        return 0 if all(one.is_equal or not one.is_same_bundle for one in reports.values()) else 1


# --- playing ------------------------------------------------------------------------


def _paced(args: argparse.Namespace, player: Player, device: str) -> Iterator[Step]:
    clock = SystemClock()
    steps = player.play(args.speed, clock)
    if args.step:
        yield from _stepped(steps, device)
        return
    display = None if args.quiet or args.output is None else Display(sys.stderr, clock)
    start_ns = clock.monotonic_ns()
    for step in steps:
        if display is not None:
            display.show(_progress(player, (clock.monotonic_ns() - start_ns) / 1e9))
        yield step
    if display is not None:
        display.end()


def _progress(player: Player, seconds: float) -> Progress:
    share = player.played / max(1, player.samples)
    return Progress(player.played, player.samples, share, 0, 0.0, seconds)


def _stepped(steps: Iterator[Step], device: str) -> Iterator[Step]:
    """Show every window and wait for a key after it, or after the next decision."""
    sys.stderr.write(_KEYS + "\n")
    wanted = " "
    with keys() as next_key:
        for step in steps:
            for window in apart(step.output) if step.output else ():
                _show_window(window, device, step.epoch)
                if wanted != "r" and (window.decisions or wanted != "d"):
                    wanted = next_key() or "r"
                if wanted == "q":
                    return
            yield step


def _show_window(window: Output, device: str, epoch: int) -> None:
    terminal = TerminalSink(TerminalConfig())
    terminal.open(device, epoch=epoch)
    terminal.write(window)


# --- showing ------------------------------------------------------------------------


class _Shown:
    """Hands outputs to the sinks; results of each start of the device under its epoch."""

    def __init__(self, sinks: list[Sink], device: str) -> None:
        self._sinks = sinks
        self._device = device
        self._epoch: int | None = None

    def __call__(self, step: Step) -> None:
        if step.output is None:
            return
        if step.epoch != self._epoch:
            self.close()
            for sink in self._sinks:
                sink.open(self._device, epoch=step.epoch)
            self._epoch = step.epoch
        for sink in self._sinks:
            sink.write(step.output)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


@contextlib.contextmanager
def _shown(args: argparse.Namespace, device: str) -> Iterator[_Shown]:
    sinks: list[Sink] = []
    if args.output is not None:
        _make_way(args.output, may_overwrite=args.overwrite)
        sinks.append(JsonLinesSink(JsonLinesConfig(args.output)))
    elif not (args.json or args.quiet or args.step):
        sinks.append(TerminalSink(TerminalConfig(estimates=False)))
    with contextlib.closing(_Shown(sinks, device)) as shown:
        yield shown


def _make_way(path: Path, *, may_overwrite: bool) -> None:
    if not path.exists():
        return
    if not may_overwrite:
        raise ConfigError(
            "it exists",
            where=str(path),
            expected="a new file",
            remedy="Choose another output, or replace it with --overwrite.",
        )
    path.unlink()


def _lines(name: str, report: StreamReport) -> Iterator[str]:
    found = report.comparison
    yield (
        f"{name}: {counted(report.frames, 'frame')}, {counted(report.windows, 'window')}, "
        f"{counted(report.decisions, 'decision')}"
    )
    if report.lost_bytes:
        lost = counted(report.lost_bytes, "byte")
        yield f"  {lost} at the end of a segment left out: not whole"
    if found.unrecorded:
        yield f"  {found.unrecorded} windows have no recorded answer to compare with"
    if report.is_equal and not found.windows:
        yield "  nothing to compare with what the device made"
    elif report.is_equal:
        yield f"  byte-equal to what the device made: {counted(found.windows, 'window')}"
    else:
        yield from _differences(found)


def _differences(found: Comparison) -> Iterator[str]:
    yield (
        f"  differs from what the device made: {found.different} of {found.windows} windows, "
        f"by up to {found.largest:.4g}; {found.decisions} decisions on the same window"
    )
    if found.absent:
        yield f"  only the device answered {found.absent} windows"
    yield from _decisions("only the device", found.missing)
    yield from _decisions("only the replay", found.added)


def _decisions(who: str, decisions: list[Decision]) -> Iterator[str]:
    if not decisions:
        return
    yield f"  {who} made {len(decisions)} decisions:"
    for one in decisions[:_SHOWN]:
        yield f"    sample {one.index}  {one.edge:5}  {one.label}  {one.value:.4g}"
    if len(decisions) > _SHOWN:
        yield f"    and {len(decisions) - _SHOWN} more; all of them with --json"


# --- arguments ----------------------------------------------------------------------


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def _span(args: argparse.Namespace) -> Span:
    return Span(_time(args.first, "--from", -_LATEST_NS), _time(args.last, "--to", _LATEST_NS))


def _time(text: str | None, flag: str, default_ns: int) -> int:
    if text is None:
        return default_ns
    if text.lstrip("-").isdigit():
        return int(text)
    try:
        return instant_ns(datetime.fromisoformat(text))
    except ValueError as error:
        raise ConfigError(
            f"{flag} is {text!r}",
            expected="a time such as 2026-01-01T12:00:00Z, or nanoseconds since 1970",
            remedy="Write year-month-dayThour:minute:second and Z for UTC.",
        ) from error
