"""``edge-runtime demo``: the whole loop, live or headless."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge_runtime.errors import ConfigError, MissingExtra
from edge_simulator.interrupt import terminated_like_interrupted

__all__ = ["Demo"]

_INTERRUPTED = 130


class Demo:
    """Replay three years of a gas turbine through a real device, broker and cloud."""

    name = "demo"
    help = "watch a device decide offline, lose nothing and get better; ends with a report"
    example = "edge-runtime demo --headless --json result.json"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        parser.add_argument(
            "--out", type=Path, default=Path("demo"), metavar="DIR", help="default ./demo"
        )
        parser.add_argument(
            "--headless", action="store_true", help="no screen and no keys: lines, and a script"
        )
        parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
        parser.add_argument("--days", type=int, metavar="N", help="stop after N simulated days")
        parser.add_argument(
            "--human-seconds",
            type=float,
            default=20.0,
            metavar="S",
            help="begin at human speed for so long (default 20)",
        )
        parser.add_argument(
            "--broker",
            choices=("auto", "mosquitto", "iotcore"),
            default="auto",
            help="auto: Mosquitto if it is installed, else iotcore from PyPI",
        )
        parser.add_argument(
            "--no-report", action="store_true", help="no replays, no pictures, no report.html"
        )

    def run(self, args: argparse.Namespace) -> int:
        """Show it; 0 if everything held, 1 if not, 4 if the viewer ended it early."""
        _check(args)
        try:
            from edge_simulator.demo.show import Options, show
        except ModuleNotFoundError as error:
            raise MissingExtra.of("the demo", error.name or "a package", "demo") from error
        options = Options(
            out=args.out,
            json=args.json,
            days=args.days,
            human_s=args.human_seconds,
            broker=args.broker,
            is_headless=args.headless,
            has_report=not args.no_report,
        )
        with terminated_like_interrupted():
            try:
                return show(options)
            except KeyboardInterrupt:
                sys.stderr.write("Ended early; no process of the demo is left.\n")
                return _INTERRUPTED


def _check(args: argparse.Namespace) -> None:
    if args.days is not None and args.days < 1:
        raise ConfigError(f"--days is {args.days}", expected="at least 1")
    if not 0 <= args.human_seconds <= 600:
        raise ConfigError(f"--human-seconds is {args.human_seconds}", expected="0 to 600")
