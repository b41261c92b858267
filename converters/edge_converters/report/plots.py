"""Drawings of a report, in the SVG of explanations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edge_converters.report.contents import CandidateRow
from edge_runtime.modes.explain.charts import COLOURS, Line, lines

__all__ = ["Cost", "Reach", "pareto_plot", "sparkline"]

_HEIGHT = 240
_ROOM = 0.08
_SPARK_WIDTH, _SPARK_HEIGHT = 128, 18


Cost = Callable[[CandidateRow], float | None]
"""Where a file stands on the axis; None leaves it out."""

Reach = Callable[[CandidateRow], tuple[float, float] | None]
"""From where to where its cost may lie; None draws no interval."""


def pareto_plot(rows: Sequence[CandidateRow], cost: Cost, reach: Reach) -> str:
    """Draw the metric over a cost, a dot and intervals for each file; empty without numbers."""
    shown = [(one, place) for one in rows if (place := cost(one)) is not None]
    shown = [(one, place) for one, place in shown if one.value is not None]
    if not shown:
        return ""
    ends = [end for one, _ in shown for end in reach(one) or ()]
    drawn = [_room([*(place for _, place in shown), *ends])]
    for number, (one, place) in enumerate(shown):
        drawn += _dot(one, place, reach(one), COLOURS[number % len(COLOURS)])
    return lines(drawn, height=_HEIGHT)


def sparkline(counts: Sequence[int]) -> str:
    """Draw a histogram as high as a line of text."""
    if not counts:
        return ""
    width = _SPARK_WIDTH / len(counts)
    # The root shows rare values, which are what clipping loses.
    heights = np.sqrt(np.array(counts) / max(1, *counts)) * _SPARK_HEIGHT
    bars = "".join(
        f'<rect x="{number * width:.1f}" y="{_SPARK_HEIGHT - high:.1f}" width="{width:.1f}" '
        f'height="{high:.1f}" fill="{COLOURS[0]}"/>'
        for number, high in enumerate(heights)
        if high > 0
    )
    return (
        f'<svg viewBox="0 0 {_SPARK_WIDTH} {_SPARK_HEIGHT}" width="{_SPARK_WIDTH}" '
        f'height="{_SPARK_HEIGHT}">{bars}</svg>'
    )


def _room(places: Sequence[float]) -> Line:
    """Return a line without points that leaves room beside the outermost dots."""
    low, high = min(places), max(places)
    room = _ROOM * ((high - low) or high or 1.0)
    nothing = np.full(2, np.nan)
    return Line("", np.array([low - room, high + room]), nothing, COLOURS[0])


def _dot(
    one: CandidateRow, place: float, reach: tuple[float, float] | None, colour: str
) -> list[Line]:
    drawn = [Line(one.name, np.array([place]), np.array([one.value]), colour, has_dots=True)]
    if one.interval is not None:
        drawn.append(Line("", np.array([place, place]), np.array(one.interval), colour))
    if reach is not None:
        level = np.array([one.value, one.value])
        drawn.append(Line("", np.array(reach), level, colour, is_dashed=True))
    return drawn
