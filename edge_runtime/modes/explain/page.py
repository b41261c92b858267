"""An explanation as one web page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from edge_runtime.modes.explain.charts import COLOURS, bars, lines, picture
from edge_runtime.modes.explain.explanation import Explanation
from edge_runtime.modes.explain.found import Found
from edge_runtime.modes.explain.panels import (
    VERDICT_COLOURS,
    Bars,
    Chart,
    Panel,
    Picture,
    facts_of,
    sections,
    shown_labels,
)
from edge_runtime.modes.explain.stages import Stage

__all__ = ["page_of"]

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 24px auto; max-width: 900px;
       padding: 0 16px; color: #1f2328; background: #fff }
h1 { font-size: 20px; margin-bottom: 4px; overflow-wrap: anywhere } h2 { font-size: 16px }
h3 { font-size: 13px; font-weight: 600; margin: 10px 0 0 }
p.verdict { padding: 8px 12px; border-left: 4px solid; background: #f6f8fa }
table { border-collapse: collapse; width: 100% } caption { text-align: left; color: #57606a }
th, td { text-align: left; vertical-align: top; padding: 4px 10px 4px 0;
         border-bottom: 1px solid #e5e7eb } td.number { text-align: right; white-space: nowrap }
svg { display: block; max-width: 100%; height: auto } polyline { fill: none; stroke-width: 1.5 }
.grid { stroke: #e5e7eb } .tick { font: 11px system-ui, sans-serif; fill: #57606a }
.window { fill: #dbeafe } .facts { color: #57606a }
"""


def page_of(told: Explanation, found: Found) -> str:
    """Return the page as HTML.

    Args:
        told: In words and numbers.
        found: The same as arrays, to be drawn.
    """
    body = "\n".join(_body(told, found))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(told.result)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _body(told: Explanation, found: Found) -> Iterator[str]:
    yield f"<h1>{escape(told.result)}</h1>"
    yield f'<p class="facts">{escape(facts_of(told))}</p>'
    colour = VERDICT_COLOURS[told.is_equal]
    yield f'<p class="verdict" style="border-color:{colour}">{escape(told.verdict)}</p>'
    yield "<h2>What each stage did</h2>"
    yield _stage_table(told)
    for title, panels in sections(told, found):
        yield f"<h2>{escape(title)}</h2>"
        for panel in panels:
            yield from _panel(panel)


def _panel(panel: Panel) -> Iterator[str]:
    if isinstance(panel, str):
        yield f"<p>{escape(panel)}</p>"
        return
    if panel.title:
        yield f"<h3>{escape(panel.title)}</h3>"
    match panel:
        case Chart():
            yield lines(panel.lines, height=panel.height, box=panel.box, marks=panel.marks)
        case Bars():
            yield bars(panel.names, panel.values, colour=COLOURS[0])
        case Picture():
            yield picture(panel.pixels, height=panel.height)


# --- stages -------------------------------------------------------------------------


def _stage_table(told: Explanation) -> str:
    columns = shown_labels(told)
    head = "".join(f"<th>{escape(told.labels[one])}</th>" for one in columns)
    rows = "".join(_stage_row(stage, columns) for stage in told.stages)
    unit = f"<caption>Values in {escape(told.unit)}</caption>" if told.unit else ""
    return f"<table>{unit}<tr><th>stage</th><th>what</th>{head}</tr>{rows}</table>"


def _stage_row(stage: Stage, columns: Sequence[int]) -> str:
    values = stage.values
    cells = "".join(
        f'<td class="number">{"" if values is None else f"{values[one]:.6g}"}</td>'
        for one in columns
    )
    return f"<tr><th>{escape(stage.name)}</th><td>{escape(stage.what)}</td>{cells}</tr>"
