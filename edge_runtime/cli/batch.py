"""``edge-runtime batch``: a file of rows in, a file or database of answers out."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.cli.columns import add_columns, add_timing, columns_of
from edge_runtime.cli.pairs import timing_of
from edge_runtime.cli.quantities import count
from edge_runtime.clock import SystemClock
from edge_runtime.modes.batch import BatchJob, BatchReport, run_batch
from edge_runtime.modes.batch.block import with_proven_block
from edge_runtime.modes.batch.display import Display
from edge_runtime.ports import Choice
from edge_runtime.profiles import explain_choice

__all__ = ["Batch"]

_INTERRUPTED = 130


class Batch:
    """Score a file in bulk, resumable."""

    name = "batch"
    help = "score a Parquet, CSV, NPZ or JSON lines file into Parquet, CSV, SQLite or DuckDB"
    example = (
        "edge-runtime batch examples/gas_turbine/bundles/turbine-nox-1.0.0"
        " examples/gas_turbine/gas_turbine_2011_2015.csv -o scores.csv"
    )

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        add = parser.add_argument
        add("bundle", type=Path, help="folder or zip file")
        add("input", type=Path, help=".parquet, .csv, .tsv, .npz or .jsonl")
        add("-o", "--output", type=Path, required=True, help=".parquet, .csv, .sqlite or .duckdb")
        add_columns(parser)
        add_timing(parser)
        add("--keep", default="", metavar="COL,COL", help="input columns to pass through")
        add("--decisions", action="store_true", help="write decisions too, as a second table")
        _add_choice(parser)
        add("--overwrite", action="store_true", help="replace an output that exists")
        add("--fresh", action="store_true", help="forget what an unfinished run has done")
        add("--quiet", action="store_true", help="show no progress")
        add("--json", action="store_true", help="print the report as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Score, and say what became of it; 130 after Ctrl-C, to be resumed."""
        bundle = load_bundle(args.bundle)
        job = _job(args, _choice(args, bundle))
        clock = SystemClock()
        display = None if args.quiet else Display(sys.stderr, clock)
        with _stopping() as stop:
            try:
                report = run_batch(
                    job,
                    bundle,
                    is_fresh=args.fresh,
                    may_overwrite=args.overwrite,
                    on_progress=display.show if display else None,
                    is_stopping=stop.is_set,
                    clock=clock,
                )
            finally:
                if display is not None:
                    display.end()
        text = msgspec.json.encode(report).decode() if args.json else _summary(report)
        sys.stdout.write(text + "\n")
        if not report.is_complete:
            sys.stderr.write("stopped; give the same command again to go on from there\n")
            return _INTERRUPTED
        return 0


def _add_choice(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--backend", metavar="NAME", help="model runtime; the bundle's preference by default")
    add("--block", type=count, metavar="N", help="windows the model answers at once")
    add("--threads", type=count, metavar="N", help="threads inside one call")
    add("--accelerator", metavar="NAME", help="execution provider or delegate")
    add("--shard-rows", type=count, metavar="N", help="input rows that are scored as one")
    add("--workers", type=count, metavar="N", help="threads that score; all cores by default")


def _choice(args: argparse.Namespace, bundle: Bundle) -> Choice:
    """Return how the model is run: as asked for, else as tuned, else in the block that proves."""
    asked = Choice(backend=args.backend, threads=args.threads, accelerator=args.accelerator)
    found = explain_choice(bundle, asked)
    if args.block is not None:
        return msgspec.structs.replace(found.choice, block=args.block)
    return found.choice if found.is_tuned else with_proven_block(bundle, asked, SystemClock())


def _job(args: argparse.Namespace, choice: Choice) -> BatchJob:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return msgspec.structs.replace(
        columns_of(args, args.input, args.output),
        keep=tuple(name for name in args.keep.split(",") if name),
        timing=timing_of(args.timing, "--timing"),
        has_decisions=args.decisions,
        choice=choice,
        shard_rows=args.shard_rows,
        workers=args.workers or max(1, (cores or 1) // (choice.threads or 1)),
    )


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Make the first Ctrl-C or SIGTERM a wish; a second Ctrl-C breaks off."""
    stop = threading.Event()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def wish(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, wish)
    signal.signal(signal.SIGTERM, wish)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _summary(report: BatchReport) -> str:
    discarded = "".join(
        f", {count} {reason}" for reason, count in sorted(report.discarded.items()) if count
    )
    resumed = f" from row {report.resumed_from}" if report.resumed_from else ""
    lines = [
        f"{report.bundle}: {report.rows} rows read, {report.windows} windows scored{discarded}",
        f"{report.seconds:.1f} s{resumed}, {report.rows_per_s:,.0f} rows/s, "
        f"blocks of {report.block}, {report.workers} workers, effective {report.effective_id}",
    ]
    return "\n".join([*lines, *report.outputs])
