"""Small drawings in SVG: lines, bars and pictures, with nothing from outside."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from html import escape

import msgspec
import numpy as np

__all__ = ["COLOURS", "Line", "Mark", "bars", "lines", "picture"]

COLOURS = ("#1f6feb", "#c2410c", "#15803d", "#7c3aed", "#b91c1c", "#0e7490", "#a16207", "#4b5563")

_WIDTH = 860
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 12, 20
_MOST_POINTS = 800
_BAR_LABELS = 40
# What a letter of a tick takes, with room to spare.
_LETTER = 7.0


class Line(msgspec.Struct, frozen=True, eq=False):
    """One line of a chart.

    Attributes:
        name: For the legend; empty for none.
        x: Places, ascending.
        y: Values; NaN leaves a gap.
        colour: CSS colour.
        is_dashed: Whether it is drawn in dashes.
        has_dots: Whether every point is marked.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: str
    is_dashed: bool = False
    has_dots: bool = False


class Mark(msgspec.Struct, frozen=True):
    """A vertical line with a word below it, where there is room."""

    x: float
    word: str
    colour: str


def lines(
    given: Sequence[Line],
    *,
    height: int = 130,
    box: tuple[float, float] | None = None,
    marks: Sequence[Mark] = (),
) -> str:
    """Draw lines over one axis; ``box`` shades a part of it."""
    plot = _Plot(given, height)
    parts = [] if box is None else [plot.shade(*box)]
    parts += [plot.frame(), *(plot.line(line) for line in given)]
    parts += plot.marks(marks)
    return _svg(height, [*parts, _legend(given)])


def bars(names: Sequence[str], values: Sequence[float], *, colour: str, height: int = 130) -> str:
    """Draw a bar for each value; names stand below as long as there is room."""
    y = np.array(values, np.float64)
    x = np.arange(len(y), dtype=np.float64)
    # Bars stand on zero, which the axis must show.
    plot = _Plot(
        [
            Line("", np.array([-0.5, len(y) - 0.5]), np.array([0.0, 0.0]), colour),
            Line("", x, y, colour),
        ],
        height,
    )
    parts = [plot.frame(), *(plot.bar(one, value, colour) for one, value in zip(x, y, strict=True))]
    if len(y) <= _BAR_LABELS:
        parts += [plot.below(one, name) for one, name in zip(x, names, strict=True)]
    return _svg(height, parts)


def picture(values: np.ndarray, *, height: int = 180) -> str:
    """Draw a matrix as a picture; grey from least to most, or the colours it has.

    Args:
        values: Shape (rows, columns), or (rows, columns, 3) with 0 to 255.
        height: Of the drawing.
    """
    rows, columns = values.shape[:2]
    width = min(_WIDTH - _LEFT - _RIGHT, height * columns / rows)
    width = max(width, min(_WIDTH - _LEFT - _RIGHT, 4 * columns))
    content = base64.b64encode(_png(values)).decode()
    return _svg(
        height,
        [
            f'<image x="{_LEFT}" y="0" width="{width:.0f}" height="{height}" '
            f'preserveAspectRatio="none" style="image-rendering:pixelated" '
            f'href="data:image/png;base64,{content}"/>'
        ],
    )


# --- plotting -----------------------------------------------------------------------


