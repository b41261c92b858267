"""Numbers about a running device, and their text for Prometheus.

Components count for themselves, as plain integers; who wants to know reads them
when asked. Only durations are noted as they happen, in a `Histogram` that costs
a fraction of a microsecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

__all__ = ["CONTENT_TYPE", "Family", "Histogram", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of `render`'s text."""

_BUCKETS = 64
# 2^10 ns to 2^35 ns: about 1 µs to 34 s.
_SHOWN = range(10, 36)


class Histogram:
    """Counts durations in buckets that double; one thread writes, any may read.

    Bucket k holds durations of 2^(k-1) to 2^k - 1 ns.

    Attributes:
        counts: Durations per bucket.
        total_ns: Their sum.
    """

    __slots__ = ("counts", "total_ns")

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.total_ns = 0

    def note(self, duration_ns: int) -> None:
        """Count one duration, not negative."""
        self.counts[duration_ns.bit_length()] += 1
        self.total_ns += duration_ns

    def quantile_s(self, q: float) -> float | None:
        """Return the end of the bucket that holds quantile ``q``, s; None if nothing was noted."""
        wanted = q * sum(self.counts)
        reached = 0
        for bucket, count in enumerate(self.counts):
            reached += count
            if count and reached >= wanted:
                return (1 << bucket) / 1e9
        return None


class Family(msgspec.Struct, frozen=True):
    """One metric with all its label values.

    Attributes:
        name: In the words of STYLE: ``frames_received_total``, ``inference_seconds``.
        kind: What Prometheus calls it.
        help: One line.
        samples: Labels and value; the value of a histogram is a `Histogram`.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: tuple[tuple[Mapping[str, str], float | Histogram], ...]


def render(families: Iterable[Family]) -> str:
    """Write metrics in Prometheus' text format, version 0.0.4.

    Source: Prometheus documentation, "Exposition formats".
    """
    return "".join(line + "\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterable[str]:
    yield f"# HELP {family.name} {family.help}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.samples:
        if isinstance(value, Histogram):
            yield from _histogram_lines(family.name, labels, value)
        else:
            yield f"{family.name}{_labels(labels)} {_number(value)}"


def _histogram_lines(name: str, labels: Mapping[str, str], value: Histogram) -> Iterable[str]:
    counts = list(value.counts)
    reached = sum(counts[: _SHOWN.start])
    for bucket in _SHOWN:
        reached += counts[bucket]
        bound = {**labels, "le": _number((1 << bucket) / 1e9)}
        yield f"{name}_bucket{_labels(bound)} {reached}"
    yield f"{name}_bucket{_labels({**labels, 'le': '+Inf'})} {sum(counts)}"
    yield f"{name}_sum{_labels(labels)} {_number(value.total_ns / 1e9)}"
    yield f"{name}_count{_labels(labels)} {sum(counts)}"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
