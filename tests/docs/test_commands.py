"""The documentation shows commands that exist, and links that lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from edge_runtime.cli import parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TARGETS = re.findall(r"^## make (\w+)", (ROOT / "Makefile").read_text(), re.MULTILINE)


def _fenced_lines(page: Path) -> list[str]:
    blocks = re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", page.read_text(), re.S | re.M)
    return [line.removeprefix("$ ").strip() for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_on_a_page_are_understood(page: Path) -> None:
    """Every `edge-runtime` line in a code block parses, and every `make` target exists."""
    for line in _fenced_lines(page):
        command = re.match(r"(?:sudo )?(?:\S+/)?edge-runtime (?P<rest>.*)", line)
        if command and "…" not in line:
            parser().parse_args(shlex.split(command["rest"], comments=True))
        elif line.startswith("make "):
            assert line.split()[1] in TARGETS, line


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_on_a_page_lead_to_files(page: Path) -> None:
    """Every relative link names a file of the repository."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())

    missing = [link for link in links if not (page.parent / link).exists()]

    assert missing == []
