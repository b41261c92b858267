"""One board, measured: a JSON file for the table of boards.

    sh benchmarks/pi                      # or: python benchmarks/board.py --output board.json

It says what the machine is and how warm it was before and after, and holds the rows of
`run.py` that matter on a board, with the soak of the sources. Figures of an emulated
machine say nothing about a board; nobody should send them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.boards import board_here
from edge_runtime.doctor import look_around
from edge_runtime.machine import Machine
from edge_runtime.version import __version__

_FOLDER = Path(__file__).parent
_ROWS = (
    *("overhead_quiet", "pipeline_over_invoke", "overhead_emitting", "samples_per_s", "wake_word"),
    *("vad", "rss", "streams_32", "start_cpu", "idle", "core_at_50hz", "swap", "tune"),
)


def main() -> int:
    """Measure, write the file, and say where it is."""
    parser = argparse.ArgumentParser(description="Measure this board for the table of boards.")
    parser.add_argument("--output", type=Path, default=Path("board.json"))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a minute in all")
    args = parser.parse_args()
    before = look_around()
    rows, soaked = _rows(quick=args.quick), _soaked(10 if args.quick else 60)
    found = {
        "board": board_here().name,
        "machine": msgspec.to_builtins(Machine.here()),
        "edge_runtime": __version__,
        "day": datetime.now(UTC).date().isoformat(),
        "before": msgspec.to_builtins(before),
        "after": msgspec.to_builtins(look_around()),
        "rows": rows,
        "sources": soaked,
    }
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{args.output}: {len(rows)} rows of {found['board']}")
    return 0


def _rows(*, quick: bool) -> list[Any]:
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "rows.json"
        command = [sys.executable, str(_FOLDER / "run.py"), "--only", *_ROWS]
        options = ["--output", str(output), *(["--quick"] if quick else [])]
        subprocess.run([*command, *options], check=True, cwd=_FOLDER)
        return list(json.loads(output.read_text()))


def _soaked(seconds: int) -> list[Any]:
    command = [sys.executable, str(_FOLDER / "soak.py"), "--json", "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    sys.exit(main())
