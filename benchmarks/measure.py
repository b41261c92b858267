"""Interleaved timing in one process: ratios survive a busy machine, absolute times do not."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping

import msgspec

__all__ = ["Timing", "interleaved"]


class Timing(msgspec.Struct, frozen=True):
    """Time of one call.

    Attributes:
        median_us: Median over the samples that were kept.
        kept: Samples that ran without being preempted.
        dropped: Samples that an involuntary context switch fell into.
    """

    median_us: float
    kept: int
    dropped: int


def interleaved(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, calls: int
) -> dict[str, Timing]:
    """Time variants in turn: one sample of ``calls`` calls each, ``rounds`` times.

    Samples during which the scheduler took the processor away are dropped, so
    that the medians are those of unpreempted runs.
    """
    kept: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        call()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in variants.items():
                taken_us = _sample(call, calls)
                if taken_us is not None:
                    kept[name].append(taken_us)
    finally:
        gc.enable()
    return {name: _timing(samples, rounds) for name, samples in kept.items()}


def _sample(call: Callable[[], object], calls: int) -> float | None:
    """Return the time of one call, µs, or None if the thread was preempted."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    start_ns = time.perf_counter_ns()
    for _ in range(calls):
        call()
    taken_ns = time.perf_counter_ns() - start_ns
    if resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw != before:
        return None
    return taken_ns / calls / 1e3


def _timing(samples: list[float], rounds: int) -> Timing:
    if not samples:
        raise SystemExit("Every sample was preempted: run the benchmark on a quieter machine.")
    return Timing(statistics.median(samples), len(samples), rounds - len(samples))
