"""Measure, show, and write ``results.json``: ``make bench``."""

from __future__ import annotations

import argparse
from pathlib import Path

import engine
import results

_RESULTS = Path(__file__).with_name("results.json")


def main() -> int:
    """Run every suite; 0 even where a bar is missed, for that is a result."""
    parser = argparse.ArgumentParser(description="Measure this machine; ratios are what counts.")
    parser.add_argument("--rounds", type=int, default=200, help="samples of each (default 200)")
    parser.add_argument("--output", type=Path, default=_RESULTS, help="JSON file to merge into")
    args = parser.parse_args()
    print(results.machine())
    rows = engine.rows(rounds=args.rounds)
    results.show(rows)
    results.merge(args.output, rows)
    print(f"{args.output}: {sum(row.ok for row in rows)} of {len(rows)} bars met")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
