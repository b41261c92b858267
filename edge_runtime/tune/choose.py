"""From measurements to a choice, by rules that can be read.

1. Only a candidate that answers the golden windows, up to 64 of them, within the bundle's
   tolerance, and twice alike, may be chosen.
2. More threads must pay: less than 1.3 times as fast for more than twice the
   processor time is not worth it.
3. The lowest time wins; candidates within 3 % of it are equal, and fewer threads,
   then less memory, decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge_runtime.machine import Machine
from edge_runtime.ports import Choice
from edge_runtime.profiles import Goal, Measured, Profile
from edge_runtime.tune.candidates import Candidate

__all__ = ["Block", "Row", "Tuning", "compared", "ranked"]

_EQUAL = 1.03
_LEAST_GAIN = 1.3
_MOST_CPU = 2.0
_FLOATS = ("float32", "float16")


class Block(msgspec.Struct, frozen=True):
    """What a window takes in blocks of ``rows``.

    Attributes:
        rows: Windows answered at once.
        us: Time of one window in such a block; 0 where it was not measured.
        is_equal: Whether the block's answers have the bytes of single ones; if
            not, it is never used.
    """

    rows: int
    us: float
    is_equal: bool = True


class Row(msgspec.Struct, frozen=True):
    """What was measured of one candidate.

    Attributes:
        candidate: Which.
        failure: Why it could not be measured; empty if it could.
        remedy: What to do about that.
        median_us: Time of one window through the pipeline.
        engine_us: Time of the model's call alone, without features.
        p99_us: The time that 99 of 100 windows stay below.
        cpu_us: Processor time of one window, all threads together.
        rss_mb: Memory that runtime and model added, MiB.
        golden: Number of golden windows that were asked.
        agreeing: How many were answered within the bundle's tolerance.
        worst: Largest distance to a golden answer; None if one was not finite.
        blocks: By size; the first is a single window.
        micro_batch: As in `Choice`.
    """

    candidate: Candidate
    failure: str = ""
    remedy: str = ""
    median_us: float = 0.0
    engine_us: float = 0.0
    p99_us: float = 0.0
    cpu_us: float = 0.0
    rss_mb: float = 0.0
    golden: int = 0
    agreeing: int = 0
    worst: float | None = None
    blocks: tuple[Block, ...] = ()
    micro_batch: int | None = None

    @property
    def agrees(self) -> bool:
        """Whether it answers as the bundle promises."""
        return not self.failure and self.agreeing == self.golden

    @property
    def best_block(self) -> Block:
        """The smallest block that is as fast as any, to 3 %."""
        usable = [one for one in self.blocks if one.is_equal and one.us > 0]
        if not usable:
            return Block(1, self.median_us)
        limit_us = _EQUAL * min(one.us for one in usable)
        return next(one for one in usable if one.us <= limit_us)

    @property
    def rows_per_s(self) -> float:
        """Windows a second in the best block."""
        return 1e6 / self.best_block.us if self.best_block.us else 0.0

    @property
    def choice(self) -> Choice:
        """Everything to set to run it so."""
        return Choice(
            backend=self.candidate.backend,
            artefact=self.candidate.artefact,
            threads=self.candidate.threads,
            accelerator=self.candidate.accelerator,
            block=self.best_block.rows,
            micro_batch=self.micro_batch,
        )


class Tuning(msgspec.Struct, frozen=True):
    """All that one run found.

    Attributes:
        bundle: Digest of the bundle.
        ref: Its name and version.
        machine: Where it ran.
        board: Kind of machine, as in ``device init --board``.
        files: SHA-256 of each model file that was measured, by name.
        goal: What the choice is best for.
        rows: Every candidate, in the order they were tried.
        chosen: Which row is best; None if no candidate may be chosen.
        sentences: What the comparison of precisions says, in words.
        absent: What could have been tried if it were installed, in words.
        seconds: How long it took.
    """

    bundle: str
    ref: str
    machine: Machine
    board: str
    files: dict[str, str]
    goal: Goal
    rows: tuple[Row, ...]
    chosen: int | None
    sentences: tuple[str, ...]
    absent: tuple[str, ...]
    seconds: float

    def profile(self, made_ns: int) -> Profile:
        """Return what ``run`` needs of it; only if there is a chosen row."""
        measured = tuple(
            Measured(
                row.choice,
                row.candidate.precision,
                row.median_us,
                row.cpu_us,
                row.engine_us,
                self.files[row.candidate.artefact],
            )
            for row in ranked(self.rows, self.goal)
        )
        return Profile(
            self.bundle, self.ref, self.machine, self.goal, measured, made_ns, self.board
        )


def ranked(rows: Sequence[Row], goal: Goal) -> list[Row]:
    """Return the rows that may be chosen, best first."""
    left = sorted(
        (row for row in rows if row.agrees and _pays(row, rows)), key=lambda row: _cost(row, goal)
    )
    if not left:
        return []
    limit = _EQUAL * _cost(left[0], goal)
    equal = [row for row in left if _cost(row, goal) <= limit]
    best = min(equal, key=lambda row: (row.candidate.threads, row.rss_mb))
    return [best, *(row for row in left if row is not best)]


def compared(rows: Sequence[Row]) -> tuple[str, ...]:
    """Say, for each engine that ran several precisions, which is faster here and by how much."""
    measured = [row for row in rows if not row.failure and row.median_us > 0]
    sentences = [
        sentence
        for engine in dict.fromkeys(_engine(row) for row in measured)
        for sentence in _precisions([row for row in measured if _engine(row) == engine], engine)
    ]
    if sentences:
        return tuple(sentences)
    precisions = ", ".join(dict.fromkeys(row.candidate.precision for row in measured))
    if len({row.candidate.precision for row in measured}) > 1:
        return (f"No engine ran two of the precisions {precisions}: they cannot be compared.",)
    return (f"The bundle has {precisions or 'no'} models alone: nothing to compare with.",)


def _precisions(rows: Sequence[Row], engine: str) -> list[str]:
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row.median_us):
        best.setdefault(row.candidate.precision, row)
    base = next((best[name] for name in _FLOATS if name in best), None)
    others = [row for name, row in best.items() if name not in _FLOATS]
    return [_sentence(row, base, engine) for row in others] if base else []


def _sentence(row: Row, base: Row, engine: str) -> str:
    name, other = row.candidate.precision, base.candidate.precision
    figures = f"{row.median_us:.1f} µs against {base.median_us:.1f} µs"
    ratio = row.median_us / base.median_us
    if ratio > _EQUAL:
        return f"{engine}: {name} is slower than {other} here, {ratio:.2f} times: {figures}."
    if ratio < 1 / _EQUAL:
        return f"{engine}: {name} is {1 / ratio:.2f} times as fast as {other}: {figures}."
    return f"{engine}: {name} is no faster than {other} here: {figures}."


def _engine(row: Row) -> str:
    one = row.candidate
    return f"{one.backend} on {one.accelerator}" if one.accelerator else one.backend


def _cost(row: Row, goal: Goal) -> float:
    if goal == "batch":
        return row.best_block.us
    return row.cpu_us if goal == "cpu" else row.median_us


def _pays(row: Row, rows: Sequence[Row]) -> bool:
    """Whether more threads are worth their processor time."""
    one = msgspec.structs.replace(row.candidate, threads=1)
    single = next((other for other in rows if other.candidate == one and not other.failure), row)
    if row.candidate.threads == 1 or single is row:
        return True
    gain = single.median_us / max(row.median_us, 1e-9)
    return gain >= _LEAST_GAIN or row.cpu_us <= _MOST_CPU * single.cpu_us
