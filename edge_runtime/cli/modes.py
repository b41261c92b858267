"""``edge-runtime modes``: the five modes side by side, measured on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from edge_runtime.bundle import load_bundle
from edge_runtime.cli.columns import add_columns, columns_of
from edge_runtime.cli.quantities import count
from edge_runtime.cli.table import table
from edge_runtime.modes.compare import Measured, measure_modes
from edge_runtime.modes.parity import golden_rows, read_rows
from edge_runtime.ports import Choice
from edge_runtime.profiles import explain_choice

__all__ = ["Modes"]

_ROWS = 50_000


class Modes:
    """Measure one bundle in all five modes."""

    name = "modes"
    help = "measure the five modes with one bundle here: latency, scale, network, purpose"
    example = (
        "edge-runtime modes examples/gas_turbine/bundles/turbine-nox-1.0.0"
        " examples/gas_turbine/gas_turbine_2011_2015.csv"
    )

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        add = parser.add_argument
        add("bundle", type=Path, help="folder or zip file")
        add("rows", type=Path, nargs="?", help="as for batch; the golden windows by default")
        add("--limit", type=count, default=_ROWS, metavar="N", help=f"rows (default {_ROWS:,})")
        add("--backend", metavar="NAME", help="model runtime; the bundle's preference by default")
        add("--threads", type=count, metavar="N", help="threads inside one call")
        add("--json", action="store_true", help="print as JSON")
        add_columns(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Measure for about ten seconds and print a table."""
        bundle = load_bundle(args.bundle)
        if args.rows is None:
            rows = golden_rows(bundle, args.limit)
        else:
            rows = read_rows(columns_of(args, args.rows), bundle, args.limit)
        asked = Choice(backend=args.backend, threads=args.threads)
        measured = measure_modes(
            bundle,
            args.bundle,
            rows,
            choice=explain_choice(bundle, asked).choice,
            on_mode=_tell,
        )
        _tell("")
        text = msgspec.json.encode(measured).decode() if args.json else _table(measured)
        sys.stdout.write(text + "\n")
        return 0


def _tell(text: str) -> None:
    """Show what is going on, where somebody watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text:20}\r")
        sys.stderr.flush()


def _table(measured: list[Measured]) -> str:
    head = ("mode", "p50 ms", "p99 ms", "scale", "network", "for")
    rows = [
        (
            one.mode,
            _milliseconds(one.p50_ms),
            _milliseconds(one.p99_ms),
            f"{one.rate:,.0f} {one.unit}",
            one.network,
            one.purpose,
        )
        for one in measured
    ]
    return table(head, rows, right="p50 p99 ms")


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
