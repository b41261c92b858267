"""The report's pictures: dark on light, labelled where the eye is, units on every axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_simulator.demo.evaluate import DAY_ROWS, Answers
from edge_simulator.demo.outcome import Outcome, Replay

__all__ = ["COLOURS", "NAMES", "Picture", "draw_all"]

NAMES = {
    "edge_only": "network alone",
    "cloud_only": "cloud only",
    "ridge_only": "ridge, no network",
    "hybrid": "hybrid",
}
COLOURS = {
    "edge_only": "#8b8f98",
    "cloud_only": "#a9825a",
    "ridge_only": "#c8553d",
    "hybrid": "#0b6fa4",
}
_INK, _FAINT, _GRID, _SHADE = "#23272f", "#6b7280", "#e6e8ec", "#f3e3d3"
_DPI = 150
_UNIT = "mg/m³"

Picture = tuple[str, str, str]
"""File name, title, one sentence that says what to see."""


def draw_all(
    folder: Path,
    answers: Answers,
    outcome: Outcome,
    backlog: Sequence[tuple[int, int]],
) -> list[Picture]:
    """Draw every picture for which this run has the numbers.

    Args:
        folder: Takes the PNG files.
        answers: Every variant's answers.
        outcome: What was measured.
        backlog: Samples of (last released row, rows waiting on the device).
    """
    drawings: list[tuple[Picture, Callable[[], Any] | None]] = [
        (_MONTHS, lambda: _months(outcome)),
        (_YEARS, lambda: _years(outcome)),
        (_WEEK, lambda: _week(answers)),
        (
            _CUT,
            (lambda: _cut(answers, outcome, backlog))
            if outcome.marks.cut_first_row is not None
            else None,
        ),
        (_LAYERS, (lambda: _layers(outcome.ablation)) if outcome.ablation else None),
        (_DELAY, (lambda: _delay(outcome.label_delay)) if outcome.label_delay else None),
    ]
    drawn = []
    for picture, draw in drawings:
        if draw is None:
            continue
        figure = draw()
        figure.suptitle(picture[1], x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK)
        figure.savefig(folder / picture[0], dpi=_DPI, facecolor="white")
        drawn.append(picture)
    return drawn


_MONTHS: Picture = (
    "error_by_month.png",
    "Error per month",
    "The network alone drifts away from the plant; layers from the cloud hold the hybrid.",
)
_YEARS: Picture = (
    "error_by_year.png",
    "Error per year",
    "Bars are means, whiskers 95 % block-bootstrap intervals over weeks.",
)
_WEEK: Picture = (
    "week.png",
    "A week of answers",
    "The hybrid's answer is the device's own, made the moment the row came in.",
)
_CUT: Picture = (
    "cut.png",
    "Two weeks without a network",
    "The device goes on deciding with the layers it has; rows wait on its disk, then drain.",
)
_LAYERS: Picture = (
    "layers.png",
    "Which layer brings what",
    "Offline replays without faults, one more kind of layer each.",
)
_DELAY: Picture = (
    "label_delay.png",
    "The later the labels, the larger the error",
    "The same refresh with labels 0, 24 and 48 rows late.",
)


# --- the pictures ------------------------------------------------------------------


def _months(outcome: Outcome) -> Any:
    figure, axes = _figure(9.6, 4.6)
    months = outcome.months
    middle = np.array([month.first_row for month in months]) + 360
    for name, colour in COLOURS.items():
        errors = [month.errors[name] for month in months]
        width = 2.6 if name == "hybrid" else 1.6
        axes.plot(middle, errors, color=colour, linewidth=width, solid_capstyle="round", zorder=3)
    ends = {name: months[-1].errors[name] for name in COLOURS}
    _label_ends(axes, middle[-1], ends)
    _mark_story(axes, outcome)
    _year_axis(axes, outcome)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"mean absolute error of NOx, {_UNIT}")
    return figure


def _years(outcome: Outcome) -> Any:
    figure, axes = _figure(9.6, 3.9)
    years = sorted(outcome.mae_interval["hybrid"])
    step = 0.8 / len(COLOURS)
    for position, (name, colour) in enumerate(COLOURS.items()):
        intervals = [outcome.mae_interval[name][year] for year in years]
        x = np.arange(len(years)) + (position - 1.5) * step
        value = np.array([interval.value for interval in intervals])
        low = np.array([interval.low for interval in intervals])
        high = np.array([interval.high for interval in intervals])
        axes.bar(x, value, width=step * 0.86, color=colour, zorder=3)
        axes.vlines(x, low, high, color=_INK, linewidth=1.1, zorder=4)
        for at, top, number in zip(x, high, value, strict=True):
            axes.annotate(
                f"{number:.2f}",
                (at, top),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                color=_INK,
                fontsize=9,
                fontweight="bold" if name == "hybrid" else "normal",
            )
    axes.set_xticks(np.arange(len(years)), years)
    _legend(figure)
    axes.set_ylabel(f"mean absolute error, {_UNIT}")
    return figure


def _week(answers: Answers) -> Any:
    figure, axes = _figure(9.6, 3.9)
    rows = _typical_week(answers)
    hours = np.arange(len(rows))
    shown = {"edge_only": COLOURS["edge_only"], "hybrid": COLOURS["hybrid"]}
    axes.plot(hours, answers.truth[rows], color=_INK, linewidth=1.3, zorder=4)
    for name, colour in shown.items():
        axes.plot(hours, answers.variants[name][rows], color=colour, linewidth=2.0, zorder=3)
    last = {name: float(answers.variants[name][rows][-1]) for name in shown}
    _label_ends(axes, hours[-1], last, extra={"measured": (float(answers.truth[rows][-1]), _INK)})
    axes.set_xticks(np.arange(0, len(rows) + 1, DAY_ROWS))
    axes.set_xlabel(
        f"hours of running, from data row {answers.row[rows[0]]} ({answers.year[rows[0]]})"
    )
    axes.set_ylabel(f"NOx, {_UNIT}")
    return figure


def _cut(answers: Answers, outcome: Outcome, backlog: Sequence[tuple[int, int]]) -> Any:
    figure, (upper, lower) = _figure(9.6, 5.0, rows=2)
    first, last = outcome.marks.cut_first_row or 0, outcome.marks.cut_last_row or 0
    view = (first - 10 * DAY_ROWS, last + 10 * DAY_ROWS)
    days, errors = _daily(answers, view)
    for name in ("edge_only", "ridge_only", "hybrid"):
        width = 2.6 if name == "hybrid" else 1.6
        upper.plot(days, errors[name], color=COLOURS[name], linewidth=width, zorder=3)
    shown = ("edge_only", "ridge_only", "hybrid")
    _label_ends(upper, days[-1], {name: errors[name][-1] for name in shown})
    upper.set_ylabel(f"error per day, {_UNIT}")
    upper.set_ylim(bottom=0)
    waiting = np.array([sample for sample in backlog if view[0] <= sample[0] <= view[1]])
    if len(waiting):
        x = (waiting[:, 0] - first) / DAY_ROWS
        lower.fill_between(x, waiting[:, 1], color=COLOURS["hybrid"], alpha=0.18, linewidth=0)
        lower.plot(x, waiting[:, 1], color=COLOURS["hybrid"], linewidth=1.8)
    lower.set_ylabel("rows waiting")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("days since the cut")
    for axes in (upper, lower):
        axes.axvspan(0, (last - first) / DAY_ROWS, color=_SHADE, zorder=0)
    _note(upper, (last - first) / DAY_ROWS / 2, "link cut")
    if outcome.marks.kill_row is not None and view[0] < outcome.marks.kill_row < view[1]:
        _line(upper, (outcome.marks.kill_row - first) / DAY_ROWS, "SIGKILL", height=0.9)
    return figure


def _layers(replays: Sequence[Replay]) -> Any:
    years = sorted(replays[0].hybrid)
    figure, panels = _figure(9.6, 3.4, columns=len(years))
    panels = np.atleast_1d(panels)
    for axes, year in zip(panels, years, strict=True):
        values = np.array([replay.hybrid[year] for replay in replays])
        y = np.arange(len(values))[::-1]
        shades = [COLOURS["edge_only"]] + [COLOURS["hybrid"]] * (len(values) - 1)
        axes.barh(y, values, color=shades, height=0.62, zorder=3)
        for at, value, before in zip(y, values, [None, *values[:-1]], strict=True):
            change = "" if before is None else f"  ({100 * (value / before - 1):+.0f} %)"
            axes.annotate(
                f"{value:.2f}{change}",
                (value, at),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=_INK,
            )
        axes.set_xlim(0, values.max() * 1.42)
        names = [replay.name for replay in replays] if axes is panels[0] else []
        axes.set_yticks(y, names)
        axes.set_title(year, fontsize=11, color=_INK, loc="left")
        axes.set_xlabel(f"error, {_UNIT}")
        axes.grid(visible=False, axis="y")
    return figure


def _delay(replays: Sequence[Replay]) -> Any:
    figure, axes = _figure(9.6, 3.6)
    years = sorted(replays[0].hybrid)
    x = np.arange(len(years))
    step = 0.8 / len(replays)
    for position, replay in enumerate(replays):
        at = x + (position - (len(replays) - 1) / 2) * step
        shade = _blend(COLOURS["hybrid"], 0.55 + 0.45 * position / max(1, len(replays) - 1))
        value = np.array([replay.hybrid[year] for year in years])
        axes.bar(at, value, width=step * 0.86, color=shade, zorder=3)
        axes.hlines(
            [replay.ridge[year] for year in years],
            at - step * 0.43,
            at + step * 0.43,
            color=COLOURS["ridge_only"],
            linewidth=2,
            zorder=4,
        )
        for place, number in zip(at, value, strict=True):
            _inside(axes, f"{replay.name} h", (place, 0), 5)
            _inside(axes, f"{number:.2f}", (place, number), -13, weight="bold")
    axes.set_xticks(x, years)
    axes.set_ylabel(f"mean absolute error, {_UNIT}")
    _legend(figure, ("hybrid", "ridge_only"))
    return figure


def _inside(axes: Any, text: str, at: tuple[float, float], up: int, weight: str = "normal") -> None:
    """Write inside a dark bar, ``up`` points from ``at``."""
    axes.annotate(
        text,
        at,
        xytext=(0, up),
        textcoords="offset points",
        ha="center",
        color="white",
        fontsize=9,
        fontweight=weight,
        zorder=5,
    )


# --- what they share ----------------------------------------------------------------


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    ratios = [1.6, 1.0] if rows == 2 else None
    axes = figure.subplots(rows, columns, sharex=rows > 1, height_ratios=ratios)
    for one in np.atleast_1d(axes).flat:
        _plain(one)
    return figure, axes


def _blend(colour: str, strength: float) -> tuple[float, ...]:
    """Mix a colour with white; unlike transparency it hides the grid."""
    from matplotlib.colors import to_rgb

    return tuple(1 - strength * (1 - part) for part in to_rgb(colour))


def _plain(axes: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(colors=_FAINT, length=0, labelsize=9)
    axes.grid(axis="y", color=_GRID, linewidth=0.9)
    axes.grid(axis="x", visible=False)
    axes.set_axisbelow(True)
    axes.yaxis.label.set_color(_FAINT)
    axes.xaxis.label.set_color(_FAINT)


def _label_ends(
    axes: Any,
    x: float,
    ends: Mapping[str, float],
    extra: Mapping[str, tuple[float, str]] | None = None,
) -> None:
    """Name each line at its right end, pushed apart so that no two names touch."""
    named = [(value, NAMES[name], COLOURS[name]) for name, value in ends.items()]
    named += [(value, name, colour) for name, (value, colour) in (extra or {}).items()]
    low, high = axes.get_ylim()
    gap = (high - low) * 0.065
    free = -np.inf
    for value, name, colour in sorted(named):
        free = max(value, free + gap)
        axes.annotate(
            name,
            (x, free),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=10,
            fontweight="bold" if name == NAMES["hybrid"] else "normal",
            annotation_clip=False,
        )


def _legend(figure: Any, names: Sequence[str] = tuple(COLOURS)) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[name], linewidth=5, label=NAMES[name]) for name in names
    ]
    figure.legend(
        handles=handles,
        loc="outside upper right",
        ncols=len(names),
        frameon=False,
        labelcolor=_INK,
        fontsize=9.5,
        handlelength=1.1,
    )


def _year_axis(axes: Any, outcome: Outcome) -> None:
    starts = {month.year: month.first_row for month in reversed(outcome.months)}
    axes.set_xticks(list(starts.values()), [str(year) for year in starts], ha="left")
    axes.set_xlim(min(starts.values()), outcome.months[-1].first_row + 720)
    for row in list(starts.values())[:-1]:
        axes.axvline(row, color=_GRID, linewidth=0.9, zorder=0)


def _mark_story(axes: Any, outcome: Outcome) -> None:
    marks = outcome.marks
    if marks.swap_row is not None:
        _line(axes, marks.swap_row, "base 2.0.0")
    if marks.cut_first_row is not None and marks.cut_last_row is not None:
        axes.axvspan(marks.cut_first_row, marks.cut_last_row, color=_SHADE, zorder=0)
        _note(axes, (marks.cut_first_row + marks.cut_last_row) / 2, "link cut")
    if marks.kill_row is not None:
        _line(axes, marks.kill_row, "SIGKILL", height=0.94)


def _line(axes: Any, x: float, text: str, height: float = 1.0) -> None:
    axes.axvline(x, color=_FAINT, linewidth=1.0, linestyle=(0, (3, 3)), zorder=1)
    _note(axes, x, text, height)


def _note(axes: Any, x: float, text: str, height: float = 1.0) -> None:
    """Write above the axes, or, with a lower height, beside a line inside them."""
    is_above = height >= 1.0
    axes.annotate(
        text,
        (x, height),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3) if is_above else (5, 0),
        textcoords="offset points",
        ha="center" if is_above else "left",
        va="bottom",
        color=_FAINT,
        fontsize=9,
    )


def _typical_week(answers: Answers) -> np.ndarray:
    """Choose the week whose hybrid error is nearest to the median of the last year's weeks."""
    last = np.flatnonzero(answers.year == answers.year[-1])
    week = 7 * DAY_ROWS
    starts = last[: len(last) - week + 1 : week] if len(last) >= week else last[:1]
    errors = answers.errors("hybrid")
    means = np.array([errors[start : start + week].mean() for start in starts])
    chosen = starts[np.argmin(np.abs(means - np.median(means)))]
    return np.arange(chosen, min(chosen + week, len(answers.row)))


def _daily(answers: Answers, view: tuple[int, int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return days counted from the cut, and errors per day by variant."""
    inside = np.flatnonzero((answers.row >= view[0]) & (answers.row < view[1]))
    whole = inside[: len(inside) // DAY_ROWS * DAY_ROWS].reshape(-1, DAY_ROWS)
    first_cut = view[0] + 10 * DAY_ROWS
    days = (answers.row[whole[:, 0]] - first_cut) / DAY_ROWS + 0.5
    return days, {name: answers.errors(name)[whole].mean(axis=1) for name in answers.variants}
