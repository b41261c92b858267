"""Interleaved timing in one process: ratios survive a busy machine, absolute times do not."""

from __future__ import annotations

import gc
import math
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

__all__ = ["Timing", "interleaved", "median_ratio", "seconds"]

_FULL_ROUNDS = 200


class Timing(msgspec.Struct, frozen=True):
    """Time of one call.

    Attributes:
        median_us: Median over the samples that were kept.
        kept: Samples the median is over.
        dropped: Samples left out because an involuntary context switch fell into them;
            0 also where hardly any was free of one and all had to be kept.
        cpu_us: Median of the thread's processor time over all samples.
        samples_us: Every round's sample, in order; NaN where it was dropped.
    """

    median_us: float
    kept: int
    dropped: int
    cpu_us: float
    samples_us: tuple[float, ...]


class _Sample(msgspec.Struct, frozen=True):
    wall_us: float
    cpu_us: float
    is_preempted: bool


def interleaved(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, calls: int
) -> dict[str, Timing]:
    """Time variants in turn: one sample of ``calls`` calls each, ``rounds`` times.

    Every other round goes backwards, so that no variant always follows the same one.
    Samples during which the scheduler took the processor away are dropped, so
    that the medians are those of unpreempted runs. Where fewer than one sample
    in ten is left, the machine is too busy for that and all of them count.
    """
    samples: dict[str, list[_Sample]] = {name: [] for name in variants}
    order = list(variants.items())
    for _, call in order:
        call()
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for name, call in order if number % 2 == 0 else reversed(order):
                samples[name].append(_sample(call, calls))
    finally:
        gc.enable()
    return {name: _timing(taken) for name, taken in samples.items()}


def median_ratio(
    over: Sequence[float], under: Sequence[float], base: Sequence[float] | None = None
) -> float:
    """Return the median of the rounds' own ratios, ``(over - base) / (under - base)``.

    What shares the core makes whole stretches of rounds slower. Within one
    round all sides find the machine alike; between the medians of two sides it
    may differ. Rounds with a dropped sample do not count.
    """
    bases = base or [0.0] * len(over)
    pairs = ((a - c, b - c) for a, b, c in zip(over, under, bases, strict=True))
    ratios = [a / b for a, b in pairs if not math.isnan(a) and not math.isnan(b) and b]
    return statistics.median(ratios)


def seconds(rounds: int, full_s: float) -> float:
    """Return how long to watch: ``full_s``, or a part of it where few rounds are asked for."""
    return max(2.0, full_s * min(1.0, rounds / _FULL_ROUNDS))


def _sample(call: Callable[[], object], calls: int) -> _Sample:
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    cpu_ns = time.thread_time_ns()
    start_ns = time.perf_counter_ns()
    for _ in range(calls):
        call()
    wall_ns = time.perf_counter_ns() - start_ns
    cpu_ns = time.thread_time_ns() - cpu_ns
    is_preempted = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw != before
    return _Sample(wall_ns / calls / 1e3, cpu_ns / calls / 1e3, is_preempted)


def _timing(samples: list[_Sample]) -> Timing:
    clean = [sample for sample in samples if not sample.is_preempted]
    if 10 * len(clean) < len(samples):
        clean = samples
    kept = {id(sample) for sample in clean}
    return Timing(
        median_us=statistics.median(sample.wall_us for sample in clean),
        kept=len(clean),
        dropped=len(samples) - len(clean),
        cpu_us=statistics.median(sample.cpu_us for sample in samples),
        samples_us=tuple(s.wall_us if id(s) in kept else math.nan for s in samples),
    )