class _Plot:
    """Places of an axis on the paper."""

    def __init__(self, given: Sequence[Line], height: int) -> None:
        self._height = height
        self._x = _range([line.x for line in given], margin=0.0)
        self._y = _range([line.y for line in given], margin=0.06)

    def x(self, value: float) -> float:
        low, high = self._x
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        return self._height - _BOTTOM - (value - low) / (high - low) * self._room

    @property
    def _room(self) -> float:
        return self._height - _TOP - _BOTTOM

    def frame(self) -> str:
        low, high = self._y
        ticks = [low + (high - low) * share for share in (0.06, 0.5, 0.94)]
        grid = [
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{self.y(one):.1f}" '
            f'y2="{self.y(one):.1f}" class="grid"/>'
            f'<text x="{_LEFT - 6}" y="{self.y(one) + 4:.1f}" class="tick" '
            f'text-anchor="end">{one:.4g}</text>'
            for one in ticks
        ]
        return "".join(grid)

    def line(self, line: Line) -> str:
        x, y = _thinned(line.x, line.y)
        points = [f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(x, y, strict=True)]
        dash = ' stroke-dasharray="5 4"' if line.is_dashed else ""
        drawn = f'<polyline points="{" ".join(points)}" stroke="{line.colour}"{dash}/>'
        if not (line.has_dots or len(points) == 1):
            return drawn
        return drawn + "".join(
            f'<circle cx="{one.partition(",")[0]}" cy="{one.partition(",")[2]}" r="2.5" '
            f'fill="{line.colour}"/>'
            for one in points
        )

    def shade(self, first: float, last: float) -> str:
        left, right = self.x(first), self.x(last)
        width = max(right - left, 6.0)
        return (
            f'<rect x="{min(left, right - width):.1f}" y="{_TOP}" width="{width:.1f}" '
            f'height="{self._room:.1f}" class="window"/>'
        )

    def marks(self, marks: Sequence[Mark]) -> Iterator[str]:
        """Draw marks, the newest first: a word that would touch a newer one is left out."""
        taken = float("inf")
        for mark in sorted(marks, key=lambda one: -one.x):
            place, width = self.x(mark.x), _LETTER * len(mark.word)
            left = place - width if place > _WIDTH / 2 else place
            yield (
                f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" '
                f'y2="{self._height - _BOTTOM}" stroke="{mark.colour}"/>'
            )
            if left + width < taken:
                taken = left
                yield self._word(mark, place, "end" if left < place else "start")

    def _word(self, mark: Mark, place: float, anchor: str) -> str:
        return (
            f'<text x="{place:.1f}" y="{self._height - 6}" class="tick" '
            f'text-anchor="{anchor}" style="fill:{mark.colour}">{escape(mark.word)}</text>'
        )

    def bar(self, place: float, value: float, colour: str) -> str:
        left, right = self.x(place - 0.4), self.x(place + 0.4)
        top, bottom = sorted((self.y(0.0), self.y(value if np.isfinite(value) else 0.0)))
        return (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(0.5, right - left):.1f}" '
            f'height="{max(0.5, bottom - top):.1f}" fill="{colour}"/>'
        )

    def below(self, place: float, name: str) -> str:
        return (
            f'<text x="{self.x(place):.1f}" y="{self._height - 5}" class="tick" '
            f'text-anchor="middle">{escape(name[:14])}</text>'
        )


def _range(arrays: Iterable[np.ndarray], margin: float) -> tuple[float, float]:
    """Return the least and the largest number, with room around it."""
    known = np.concatenate([array[np.isfinite(array)] for array in arrays] or [np.zeros(1)])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if low == high:
        low, high = low - (abs(low) or 1.0) * 0.05, high + (abs(high) or 1.0) * 0.05
    return low - margin * (high - low), high + margin * (high - low)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the least and the largest of each piece, so that no peak is lost."""
    known = np.isfinite(y)
    x, y = x[known], y[known]
    if len(y) <= _MOST_POINTS:
        return x, y
    pieces = np.array_split(np.arange(len(y)), _MOST_POINTS // 2)
    places = [sorted((int(p[y[p].argmin()]), int(p[y[p].argmax()]))) for p in pieces]
    kept = np.array(places).ravel()
    return x[kept], y[kept]


def _legend(given: Sequence[Line]) -> str:
    named = [line for line in given if line.name]
    parts, place = [], float(_LEFT)
    for line in named:
        parts.append(
            f'<text x="{place:.0f}" y="{_TOP - 2}" class="tick" style="fill:{line.colour}">'
            f"{escape(line.name)}</text>"
        )
        place += _LETTER * len(line.name) + 18
    return "".join(parts)


def _svg(height: int, parts: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}">{"".join(parts)}</svg>'


# --- pictures -----------------------------------------------------------------------


def _png(values: np.ndarray) -> bytes:
    """Pack a picture, 8 bits a colour. Source: ISO/IEC 15948, the PNG specification."""
    pixels = values.astype(np.uint8) if values.ndim == 3 else _grey(values)
    rows, columns = pixels.shape[:2]
    lines_ = np.concatenate((np.zeros((rows, 1), np.uint8), pixels.reshape(rows, -1)), axis=1)
    colour = 2 if pixels.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", columns, rows, 8, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines_.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def _grey(values: np.ndarray) -> np.ndarray:
    low, high = _range([values], margin=0.0)
    shares = np.nan_to_num((values - low) / (high - low))
    return np.rint(255 * np.clip(shares, 0.0, 1.0)).astype(np.uint8)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
