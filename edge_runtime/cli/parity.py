"""``edge-runtime parity``: one bundle, the same rows, every mode, the same bytes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from edge_runtime.bundle import Bundle
from edge_runtime.cli.columns import add_columns, add_timing, columns_of
from edge_runtime.cli.model import bundle_of, model_options, warm_up_option
from edge_runtime.cli.pairs import timing_of
from edge_runtime.cli.quantities import count, whole
from edge_runtime.cli.table import table
from edge_runtime.modes.parity import (
    Difference,
    ParityReport,
    Rows,
    golden_rows,
    prove_parity,
    read_rows,
)
from edge_runtime.ports import Choice
from edge_runtime.profiles import explain_choice

__all__ = ["Parity"]

_ROWS = 20_000


class Parity:
    """Prove that every mode gives the same answers."""

    name = "parity"
    help = "show the same rows to every mode and prove that the answers are the same bytes"
    example = (
        "edge-runtime parity examples/gas_turbine/bundles/turbine-nox-1.0.0"
        " examples/gas_turbine/gas_turbine_2011_2015.csv"
    )

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        add = parser.add_argument
        add("bundle", type=Path, nargs="?", help="folder or zip file")
        add(
            "rows",
            type=Path,
            nargs="?",
            help="as for batch; the golden windows, or random ones for a bare model, by default",
        )
        add("--limit", type=count, default=_ROWS, metavar="N", help=f"rows (default {_ROWS:,})")
        add("--kills", type=whole, default=3, metavar="N", help="kills of a mode (default 3)")
        add("--seed", type=whole, default=0, metavar="N", help="decides frames, kills, snapshots")
        add("--threads", type=count, metavar="N", help="threads inside one call")
        add("--json", action="store_true", help="print the report as JSON")
        add_columns(parser)
        add_timing(parser)
        bare = parser.add_argument_group("a bare model file in place of a bundle")
        model_options(bare)
        warm_up_option(bare)

    def run(self, args: argparse.Namespace) -> int:
        """Prove it; 1 if a mode differs."""
        if args.model is not None and args.rows is None:
            # The one path beside a bare model is that of its rows.
            args.bundle, args.rows = None, args.bundle
        with bundle_of(args) as (bundle, path):
            asked = Choice(backend=args.backend, threads=args.threads)
            report = prove_parity(
                bundle,
                path,
                _rows(args, bundle),
                choice=explain_choice(bundle, asked).choice,
                timing=timing_of(args.timing, "--timing"),
                kills=args.kills,
                seed=args.seed,
                on_leg=lambda mode: _tell(f"{mode} …"),
            )
        _tell("")
        text = msgspec.json.encode(report).decode() if args.json else _proof(report)
        sys.stdout.write(text + "\n")
        return 0 if report.is_proven else 1


def _rows(args: argparse.Namespace, bundle: Bundle) -> Rows:
    if args.rows is None:
        return golden_rows(bundle, args.limit)
    return read_rows(columns_of(args, args.rows), bundle, args.limit)


def _tell(text: str) -> None:
    """Show what is going on, where somebody watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text:20}\r")
        sys.stderr.flush()


def _proof(report: ParityReport) -> str:
    rows = [
        (
            leg.mode,
            leg.how,
            f"{leg.windows:,}",
            f"{leg.decisions:,}",
            leg.digest[:16],
            f"{leg.seconds:.1f}",
            "as the first" if leg.difference is None else "DIFFERS",
        )
        for leg in report.legs
    ]
    head = ("mode", "how", "windows", "decisions", "SHA-256", "s", "")
    lines = [
        f"{report.bundle}, {report.rows:,} rows, seed {report.seed}",
        table(head, rows, right="windows decisions s"),
    ]
    lines += [_explained(leg.mode, leg.difference) for leg in report.legs if leg.difference]
    if report.is_proven:
        lines.append("proven: every index, every value and every decision is the same byte")
    elif not any(leg.windows for leg in report.legs):
        lines.append("nothing was compared: the rows complete no window")
    return "\n".join(lines)


def _explained(mode: str, difference: Difference) -> str:
    mine, its = difference.is_ or "nothing", difference.expected or "nothing"
    place = f"{difference.what} differ first at sample {difference.index}"
    return f"{mode}: {place}: {mine}, where the first mode has {its}"
