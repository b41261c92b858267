"""Fill docs/reference/promises.md with the matrix of faults and the latest chaos run.

python tools/make_promises.py                  what is kept in tests/matrix
python tools/make_promises.py chaos.json       take another run as the latest
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
MATRIX = ROOT / "tests/matrix/matrix.yaml"
CHAOS = ROOT / "tests/matrix/chaos.json"
PAGE = ROOT / "docs/reference/promises.md"

SHOWN = (
    ("seed", "seed"),
    ("broker", "broker"),
    ("seconds", "seconds"),
    ("kills", "SIGKILLs"),
    ("kills_a_minute", "of them a minute"),
    ("rows_made", "rows made"),
    ("rows_stored", "rows stored"),
    ("rows_in_gaps", "rows in gap records"),
    ("rows_evicted", "rows dropped by devices, those included that the cloud had already"),
    ("rows_duplicated", "rows doubled"),
    ("rows_lost", "rows lost"),
    ("drain_s", "seconds until the rest had arrived"),
)


def page(text: str, matrix: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> str:
    """Return the page with its generated parts anew."""
    return _filled(_filled(text, "matrix", "\n".join(_rows(matrix))), "run", _run(run))


def _filled(text: str, part: str, content: str) -> str:
    """Put something between the two comments that name a part."""
    head, begin, rest = text.partition(f"<!-- {part} begins -->\n")
    _, end, tail = rest.partition(f"<!-- {part} ends -->\n")
    if not (begin and end):
        raise SystemExit(f"{PAGE}: the comments around the {part} are missing")
    return f"{head}{begin}{content}\n{end}{tail}"


def _rows(matrix: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| fault | must hold | tests |"
    yield "|---|---|---|"
    for row in matrix:
        tests = "<br>".join(map(_link, row["tests"]))
        yield f"| {row['fault']} | {row['promise']} | {tests} |"


def _link(test: str) -> str:
    path, _, name = test.partition("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../../{path})"


def _run(run: Mapping[str, Any]) -> str:
    facts = [(words, run[name]) for name, words in SHOWN]
    facts += [(f"killed at a step: {name}", n) for name, n in run["kills_at_steps"].items()]
    facts += [(f"killed anywhere: {name}", n) for name, n in run["kills_anywhere"].items()]
    facts += [(f"killed in all: {name}", n) for name, n in run["kills_of_ingests"].items()]
    return "\n".join(["| | |", "|---|---|", *(f"| {words} | {value} |" for words, value in facts)])


def main() -> None:
    """Write the page."""
    if len(sys.argv) > 1:
        shutil.copyfile(sys.argv[1], CHAOS)
    matrix, run = yaml.safe_load(MATRIX.read_text()), json.loads(CHAOS.read_text())
    PAGE.write_text(page(PAGE.read_text(), matrix, run))


if __name__ == "__main__":
    main()
