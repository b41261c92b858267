"""A report as Markdown, for a pull request or a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from edge_converters.report.contents import Report
from edge_converters.report.words import (
    LOUD,
    Table,
    candidate_table,
    card_lines,
    coverage_table,
    drift_table,
    memory_table,
    operator_table,
    parity_table,
    provenance_table,
    target_table,
    target_title,
)

__all__ = ["markdown_of"]


def markdown_of(report: Report) -> str:
    """Return the report as Markdown; the verdict stands in the first line below the title."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# {_cell(report.title)}"
    yield f"\n**{LOUD[report.outcome]}**: {_cell(report.sentence)}"
    yield from _section("Files", candidate_table(report))
    yield from _section(target_title(report), target_table(report))
    yield from _list("Data", [str(one) for one in report.findings])
    yield from _section("Parity", parity_table(report.parity))
    yield from _section("Drift along one stream", drift_table(report.drift))
    yield from _section("Operators", operator_table(report.operators))
    yield from _section("Operator coverage", coverage_table(report))
    yield from _section("Memory", memory_table(report.memory))
    yield from _section("Provenance", provenance_table(report))
    yield from _list("Model card", [f"**{name}**: {text}" for name, text in card_lines(report)])
    yield from _list("Notes", list(report.notes))


def _section(title: str, content: Table) -> Iterator[str]:
    heads, rows = content
    if not rows:
        return
    yield f"\n## {title}\n"
    yield _row(heads)
    yield _row(("---",) * len(heads))
    yield from map(_row, rows)


def _list(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield f"\n## {title}\n"
        yield from (f"- {_cell(line)}" for line in lines)


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
