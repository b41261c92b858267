"""``edge-runtime simulate chaos``: kill everything again and again, and count the rows."""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.errors import ConfigError, MissingExtra
from edge_simulator.interrupt import terminated_like_interrupted

if TYPE_CHECKING:
    from edge_simulator.chaos.run import Options, Report

__all__ = ["SimulateChaos"]

_INTERRUPTED = 130
_SHOW_S = 0.5
_SHOWN = (
    "seed",
    "kills",
    "kills_a_minute",
    "kills_of_ingests",
    "rows_made",
    "rows_stored",
    "rows_duplicated",
    "rows_evicted",
    "rows_in_gaps",
    "rows_waiting",
    "rows_lost",
    "seconds",
    "drain_s",
    "broker",
)


class SimulateChaos:
    """Kill devices, ingests and broker while links break and disks fill; then close the books."""

    name = "simulate chaos"
    help = "kill devices, ingests and broker at random, break links, fill disks: is a row lost?"
    example = "edge-runtime simulate chaos --seed 7 --seconds 60"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        add = parser.add_argument
        add("--seed", type=int, metavar="N", help="repeats a plan (a new one)")
        add("--seconds", type=float, default=60.0, metavar="S", help="how long it goes on (60)")
        add("--kills", type=float, default=90.0, metavar="N", help="planned a minute (90)")
        add("--devices", type=int, default=3, metavar="N", help="how many (3)")
        add("--ingests", type=int, default=2, metavar="N", help="that share the rows (2)")
        add("--rows", type=float, default=100.0, metavar="N", help="a second and device (100)")
        add("--broker", choices=("auto", "mosquitto", "iotcore"), default="auto")
        add("--report", type=Path, default=Path("chaos.json"), metavar="FILE", help="(chaos.json)")
        add("--out", type=Path, metavar="DIR", help="keep logs, databases and store there")
        add("--plan", action="store_true", help="print what the seed plans, and do nothing")
        add("--json", action="store_true", help="print the report as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Run it: 1 if a row is lost, doubled or not accounted for; 130 after Ctrl-C."""
        try:
            from edge_simulator.chaos import run
        except ModuleNotFoundError as error:
            raise MissingExtra.of("the simulator", error.name or "a package", "demo") from error
        options = _options(args)
        if args.plan:
            sys.stdout.write("".join(f"{kill}\n" for kill in options.plan().kills))
            return 0
        sys.stderr.write(f"seed {options.seed}: --seed {options.seed} repeats the plan\n")
        progress = _Progress(options.seconds)
        with terminated_like_interrupted(), _quiet(), _folder(args.out) as folder:
            try:
                report = run.run(options, folder, progress.show)
            except KeyboardInterrupt:
                sys.stderr.write("\nEnded early; nothing of it is left running.\n")
                return _INTERRUPTED
        progress.end()
        args.report.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        sys.stdout.write(_text(report, is_json=args.json) + "\n")
        return int(not report.is_balanced)


def _options(args: argparse.Namespace) -> Options:
    from edge_simulator.chaos.run import Options

    for name, low, high in (
        ("seconds", 1.0, 86_400.0),
        ("kills", 1.0, 1000.0),
        ("devices", 1, 50),
        ("ingests", 1, 8),
        ("rows", 1.0, 10_000.0),
    ):
        if not low <= getattr(args, name) <= high:
            raise ConfigError(
                f"--{name} is {getattr(args, name):g}",
                where="command line",
                expected=f"a number from {low:g} to {high:g}",
            )
    return Options(
        seed=secrets.randbelow(10**6) if args.seed is None else args.seed,
        seconds=args.seconds,
        per_minute=args.kills,
        devices=args.devices,
        ingests=args.ingests,
        rows_per_s=args.rows,
        broker=args.broker,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what our own links say about kills."""
    logger = logging.getLogger("edge_runtime")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """Make the folder for everything; without a name it is gone afterwards."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="edge-runtime-chaos-") as folder:
            yield Path(folder)
        return
    try:
        out.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(
            "it is there already",
            where=str(out),
            expected="a new folder",
            remedy="Choose another one with --out, or remove this one.",
        ) from error
    yield out.absolute()


class _Progress:
    """One line that says how far it is, where somebody looks."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._shown_s = 0.0
        self._is_shown = sys.stderr.isatty()

    def show(self, elapsed_s: float, kills: int) -> None:
        """Show it, unless it was shown just now."""
        now_s = time.monotonic()
        if not self._is_shown or now_s - self._shown_s < _SHOW_S:
            return
        self._shown_s = now_s
        left_s = max(0.0, self._seconds - elapsed_s)
        words = f"{left_s:.0f} s to go" if left_s else "waiting for the rest to arrive"
        sys.stderr.write(f"\r\x1b[K{kills} kills, {words}")
        sys.stderr.flush()

    def end(self) -> None:
        """Wipe the line."""
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")


def _text(report: Report, *, is_json: bool) -> str:
    if is_json:
        return msgspec.json.encode(report).decode()
    width = max(map(len, _SHOWN))
    lines = [f"{name.replace('_', ' '):<{width}}  {_shown(report, name)}" for name in _SHOWN]
    for tally in report.devices:
        if not tally.is_balanced:
            lines.append(
                f"{tally.device}: {tally.made} made, {tally.stored} stored, "
                f"{tally.duplicated} doubled, {tally.in_gaps} in gaps, {tally.waiting} waiting, "
                f"{len(tally.lost)} lost, {tally.foreign} never made; "
                f"lost {list(tally.lost[:10])}"
            )
    verdict = "every row made is stored once, or in a gap" if report.is_balanced else "FAILED"
    return "\n".join([*lines, verdict])


def _shown(report: Report, name: str) -> str:
    value = getattr(report, name)
    if isinstance(value, dict):
        return ", ".join(f"{n} of {what}" for what, n in value.items())
    return str(value)
