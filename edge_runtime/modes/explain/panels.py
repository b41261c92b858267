"""What is drawn of an explanation, whoever draws it: sections of charts, bars and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np

from edge_runtime.modes.explain.charts import COLOURS, Line, Mark
from edge_runtime.modes.explain.explanation import Explanation
from edge_runtime.modes.explain.found import Found
from edge_runtime.modes.explain.stages import limit_text
from edge_runtime.plural import counted
from edge_runtime.spec import ImageSpec, Limit

__all__ = [
    "VERDICT_COLOURS",
    "Bars",
    "Chart",
    "Panel",
    "Picture",
    "facts_of",
    "sections",
    "shown_labels",
]

_MOST_CHANNELS = 12
_MOST_LABELS = 12
_MOST_BARS = 128
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RED, _GREEN, _GREY = "#b91c1c", "#15803d", "#6b7280"

VERDICT_COLOURS = {True: _GREEN, False: _RED, None: _GREY}
"""By whether the answer is what the device had made."""


class Chart(msgspec.Struct, frozen=True, eq=False):
    """Lines over one axis.

    Attributes:
        title: Empty for none.
        lines: At least one.
        height: In pixels.
        box: Part of the axis that is shaded.
        marks: Vertical lines with words.
    """

    title: str
    lines: Sequence[Line]
    height: int = 130
    box: tuple[float, float] | None = None
    marks: Sequence[Mark] = ()


class Bars(msgspec.Struct, frozen=True, eq=False):
    """A bar for each value, with its name below."""

    title: str
    names: Sequence[str]
    values: Sequence[float]
    height: int = 130


class Picture(msgspec.Struct, frozen=True, eq=False):
    """A matrix, shape (rows, columns), grey, or (rows, columns, 3), 0 to 255."""

    title: str
    pixels: np.ndarray
    height: int = 180


Panel = str | Chart | Bars | Picture
"""A sentence, or something drawn."""


def facts_of(told: Explanation) -> str:
    """Say which model, base, layers and window it was."""
    layers = f", layers {', '.join(told.layers)}" if told.layers else ", no layers"
    return (
        f"{told.model}, base {told.base[:16]}{layers}, effective id {told.effective_id}; "
        f"window {_time(told.start_ns)} to {_time(told.end_ns)}, clock {told.clock}"
    )


def shown_labels(told: Explanation) -> list[int]:
    """Return the labels to show: those with the largest values, where there are many."""
    value = np.nan_to_num(told.history[-1].value)
    order = np.argsort(-value, kind="stable")[:_MOST_LABELS]
    return sorted(order.tolist())


def sections(told: Explanation, found: Found) -> Iterator[tuple[str, Iterator[Panel]]]:
    """Yield title and content of what is drawn, from top to bottom.

    Args:
        told: In words and numbers.
        found: The same as arrays.
    """
    yield "Values and limits, up to this window", _history(told)
    yield "Signal", _signal(told, found)
    yield "What the model was shown", _shown(told, found)


def _time(time_ns: int) -> str:
    instant = _EPOCH + timedelta(microseconds=time_ns // 1000)
    return f"{instant:%Y-%m-%d %H:%M:%S}.{instant.microsecond // 1000:03} UTC"


# --- history ------------------------------------------------------------------------


def _history(told: Explanation) -> Iterator[Panel]:
    limits = {limit.label: limit for limit in told.limits}
    decided = [one.label for moment in told.history for one in moment.decisions]
    wanted = [label for label in told.labels if label in limits or label in decided]
    if len(wanted) > _MOST_LABELS:
        columns = shown_labels(told)
        wanted = [label for label in wanted if told.labels.index(label) in columns]
    for label in wanted or told.labels[:1]:
        yield _history_of(told, told.labels.index(label), limits.get(label))


def _history_of(told: Explanation, column: int, limit: Limit | None) -> Chart:
    x = np.array([moment.index for moment in told.history], np.float64)
    value = np.array([moment.value[column] for moment in told.history])
    smoothed = np.array(
        [np.nan if moment.smoothed is None else moment.smoothed[column] for moment in told.history]
    )
    drawn = [Line("value", x, value, COLOURS[0], has_dots=True)]
    if not np.array_equal(smoothed, value, equal_nan=True):
        drawn.append(Line("smoothed", x, smoothed, COLOURS[3]))
    if limit is not None:
        # A single window is a point, and a line needs two.
        room = 0.0 if len(x) > 1 else 0.5
        drawn += _limit_lines(limit, np.array([x[0] - room, x[-1] + room]))
    marks = [
        Mark(one.index, one.edge, _RED if one.edge == "start" else _GREEN)
        for moment in told.history
        for one in moment.decisions
        if one.label == told.labels[column]
    ]
    title = told.labels[column] + ("" if limit is None else f": {limit_text(limit)}")
    return Chart(title, drawn, height=190, box=(x[-1], x[-1]), marks=marks)


def _limit_lines(limit: Limit, ends: np.ndarray) -> Iterator[Line]:
    levels = [("on", limit.on, _RED), ("off", limit.off, _GREEN)]
    if limit.reject is not None:
        levels += [
            ("uncertain from", limit.reject.low, _GREY),
            ("uncertain below", limit.reject.high, _GREY),
        ]
    for word, level, colour in levels:
        yield Line(f"{word} {level:g}", ends, np.full(2, level), colour, is_dashed=True)


# --- signal -------------------------------------------------------------------------


def _signal(told: Explanation, found: Found) -> Iterator[Panel]:
    image = found.spec.stream.image
    if image is not None:
        yield Picture("", _pixels(found.trace.samples, image), height=240)
        return
    signal = found.signal
    values = signal.samples.astype(np.float64)
    if told.quality:
        yield f"Suspect samples in the window: {', '.join(told.quality)}"
    for column, (name, unit) in enumerate(told.channels[:_MOST_CHANNELS]):
        drawn = Line("", signal.places, values[:, column], COLOURS[0])
        yield Chart(f"{name}, {unit}" if unit else name, [drawn], height=80, box=signal.box)
    if len(told.channels) > _MOST_CHANNELS:
        yield f"and {counted(len(told.channels) - _MOST_CHANNELS, 'channel')} more"


def _pixels(samples: np.ndarray, image: ImageSpec) -> np.ndarray:
    if image.colour == "grey":
        return samples.reshape(-1, image.width)
    pixels = samples.reshape(-1, image.width, 3)
    return pixels[:, :, ::-1] if image.colour == "bgr" else pixels


# --- features -----------------------------------------------------------------------


def _shown(told: Explanation, found: Found) -> Iterator[Panel]:
    if told.features is not None:
        yield _drawn("Features", np.array(told.features), told)
    if told.normalised is not None:
        yield _drawn("Normalised", np.array(told.normalised), told)
    if told.features is None and told.normalised is None:
        yield "The samples themselves, as the signal above shows them."
    tensor = found.trace.asked[-1].tensor
    yield _drawn("Input tensor", tensor.astype(np.float64).ravel(), told)


def _drawn(title: str, values: np.ndarray, told: Explanation) -> Panel:
    """Draw a matrix as a picture, few numbers as bars, and more as a line."""
    shape = told.feature_shape or (len(told.samples), len(told.channels))
    if len(shape) == 2 and min(shape) > 1 and values.size == shape[0] * shape[1]:
        # Time from left to right, the first feature at the bottom.
        return Picture(title, values.reshape(shape).T[::-1])
    if values.size <= _MOST_BARS:
        names = [name for name, _ in told.channels]
        if len(names) != values.size:
            names = [str(one) for one in range(values.size)]
        return Bars(title, names, values.tolist())
    return Chart(title, [Line("", np.arange(values.size, dtype=np.float64), values, COLOURS[0])])
