"""``edge-runtime schedule``: batch, rescoring and other verbs by the clock."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edge_runtime.cli.quantities import count
from edge_runtime.cli.table import table
from edge_runtime.clock import SystemClock
from edge_runtime.modes.schedule import History, Run, Scheduler, load_schedule

__all__ = ["Schedule"]

# A wall clock that jumps is noticed after so long.
_LOOK_S = 30.0


class Schedule:
    """Do what a file plans."""

    name = "schedule"
    help = "run batch, rescoring and other verbs by a schedule, and catch up after a downtime"
    example = "edge-runtime schedule nightly.yaml"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        add = parser.add_argument
        add("config", type=Path, help="schedule YAML")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--once", action="store_true", help="do what is due now, then end")
        what.add_argument("--next", action="store_true", help="print what is due when, and end")
        what.add_argument("--history", action="store_true", help="print the latest runs, and end")
        add("--limit", type=count, default=20, metavar="N", help="runs to print (default 20)")
        add("--json", action="store_true", help="print as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Work until Ctrl-C; 1 if ``--once`` did something that failed."""
        config = load_schedule(args.config)
        clock = SystemClock()
        with closing(History(config.history, clock)) as history:
            jobs = config.made(args.config.absolute().parent)
            scheduler = Scheduler(jobs, history, clock)
            if args.next:
                _print_next({job.name: scheduler.next_of(job) for job in jobs}, as_json=args.json)
            elif args.history:
                _print_runs(history.runs(limit=args.limit), as_json=args.json)
            elif args.once:
                return _do_once(scheduler, history, as_json=args.json)
            else:
                _work(scheduler, clock)
        return 0


def _do_once(scheduler: Scheduler, history: History, *, as_json: bool) -> int:
    begun_ns = SystemClock().now_ns()
    done = scheduler.run_due()
    runs = [run for run in history.runs(limit=done) if run.started_ns >= begun_ns]
    _print_runs(runs, as_json=as_json)
    return int(any(run.outcome == "failed" for run in runs))


def _work(scheduler: Scheduler, clock: SystemClock) -> None:
    """Wait for what is due next, and do it, until a signal; a second Ctrl-C breaks a job off."""
    stop = threading.Event()

    def wish(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, wish)
    while not stop.is_set():
        scheduler.run_due(stop.is_set)
        next_ns = scheduler.next_ns()
        left_s = _LOOK_S if next_ns is None else (next_ns - clock.now_ns()) / 1e9
        stop.wait(min(_LOOK_S, max(0.0, left_s)))


def _print_runs(runs: list[Run], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(runs).decode() + "\n")
        return
    rows = [
        (run.job, _text(run.planned_ns), run.outcome, _seconds(run), run.told.partition("\n")[0])
        for run in runs
    ]
    sys.stdout.write(table(("job", "planned", "outcome", "s", "told"), rows, right="s") + "\n")


def _print_next(instants: dict[str, int | None], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(instants).decode() + "\n")
        return
    rows = [(name, "never again" if at is None else _text(at)) for name, at in instants.items()]
    sys.stdout.write(table(("job", "next"), rows) + "\n")


def _text(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _seconds(run: Run) -> str:
    return "" if run.ended_ns is None else f"{(run.ended_ns - run.started_ns) / 1e9:.1f}"
