"""The trade-off as a picture; needs matplotlib, which the extra ``demo`` brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError, MissingExtra
from edge_runtime.thresholds.search import Found

__all__ = ["plot_curves"]

_INCHES = (7.0, 4.5)


def plot_curves(path: Path, found: Sequence[Found], alarms_per_hour: float) -> None:
    """Draw missed events over false alarms an hour, a line for each label.

    Args:
        path: The picture to write; its suffix chooses the kind, such as ``.png``.
        found: What was found.
        alarms_per_hour: The budget, drawn as a line.

    Raises:
        ConfigError: The picture cannot be written.
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra.of("--plot", "matplotlib", "demo") from error
    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.add_subplot()
    for one in found:
        _draw(axes, one)
    axes.axvline(alarms_per_hour, linestyle=":", color="grey", label="budget")
    axes.set_title("Missed events and false alarms, by threshold; a ring marks the choice")
    axes.set(xlabel="false alarms per hour", ylabel="missed events, %", ylim=(-3, 103))
    axes.set_xscale("symlog", linthresh=max(alarms_per_hour / 10, 1e-3))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot be written ({error})", where=str(path), expected="a path such as curve.png"
        ) from error


def _draw(axes: Any, one: Found) -> None:
    points = [(point.alarms_per_hour, _missed(one, point.outcome.missed)) for point in one.curve]
    (line,) = axes.plot(*zip(*points, strict=True), marker=".", label=one.label)
    if one.point is not None:
        chosen = one.point.alarms_per_hour, _missed(one, one.point.outcome.missed)
        axes.plot(*chosen, marker="o", markersize=10, fillstyle="none", color=line.get_color())


def _missed(one: Found, missed: int) -> float:
    return 100.0 * missed / one.events
