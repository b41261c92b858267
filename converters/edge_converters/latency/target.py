"""The time of one window on a target, and how it is known."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec

from edge_converters.latency.answers import Answer

__all__ = ["How", "TargetLatency", "refined"]

# int8 takes 0.29 to 0.85 of float's time for the networks of MLPerf Tiny on x86-64, 0.62
# for MobileNet: so far may another file of the same network be from where MobileNet puts it.
_OTHER_LOW, _OTHER_HIGH = 0.29 / 0.62, 0.85 / 0.62


How = Literal["measured", "scaled", "estimate", "unknown"]
"""How a time is known."""


class TargetLatency(msgspec.Struct, frozen=True, kw_only=True):
    """Time of the model's call for one window on one core of a board, µs.

    Attributes:
        board: Which.
        how: ``measured`` on the board itself; ``scaled``: an estimate, corrected by what
            the board took for another file of this model; ``estimate``: from what is
            published; ``unknown``.
        p50_us: Median; None where it is unknown.
        low_us: Least that is likely: the quickest run, or the end of the estimate.
        high_us: Most that is likely.
        runs: How many times the board has answered.
        source: What it is derived from; of ``unknown``, why.
    """

    board: str
    how: How
    p50_us: float | None = None
    low_us: float | None = None
    high_us: float | None = None
    runs: int = 0
    source: str = ""

    def __str__(self) -> str:
        if self.p50_us is None:
            return f"unknown: {self.source}"
        between = ""
        if self.low_us is not None and self.high_us is not None and self.low_us < self.high_us:
            between = f" ({_time(self.low_us)} to {_time(self.high_us)})"
        runs = f"{self.runs} run{'' if self.runs == 1 else 's'}"
        how = {
            "measured": f"measured on {self.board}, {runs}",
            "scaled": f"estimate, scaled by {runs} on {self.board}",
            "estimate": "estimate, no board answered",
        }[self.how]
        return f"{_time(self.p50_us)}{between}, {how}"


def _time(us: float) -> str:
    return f"{us:.3g} µs" if us < 1000 else f"{us / 1000:.3g} ms"


def refined(
    estimates: Sequence[TargetLatency],
    files: Sequence[tuple[str, str]],
    answers: Sequence[Answer],
) -> tuple[TargetLatency, ...]:
    """Put what a board has answered in the place of estimates, and correct the others by it.

    Args:
        estimates: Of every candidate.
        files: Backend and SHA-256 of every candidate.
        answers: Of the board that the estimates are for.

    Returns:
        In the same order; without answers that fit, what was given.
    """
    measured = [
        _measured(one, [each for each in answers if (each.backend, each.sha256) == file])
        for one, file in zip(estimates, files, strict=True)
    ]
    ratios = {
        backend: found.p50_us / one.p50_us
        for one, found, (backend, _) in zip(estimates, measured, files, strict=True)
        if found is not None and found.p50_us is not None and one.p50_us is not None
    }
    runs = max((found.runs for found in measured if found is not None), default=0)
    return tuple(
        found if found is not None else _scaled(one, ratios.get(backend), runs)
        for one, found, (backend, _) in zip(estimates, measured, files, strict=True)
    )


def _measured(one: TargetLatency, answers: Sequence[Answer]) -> TargetLatency | None:
    if not answers:
        return None
    medians = [each.engine_us for each in answers]
    return TargetLatency(
        board=one.board,
        how="measured",
        p50_us=statistics.median(medians),
        low_us=min(medians),
        high_us=max(medians),
        runs=len(medians),
        source="edge-runtime tune on the board, one thread",
    )


def _scaled(one: TargetLatency, ratio: float | None, runs: int) -> TargetLatency:
    if ratio is None or one.p50_us is None:
        return one
    p50_us = one.p50_us * ratio
    return msgspec.structs.replace(
        one,
        how="scaled",
        p50_us=p50_us,
        low_us=p50_us * _OTHER_LOW,
        high_us=p50_us * _OTHER_HIGH,
        runs=runs,
        source=f"{one.source}; times {ratio:.3g}, as the board took for another file",
    )
