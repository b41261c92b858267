"""Measure, show, and write ``results.json`` and ``RESULTS.md``: ``make bench``."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import report
import results
from results import Row, Skipped

_FOLDER = Path(__file__).parent
_ROUNDS = 200
_QUICK_ROUNDS = 30

# A suite is a module with ``rows(rounds=…)``, and here stands how its ids begin; or it
# has ``PARTS``: functions of the same form, by the ids they measure.
_SUITES = {
    "overhead": "",
    "emitting": "",
    "record": "record_us",
    "outbox": "outbox",
    "throughput": "",
    "audio": "",
    "batch": "batch_share",
    "tune": "tune_regret",
    "steady": "",
    "footprint": "",
    "swap": "",
    "isolation": "isolation_process_us",
    "features": "features",
    "metrics": "metrics_us",
    "blocks": "",
    "serving": "",
    "timeline": "",
    "converting": "",
    "sync": "",
}

Part = Callable[..., Sequence[Row]]


def main() -> int:
    """Run the suites; 0 even where a bar is missed, for that is a result."""
    args = _parsed()
    rounds = args.rounds or (_QUICK_ROUNDS if args.quick else _ROUNDS)
    machine, day = results.machine(), f"{datetime.now(UTC):%Y-%m-%d}"
    print(machine)
    rows: list[Row] = []
    notes: dict[str, str] = {}
    for name, part in _parts(args.only, notes):
        rows += _measured(name, part, rounds, notes)
    rows = [row for row in rows if not args.only or row.id.startswith(tuple(args.only))]
    report.show(rows)
    merged = results.merge(args.output, rows, day)
    text = report.markdown(merged, notes, machine=machine, day=day)
    args.output.with_name("RESULTS.md").write_text(text)
    for name, why in notes.items():
        print(f"not measured: {name}: {why}")
    judged = [row for row in rows if row.has_bar]
    print(f"{args.output}: {sum(row.ok for row in judged)} of {len(judged)} bars met")
    return 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure this machine; ratios are what counts.",
        epilog='example: make bench ARGS="--only overhead swap --quick"',
    )
    parser.add_argument("--only", nargs="+", default=(), metavar="ID", help="ids or their starts")
    parser.add_argument("--rounds", type=int, help=f"samples of each (default {_ROUNDS})")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_ROUNDS} rounds, short waits")
    default = _FOLDER / "results.json"
    parser.add_argument("--output", type=Path, default=default, help="JSON file to merge into")
    args = parser.parse_args()
    if not args.output.parent.is_dir():
        parser.error(f"--output is {args.output}, and its folder does not exist")
    return args


def _parts(only: Sequence[str], notes: dict[str, str]) -> Iterator[tuple[str, Part]]:
    """Find what is to be measured; a suite that cannot be imported becomes a note."""
    for suite, ids in _SUITES.items():
        if ids and not _is_wanted(ids, only):
            continue
        try:
            module = importlib.import_module(suite)
        except ImportError as error:
            notes[suite] = f"{error}"
            continue
        parts: dict[str, Part] = getattr(module, "PARTS", None) or {ids or suite: module.rows}
        for name, part in parts.items():
            if any(_is_wanted(each, only) for each in name.split()):
                yield name, part


def _is_wanted(name: str, only: Sequence[str]) -> bool:
    """Whether one of the beginnings fits; a part may tell no more than a beginning itself."""
    return not only or any(name.startswith(each) or each.startswith(name) for each in only)


def _measured(name: str, part: Part, rounds: int, notes: dict[str, str]) -> list[Row]:
    """Run one part; whatever goes wrong becomes a note."""
    _say(f"{name} ...")
    began = time.monotonic()
    try:
        found = list(part(rounds=rounds))
    except Skipped as reason:
        notes[name] = str(reason)
        found = []
    except Exception as error:
        traceback.print_exc()
        notes[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        found = []
    _say(f"{name}: {len(found)} rows, {time.monotonic() - began:.1f} s")
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
