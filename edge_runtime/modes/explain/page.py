"""An explanation as one web page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from html import escape

import numpy as np

from edge_runtime.modes.explain.charts import COLOURS, Line, Mark, bars, lines, picture
from edge_runtime.modes.explain.explanation import Explanation
from edge_runtime.modes.explain.found import Found
from edge_runtime.modes.explain.stages import Stage, limit_text
from edge_runtime.spec import ImageSpec, Limit

__all__ = ["page_of"]

_MOST_CHANNELS = 12
_MOST_LABELS = 12
_MOST_BARS = 128
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RED, _GREEN, _GREY = "#b91c1c", "#15803d", "#6b7280"

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
    yield f'<p class="facts">{escape(_facts(told))}</p>'
    colour = {True: _GREEN, False: _RED, None: _GREY}[told.is_equal]
    yield f'<p class="verdict" style="border-color:{colour}">{escape(told.verdict)}</p>'
    yield "<h2>What each stage did</h2>"
    yield _stage_table(told)
    yield "<h2>Values and limits, up to this window</h2>"
    yield from _history(told)
    yield "<h2>Signal</h2>"
    yield from _signal(told, found)
    yield "<h2>What the model was shown</h2>"
    yield from _shown(told, found)


def _facts(told: Explanation) -> str:
    layers = f", layers {', '.join(told.layers)}" if told.layers else ", no layers"
    return (
        f"{told.model}, base {told.base[:16]}{layers}, effective id {told.effective_id}; "
        f"window {_time(told.start_ns)} to {_time(told.end_ns)}, clock {told.clock}"
    )


def _time(time_ns: int) -> str:
    instant = _EPOCH + timedelta(microseconds=time_ns // 1000)
    return f"{instant:%Y-%m-%d %H:%M:%S}.{instant.microsecond // 1000:03} UTC"


# --- stages -------------------------------------------------------------------------


def _stage_table(told: Explanation) -> str:
    columns = _columns(told)
    head = "".join(f"<th>{escape(told.labels[one])}</th>" for one in columns)
    rows = "".join(_stage_row(stage, columns) for stage in told.stages)
    unit = f"<caption>Values in {escape(told.unit)}</caption>" if told.unit else ""
    return f"<table>{unit}<tr><th>stage</th><th>what</th>{head}</tr>{rows}</table>"


def _columns(told: Explanation) -> list[int]:
    """Return the labels to show: those with the largest values, where there are many."""
    value = np.nan_to_num(told.history[-1].value)
    order = np.argsort(-value, kind="stable")[:_MOST_LABELS]
    return sorted(order.tolist())


def _stage_row(stage: Stage, columns: Sequence[int]) -> str:
    values = stage.values
    cells = "".join(
        f'<td class="number">{"" if values is None else f"{values[one]:.6g}"}</td>'
        for one in columns
    )
    return f"<tr><th>{escape(stage.name)}</th><td>{escape(stage.what)}</td>{cells}</tr>"


# --- history ------------------------------------------------------------------------


def _history(told: Explanation) -> Iterator[str]:
    limits = {limit.label: limit for limit in told.limits}
    decided = [one.label for moment in told.history for one in moment.decisions]
    wanted = [label for label in told.labels if label in limits or label in decided]
    if len(wanted) > _MOST_LABELS:
        columns = _columns(told)
        wanted = [label for label in wanted if told.labels.index(label) in columns]
    for label in wanted or told.labels[:1]:
        limit = limits.get(label)
        yield f"<h3>{escape(label)}{'' if limit is None else f': {escape(limit_text(limit))}'}</h3>"
        yield _history_of(told, told.labels.index(label), limit)


def _history_of(told: Explanation, column: int, limit: Limit | None) -> str:
    x = np.array([moment.index for moment in told.history], np.float64)
    value = np.array([moment.value[column] for moment in told.history])
    smoothed = np.array(
        [np.nan if moment.smoothed is None else moment.smoothed[column] for moment in told.history]
    )
    drawn = [Line("value", x, value, COLOURS[0], has_dots=True)]
    if not np.array_equal(smoothed, value, equal_nan=True):
        drawn.append(Line("smoothed", x, smoothed, COLOURS[3]))
    if limit is not None:
        drawn += _limit_lines(limit, np.array([x[0], x[-1]]))
    marks = [
        Mark(one.index, one.edge, _RED if one.edge == "start" else _GREEN)
        for moment in told.history
        for one in moment.decisions
        if one.label == told.labels[column]
    ]
    return lines(drawn, height=190, box=(x[-1], x[-1]), marks=marks)


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


def _signal(told: Explanation, found: Found) -> Iterator[str]:
    image = found.spec.stream.image
    if image is not None:
        yield picture(_pixels(found.trace.samples, image), height=240)
        return
    signal = found.signal
    values = signal.samples.astype(np.float64)
    if told.quality:
        yield f"<p>Suspect samples in the window: {escape(', '.join(told.quality))}</p>"
    for column, (name, unit) in enumerate(told.channels[:_MOST_CHANNELS]):
        yield f"<h3>{escape(name)}{f', {escape(unit)}' if unit else ''}</h3>"
        drawn = Line("", signal.places, values[:, column], COLOURS[0])
        yield lines([drawn], height=80, box=signal.box)
    if len(told.channels) > _MOST_CHANNELS:
        yield f"<p>and {len(told.channels) - _MOST_CHANNELS} channels more</p>"


def _pixels(samples: np.ndarray, image: ImageSpec) -> np.ndarray:
    if image.colour == "grey":
        return samples.reshape(-1, image.width)
    pixels = samples.reshape(-1, image.width, 3)
    return pixels[:, :, ::-1] if image.colour == "bgr" else pixels


# --- features -----------------------------------------------------------------------


def _shown(told: Explanation, found: Found) -> Iterator[str]:
    if told.features is not None:
        yield "<h3>Features</h3>"
        yield _drawn(np.array(told.features), told)
    if told.normalised is not None:
        yield "<h3>Normalised</h3>"
        yield _drawn(np.array(told.normalised), told)
    if told.features is None and told.normalised is None:
        yield "<p>The samples themselves, as the signal above shows them.</p>"
    yield "<h3>Input tensor</h3>"
    tensor = found.trace.asked[-1].tensor
    yield _drawn(tensor.astype(np.float64).ravel(), told)


def _drawn(values: np.ndarray, told: Explanation) -> str:
    """Draw a matrix as a picture, few numbers as bars, and more as a line."""
    shape = told.feature_shape or (len(told.samples), len(told.channels))
    if len(shape) == 2 and min(shape) > 1 and values.size == shape[0] * shape[1]:
        # Time from left to right, the first feature at the bottom.
        return picture(values.reshape(shape).T[::-1])
    if values.size <= _MOST_BARS:
        names = [name for name, _ in told.channels]
        if len(names) != values.size:
            names = [str(one) for one in range(values.size)]
        return bars(names, values.tolist(), colour=COLOURS[0])
    return lines([Line("", np.arange(values.size, dtype=np.float64), values, COLOURS[0])])
