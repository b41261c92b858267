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
        kept: Samples the median is over.
        dropped: Samples left out because an involuntary context switch fell into them;
            0 also where hardly any was free of one and all had to be kept.
    """

    median_us: float
    kept: int
    dropped: int


def interleaved(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, calls: int
) -> dict[str, Timing]:
    """Time variants in turn: one sample of ``calls`` calls each, ``rounds`` times.

    Samples during which the scheduler took the processor away are dropped, so
    that the medians are those of unpreempted runs. Where fewer than one sample
    in ten is left, the machine is too busy for that and all of them count.
    """
    samples: dict[str, list[tuple[float, bool]]] = {name: [] for name in variants}
    for call in variants.values():
        call()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in variants.items():
                samples[name].append(_sample(call, calls))
    finally:
        gc.enable()
    return {name: _timing(taken) for name, taken in samples.items()}


def _sample(call: Callable[[], object], calls: int) -> tuple[float, bool]:
    """Return the time of one call, µs, and whether the thread was preempted."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    start_ns = time.perf_counter_ns()
    for _ in range(calls):
        call()
    taken_ns = time.perf_counter_ns() - start_ns
    is_preempted = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw != before
    return taken_ns / calls / 1e3, is_preempted


def _timing(samples: list[tuple[float, bool]]) -> Timing:
    clean = [taken_us for taken_us, is_preempted in samples if not is_preempted]
    if 10 * len(clean) < len(samples):
        clean = [taken_us for taken_us, _ in samples]
    return Timing(statistics.median(clean), len(clean), len(samples) - len(clean))
