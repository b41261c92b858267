"""``edge-runtime simulate``: a fleet of virtual devices, with faults and expectations."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Literal

from edge_runtime.errors import ConfigError, MissingExtra
from edge_simulator.interrupt import terminated_like_interrupted

__all__ = ["Simulate"]

_INTERRUPTED = 130


class Simulate:
    """Run a fleet, and say what became of its rows."""

    name = "simulate"
    help = "run a fleet of virtual devices on the real device code, with faults by plan and chance"
    example = "edge-runtime simulate broker-gone --check"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        add = parser.add_argument
        add("fleet", type=Path, help="fleet YAML, or the name of a shipped scenario")
        add("--check", action="store_true", help="exit with 1 unless everything expected holds")
        add("--mode", choices=("fast", "processes"), help="instead of the file's mode")
        add("--speed", metavar="N", help="simulated seconds a second, or max")
        add("--seed", type=int, metavar="N", help="instead of the file's seed")
        add("--out", type=Path, metavar="DIR", help="keep result.jsonl and all files there")
        add("--headless", action="store_true", help="no screen and no keys, also on a terminal")
        add("--json", action="store_true", help="print the summary as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Run it; 130 after Ctrl-C."""
        try:
            from edge_simulator.fleet.show import Options, show
        except ModuleNotFoundError as error:
            raise MissingExtra.of("the simulator", error.name or "a package", "demo") from error
        options = Options(
            fleet=args.fleet,
            out=args.out,
            mode=args.mode,
            speed=None if args.speed is None else _speed(args.speed),
            seed=args.seed,
            is_check=args.check,
            is_headless=args.headless,
            is_json=args.json,
            is_verbose=args.verbose,
        )
        with terminated_like_interrupted():
            try:
                return show(options)
            except KeyboardInterrupt:
                sys.stderr.write("Ended early; nothing of the simulation is left running.\n")
                return _INTERRUPTED


def _speed(text: str) -> float | Literal["max"]:
    if text == "max":
        return "max"
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1_000_000:
        raise ConfigError(f"--speed is {text!r}", expected="max, or a number up to 1000000")
    return speed
