"""The table of attacks names tests that exist, and leaves none of this folder out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = set(
    re.findall(
        r"^\|.*\| `(tests/\S+\.py)::(test_\w+)` \|$",
        (ROOT / "docs/reference/security.md").read_text(),
        re.MULTILINE,
    )
)


def functions_in(path: Path) -> set[tuple[str, str]]:
    functions = ast.walk(ast.parse(path.read_text()))
    names = [each.name for each in functions if isinstance(each, ast.FunctionDef)]
    return {(str(path.relative_to(ROOT)), name) for name in names if name.startswith("test_")}


def test_every_test_that_is_named_exists() -> None:
    """No defence is claimed whose test has gone or was renamed."""
    there = set().union(*(functions_in(ROOT / path) for path, _ in NAMED))

    assert len(NAMED) >= 40
    assert sorted(NAMED - there) == []


def test_every_event_that_is_told_is_logged() -> None:
    """No alarm is promised whose name nobody logs."""
    page = (ROOT / "docs/reference/security.md").read_text()
    told = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", page, re.MULTILINE)
    sources = [
        path.read_text()
        for folder in ("edge_runtime", "cloud/edge_cloud")
        for path in (ROOT / folder).rglob("*.py")
    ]

    logged = {
        name
        for text in sources
        for name in re.findall(r"log\.\w+\(\s*\"([a-z_]+\.[a-z_]+)\"", text)
    }
    assert len(told) >= 8
    assert sorted(set(told) - logged) == []


def test_every_attack_that_is_tested_is_named() -> None:
    """Each test of this folder stands in the table."""
    files = [
        path for path in Path(__file__).parent.glob("test_*.py") if path.name != "test_table.py"
    ]
    tested = set().union(*map(functions_in, files))

    assert sorted(tested - NAMED) == []
