"""The time of one window on a target, and how it is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from edge_converters.latency.answers import Answer
from edge_runtime.plural import counted
from edge_runtime.sync.board_times import spread_of

__all__ = ["BoardFile", "How", "TargetLatency", "refined"]

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
        low_us: Least that is likely: of boards as in `Spread`, or the end of the estimate.
        high_us: Most that is likely.
        runs: How many times boards have answered.
        boards: How many have; 0 where nobody tells one from another.
        is_of_weights_before: Whether they ran the file that a refresh replaces: the same
            network with other weights.
        source: What it is derived from; of ``unknown``, why.
    """

    board: str
    how: How
    p50_us: float | None = None
    low_us: float | None = None
    high_us: float | None = None
    runs: int = 0
    boards: int = 0
    is_of_weights_before: bool = False
    source: str = ""

    @property
    def where(self) -> str:
        """Say which boards have answered, and how many of them."""
        return f"{counted(self.boards, 'board')} ({self.board})" if self.boards else self.board

    def __str__(self) -> str:
        if self.p50_us is None:
            return f"unknown: {self.source}"
        between = ""
        if self.low_us is not None and self.high_us is not None and self.low_us < self.high_us:
            between = f" ({_time(self.low_us)} to {_time(self.high_us)})"
        runs = counted(self.runs, "run")
        before = " with the weights before" if self.is_of_weights_before else ""
        how = {
            "measured": f"measured on {self.where}, {runs}{before}",
            "scaled": f"estimate, scaled by {runs} on {self.where}",
            "estimate": "estimate, no board answered",
        }[self.how]
        return f"{_time(self.p50_us)}{between}, {how}"


def _time(us: float) -> str:
    return f"{us:.3g} µs" if us < 1000 else f"{us / 1000:.3g} ms"


class BoardFile(msgspec.Struct, frozen=True):
    """A file as a board runs it.

    Attributes:
        backend: Runtime.
        sha256: Of the file.
        before: Of the file of the same network, format and precision that it replaces; empty
            where there is none.
    """

    backend: str
    sha256: str
    before: str = ""


def refined(
    estimates: Sequence[TargetLatency],
    files: Sequence[BoardFile],
    answers: Sequence[Answer],
) -> tuple[TargetLatency, ...]:
    """Put what a board has answered in the place of estimates, and correct the others by it.

    Args:
        estimates: Of every candidate.
        files: Of every candidate.
        answers: Of the board that the estimates are for.

    Returns:
        In the same order; without answers that fit, what was given.
    """
    measured = [_measured(one, file, answers) for one, file in zip(estimates, files, strict=True)]
    by_backend = {
        file.backend: (one, found)
        for one, found, file in zip(estimates, measured, files, strict=True)
        if found is not None
    }
    return tuple(
        found if found is not None else _scaled(one, by_backend.get(file.backend))
        for one, found, file in zip(estimates, measured, files, strict=True)
    )


def _measured(
    one: TargetLatency, file: BoardFile, answers: Sequence[Answer]
) -> TargetLatency | None:
    """Return what boards took for a file; for the one it replaces where none ran it yet."""
    of_file = [
        each for each in answers if (each.backend, each.sha256) == (file.backend, file.sha256)
    ]
    of_before = [
        each
        for each in answers
        if file.before and (each.backend, each.sha256) == (file.backend, file.before)
    ]
    found = of_file or of_before
    if not found:
        return None
    runs: dict[str, list[float]] = {}
    for number, each in enumerate(found):
        # Runs that nobody names a board for stand for themselves.
        runs.setdefault(each.device or f"#{number}", []).append(each.engine_us)
    spread = spread_of(runs)
    return TargetLatency(
        board=one.board,
        how="measured",
        p50_us=spread.median_us,
        low_us=spread.low_us,
        high_us=spread.high_us,
        runs=len(found),
        boards=len({each.device for each in found} - {""}),
        is_of_weights_before=not of_file,
        source="edge-runtime tune on the board, one thread",
    )


def _scaled(one: TargetLatency, known: tuple[TargetLatency, TargetLatency] | None) -> TargetLatency:
    """Correct an estimate by how far that of another file of the same runtime was off."""
    if known is None or one.p50_us is None:
        return one
    estimate, found = known
    if estimate.p50_us is None or found.p50_us is None:
        return one
    ratio = found.p50_us / estimate.p50_us
    p50_us = one.p50_us * ratio
    return msgspec.structs.replace(
        one,
        how="scaled",
        p50_us=p50_us,
        low_us=p50_us * _OTHER_LOW,
        high_us=p50_us * _OTHER_HIGH,
        runs=found.runs,
        boards=found.boards,
        source=f"{one.source}; times {ratio:.3g}, as the board took for another file",
    )
