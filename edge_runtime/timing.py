"""Timing on a busy machine: samples the scheduler interrupted do not count.

Ratios of medians survive a busy machine where variants are timed in turn;
absolute times do not.
"""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

__all__ = ["Sample", "Timing", "interleaved", "steady", "take_sample"]

# Elsewhere than on Linux a thread cannot tell; then every sample counts.
_WHO = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One measurement.

    Attributes:
        us: Time of one call.
        is_preempted: Whether an involuntary context switch fell into it.
    """

    us: float
    is_preempted: bool


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

    The medians are over `steady` samples: those of unpreempted runs.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in variants}
    for call in variants.values():
        call()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in variants.items():
                samples[name].append(take_sample(call, calls))
    finally:
        gc.enable()
    return {name: _timing(taken) for name, taken in samples.items()}


def take_sample(call: Callable[[], object], calls: int = 1) -> Sample:
    """Time ``calls`` calls."""
    before = resource.getrusage(_WHO).ru_nivcsw
    start_ns = time.perf_counter_ns()
    for _ in range(calls):
        call()
    taken_ns = time.perf_counter_ns() - start_ns
    return Sample(taken_ns / calls / 1e3, resource.getrusage(_WHO).ru_nivcsw != before)


def steady(samples: Sequence[Sample]) -> list[float]:
    """Return the times, µs, of the samples that were not preempted.

    Where fewer than one sample in ten is left, the machine is too busy for that
    and all of them count.
    """
    clean = [sample.us for sample in samples if not sample.is_preempted]
    return clean if 10 * len(clean) >= len(samples) else [sample.us for sample in samples]


def _timing(samples: Sequence[Sample]) -> Timing:
    clean = steady(samples)
    return Timing(statistics.median(clean), len(clean), len(samples) - len(clean))
