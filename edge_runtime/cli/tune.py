"""``edge-runtime tune``: find out how a bundle runs best here, and remember it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import get_args

import msgspec

from edge_runtime.cli.progress import Steps
from edge_runtime.cli.table import table
from edge_runtime.profiles import Goal, write_profile
from edge_runtime.tune import Row, Tuning, tune

__all__ = ["Tune"]

_HEADER = (
    "",
    "engine",
    "artefact",
    "precision",
    "threads",
    "µs",
    "p99",
    "cpu µs",
    "rows/s",
    "block",
    "MiB",
    "agrees",
)
_NUMBERS = "threads µs p99 rows/s block MiB agrees"


class Tune:
    """Measure engines, precisions, threads and block sizes, and keep the best."""

    name = "tune"
    help = "measure engine x precision x threads x block on this machine and store the choice"
    example = "edge-runtime tune examples/gas_turbine/bundles/turbine-nox-1.0.0 --for latency"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        parser.add_argument("bundle", type=Path, help="folder or zip file")
        parser.add_argument(
            "--for",
            dest="goal",
            choices=get_args(Goal),
            default="latency",
            help="best for one window's time, its processor time, or rows a second",
        )
        parser.add_argument(
            "--backend",
            action="append",
            default=[],
            metavar="NAME",
            help="try this backend alone; may be repeated (default: all but tflite-runtime)",
        )
        parser.add_argument(
            "--accelerator",
            action="append",
            default=[],
            metavar="NAME",
            help="try this execution provider or delegate too; may be repeated, see doctor",
        )
        parser.add_argument(
            "--seconds",
            type=float,
            default=2.0,
            metavar="S",
            help="time for each candidate (default 2)",
        )
        parser.add_argument(
            "--limit-s",
            type=float,
            default=20.0,
            metavar="S",
            help="a candidate that is silent for so long has failed (default 20)",
        )
        parser.add_argument(
            "--profiles",
            type=Path,
            metavar="DIR",
            help="store the choice here, such as STATE/profiles of a device (default: the user's)",
        )
        parser.add_argument("--dry-run", action="store_true", help="store nothing")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Measure, show, store; 1 if no candidate may be chosen."""
        tuning = _tuned(args)
        path = None
        if tuning.chosen is not None and not args.dry_run:
            path = write_profile(tuning.profile(time.time_ns()), args.profiles)
        text = _encoded(tuning, path) if args.json else _drawn(tuning, path)
        sys.stdout.write(text + "\n")
        return 0 if tuning.chosen is not None else 1


def _tuned(args: argparse.Namespace) -> Tuning:
    progress = Steps()
    try:
        return tune(
            args.bundle,
            goal=args.goal,
            backends=args.backend,
            accelerators=args.accelerator,
            seconds=args.seconds,
            limit_s=args.limit_s,
            on_progress=progress.tell,
        )
    finally:
        progress.end()


def _encoded(tuning: Tuning, path: Path | None) -> str:
    facts = msgspec.to_builtins(tuning) | {"profile": str(path) if path else None}
    if tuning.chosen is not None:
        facts["choice"] = msgspec.to_builtins(tuning.rows[tuning.chosen].choice)
    return msgspec.json.format(msgspec.json.encode(facts), indent=2).decode()


def _drawn(tuning: Tuning, path: Path | None) -> str:
    rows = [_cells(row, number == tuning.chosen) for number, row in enumerate(tuning.rows)]
    lines = [
        f"{tuning.ref} on {tuning.machine.processor}, {tuning.machine.cores} cores",
        "",
        table(_HEADER, rows, right=_NUMBERS),
        "",
    ]
    lines += [
        f"failed: {row.candidate}: {row.failure}\n  {row.remedy}".rstrip()
        for row in tuning.rows
        if row.failure
    ]
    lines += [f"left out: {text}" for text in tuning.absent]
    lines += tuning.sentences
    lines.append(_outcome(tuning, path))
    return "\n".join(lines)


def _cells(row: Row, is_chosen: bool) -> tuple[str, ...]:
    one = row.candidate
    engine = f"{one.backend} on {one.accelerator}" if one.accelerator else one.backend
    head = ("*" if is_chosen else "", engine, one.artefact, one.precision, str(one.threads))
    if row.failure:
        return (*head, "failed", "", "", "", "", "", "")
    return (
        *head,
        f"{row.median_us:.1f}",
        f"{row.p99_us:.1f}",
        f"{row.cpu_us:.1f}",
        f"{row.rows_per_s:,.0f}",
        str(row.best_block.rows),
        f"{row.rss_mb:.0f}",
        f"{row.agreeing}/{row.golden}",
    )


def _outcome(tuning: Tuning, path: Path | None) -> str:
    took = f"{tuning.seconds:.1f} s for {len(tuning.rows)} candidates."
    if tuning.chosen is None:
        return f"Nothing to choose: no candidate answers as the bundle promises. {took}"
    row = tuning.rows[tuning.chosen]
    micro = f"a block from {row.micro_batch} ready windows on" if row.micro_batch else "no blocks"
    text = f"Chosen for {tuning.goal}: {row.candidate}; across streams, {micro}. {took}"
    return f"{text}\nStored in {path}." if path else f"{text}\nNothing stored."
