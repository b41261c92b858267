"""An explanation as one picture; needs matplotlib, which the extra ``demo`` brings."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from typing import Any

from edge_runtime.errors import MissingExtra
from edge_runtime.modes.explain.charts import COLOURS
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

__all__ = ["picture_of"]

_DPI = 100
# In pixels: the picture, what stands beside and below axes, and a line of text.
_WIDTH, _LEFT, _RIGHT, _ABOVE, _BELOW = 900, 60, 20, 24, 22
_LINE = 16
_LETTERS = 118
_NAMES = 40


def picture_of(told: Explanation, found: Found) -> bytes:
    """Return the picture as PNG: what the page shows, from top to bottom.

    Args:
        told: In words and numbers.
        found: The same as arrays, to be drawn.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra.of("a picture", "matplotlib", "demo") from error
    panels: list[Panel] = ["\n".join(_words(told))]
    for title, drawn in sections(told, found):
        panels += [title, *drawn]
    height = sum(_height(panel) + _ABOVE + _BELOW for panel in panels)
    figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI)
    top = height
    for panel in panels:
        top -= _ABOVE + _height(panel)
        # Placed by hand: to let the axes find their room takes longer than to draw them.
        place = (_LEFT, top, _WIDTH - _LEFT - _RIGHT, _height(panel))
        _draw(figure.add_axes(_shares(place, height)), panel)
        top -= _BELOW
    words = figure.axes[0]
    words.set_title(told.result, loc="left", fontweight="bold", fontsize=11)
    words.spines["left"].set(visible=True, color=VERDICT_COLOURS[told.is_equal], linewidth=4)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _words(told: Explanation) -> Iterator[str]:
    """Yield the lines above the drawings: facts, verdict, and what each stage did."""
    yield from textwrap.wrap(facts_of(told), _LETTERS)
    yield told.verdict
    yield ""
    for stage in told.stages:
        values = ""
        if stage.values is not None:
            columns = shown_labels(told)
            values = ": " + ", ".join(f"{told.labels[n]} {stage.values[n]:.6g}" for n in columns)
        said = textwrap.wrap(f"{stage.what}{values}", _LETTERS - 14) or [""]
        yield f"{stage.name:<14}{said[0]}"
        yield from (f"{'':14}{line}" for line in said[1:])


def _height(panel: Panel) -> int:
    return _LINE * (1 + panel.count("\n")) if isinstance(panel, str) else panel.height


def _shares(place: tuple[int, int, int, int], height: int) -> tuple[float, float, float, float]:
    """Return left, bottom, width and height as shares of the picture."""
    left, bottom, width, tall = place
    return left / _WIDTH, bottom / height, width / _WIDTH, tall / height


def _draw(axes: Any, panel: Panel) -> None:
    if isinstance(panel, str):
        _write(axes, panel)
        return
    axes.set_title(panel.title, loc="left", fontsize=9)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    match panel:
        case Chart():
            _draw_lines(axes, panel)
        case Bars():
            axes.bar(range(len(panel.values)), panel.values, color=COLOURS[0])
            if len(panel.names) <= _NAMES:
                axes.set_xticks(range(len(panel.names)), panel.names)
        case Picture():
            axes.imshow(panel.pixels, cmap="gray", aspect="auto", interpolation="nearest")
            axes.set_axis_off()


def _write(axes: Any, text: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    is_title = "\n" not in text
    axes.text(
        0.01,
        0.5,
        text,
        transform=axes.transAxes,
        verticalalignment="center",
        fontfamily="sans-serif" if is_title else "monospace",
        fontsize=10 if is_title else 7.5,
    )


def _draw_lines(axes: Any, chart: Chart) -> None:
    if chart.box is not None:
        first, last = chart.box
        axes.axvspan(first, last, color="#dbeafe", linewidth=4)
    for line in chart.lines:
        axes.plot(
            line.x,
            line.y,
            color=line.colour,
            label=line.name or None,
            linestyle="--" if line.is_dashed else "-",
            linewidth=1.2,
            marker="." if line.has_dots or len(line.x) == 1 else "",
        )
    words = {mark.word: mark.colour for mark in chart.marks}
    for mark in chart.marks:
        axes.axvline(mark.x, color=mark.colour, linewidth=0.8)
    for word, colour in words.items():
        axes.plot([], [], color=colour, linewidth=0.8, label=word)
    axes.grid(axis="y", color="#e5e7eb")
    if words or any(line.name for line in chart.lines):
        axes.legend(
            fontsize=7, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=8, frameon=False
        )
