"""A report as one web page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from edge_converters.report.contents import CandidateRow, OperatorRow, Report
from edge_converters.report.plots import Cost, Reach, pareto_plot, sparkline
from edge_converters.report.words import (
    LOUD,
    Table,
    candidate_table,
    card_lines,
    coverage_table,
    drift_table,
    memory_table,
    number_text,
    operator_table,
    parity_table,
    provenance_table,
    target_table,
    target_title,
)

__all__ = ["page_of"]

_COLOURS = {
    "proven": "#15803d",
    "float": "#1f6feb",
    "uncalibrated": "#b91c1c",
    "inconclusive": "#a16207",
    "unlabelled": "#a16207",
}

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 24px auto; max-width: 1100px;
       padding: 0 16px; color: #1f2328; background: #fff }
h1 { font-size: 20px; margin-bottom: 4px; overflow-wrap: anywhere } h2 { font-size: 16px }
p.verdict { padding: 8px 12px; border-left: 4px solid; background: #f6f8fa }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: 13px }
th, td { text-align: left; vertical-align: top; padding: 4px 12px 4px 0; white-space: nowrap;
         border-bottom: 1px solid #e5e7eb }
td:first-child, td:last-child { white-space: normal; overflow-wrap: anywhere; min-width: 9em }
tr.chosen td { font-weight: 600 } figure { margin: 0 } figcaption { color: #57606a }
svg { display: block; max-width: 100%; height: auto } polyline { fill: none; stroke-width: 1.5 }
.grid { stroke: #e5e7eb } .tick { font: 11px system-ui, sans-serif; fill: #57606a }
"""


def page_of(report: Report) -> str:
    """Return the report as HTML without scripts and without anything from outside."""
    body = "\n".join(_body(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(report.title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _body(report: Report) -> Iterator[str]:
    yield f"<h1>{escape(report.title)}</h1>"
    yield (
        f'<p class="verdict" style="border-color:{_COLOURS[report.outcome]}">'
        f"<strong>{LOUD[report.outcome]}</strong>: {escape(report.sentence)}</p>"
    )
    yield from _table("Files", candidate_table(report), _chosen(report.candidates))
    yield from _table(target_title(report), target_table(report), _chosen(report.candidates))
    yield from _plots(report)
    yield from _list("Data", [str(one) for one in report.findings])
    yield from _table("Parity", parity_table(report.parity))
    yield from _table("Drift along one stream", drift_table(report.drift))
    yield from _operators(report.operators)
    yield from _table("Operator coverage", coverage_table(report))
    yield from _table("Memory", memory_table(report.memory))
    yield from _table("Provenance", provenance_table(report))
    yield from _table("Model card", (("", ""), [*card_lines(report)]))
    yield from _list("Notes", report.notes)


def _chosen(rows: Sequence[CandidateRow]) -> frozenset[int]:
    return frozenset(number for number, one in enumerate(rows) if one.is_chosen)


def _plots(report: Report) -> Iterator[str]:
    name = escape(report.metric or "metric")
    for title, cost, reach in _costs(report):
        shown = [one for one in report.candidates if one.value is not None]
        known = [place for one in shown for place in (cost(one), *(reach(one) or ())) if place]
        drawing = pareto_plot(report.candidates, cost, reach)
        if drawing:
            yield (
                f"<figure>{drawing}<figcaption>{name} with its 95 % interval over {escape(title)}, "
                f"from {number_text(min(known))} to {number_text(max(known))}</figcaption></figure>"
            )


def _costs(report: Report) -> Iterator[tuple[str, Cost, Reach]]:
    yield "size in bytes", lambda one: float(one.size_bytes), _no_reach
    yield "time of one window here in µs", lambda one: one.p50_us, _no_reach
    board = next((one.target.board for one in report.candidates if one.target), None)
    if board is not None:
        yield f"{_words_of(report)} of one window on {board} in µs", _on_target, _reach


def _words_of(report: Report) -> str:
    ways = {one.target.how for one in report.candidates if one.target and one.target.p50_us}
    if ways == {"measured"}:
        return "measured time"
    return "measured or estimated time" if "measured" in ways else "estimated time"


def _on_target(one: CandidateRow) -> float | None:
    return one.target.p50_us if one.target else None


def _reach(one: CandidateRow) -> tuple[float, float] | None:
    told = one.target
    if told is None or told.low_us is None or told.high_us is None:
        return None
    return told.low_us, told.high_us


def _no_reach(_: CandidateRow) -> None:
    """Draw a cost that is known without an interval."""


def _operators(rows: Sequence[OperatorRow]) -> Iterator[str]:
    heads, cells = operator_table(rows)
    if not cells:
        return
    yield "<h2>Operators</h2>"
    yield f'<div class="wide"><table><tr>{_heads((*heads, "values"))}</tr>'
    for one, row in zip(rows, cells, strict=True):
        yield f"<tr>{_cells(row)}<td>{sparkline(one.histogram)}</td></tr>"
    yield "</table></div>"


def _table(title: str, content: Table, marked: frozenset[int] = frozenset()) -> Iterator[str]:
    heads, rows = content
    if not rows:
        return
    yield f"<h2>{title}</h2>"
    yield f'<div class="wide"><table><tr>{_heads(heads)}</tr>'
    for number, row in enumerate(rows):
        kind = ' class="chosen"' if number in marked else ""
        yield f"<tr{kind}>{_cells(row)}</tr>"
    yield "</table></div>"


def _heads(heads: Sequence[str]) -> str:
    return "".join(f"<th>{escape(one)}</th>" for one in heads)


def _cells(row: Sequence[str]) -> str:
    return "".join(f"<td>{escape(one)}</td>" for one in row)


def _list(title: str, texts: Sequence[str]) -> Iterator[str]:
    if texts:
        items = "".join(f"<li>{escape(one)}</li>" for one in texts)
        yield f"<h2>{title}</h2>\n<ul>{items}</ul>"
