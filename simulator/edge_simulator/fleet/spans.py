"""Spans of time as people write them: ``90s``, ``10min``, ``1d 6h``."""

from __future__ import annotations

import re

__all__ = ["span_ns", "span_text"]

_UNITS_NS = {
    "w": 604_800_000_000_000,
    "d": 86_400_000_000_000,
    "h": 3_600_000_000_000,
    "min": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|[wdhs])")
_WHOLE = re.compile(rf"\s*(?:{_PART.pattern}\s*)+")
_LONGEST_NS = 10 * 366 * _UNITS_NS["d"]


def span_ns(text: str) -> int | None:
    """Return how long ``text`` is, ns; None if it is no span of at most ten years."""
    if len(text) > 64 or not _WHOLE.fullmatch(text):
        return None
    length = sum(round(float(number) * _UNITS_NS[unit]) for number, unit in _PART.findall(text))
    return length if length <= _LONGEST_NS else None


def span_text(length_ns: int) -> str:
    """Write a span in its largest units, down to milliseconds."""
    parts = []
    for unit, unit_ns in _UNITS_NS.items():
        count, length_ns = divmod(length_ns, unit_ns)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts) or "0s"
