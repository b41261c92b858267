"""Samples of time on a busy machine: those the scheduler interrupted do not count."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence

import msgspec

__all__ = ["Sample", "steady", "take_sample"]

# Elsewhere than on Linux a thread cannot tell; then the process is asked.
_WHO = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One measurement.

    Attributes:
        us: Time of one call.
        is_preempted: Whether an involuntary context switch fell into it.
    """

    us: float
    is_preempted: bool


def take_sample(call: Callable[[], object]) -> Sample:
    """Time one call."""
    before = resource.getrusage(_WHO).ru_nivcsw
    start_ns = time.perf_counter_ns()
    call()
    taken_ns = time.perf_counter_ns() - start_ns
    return Sample(taken_ns / 1e3, resource.getrusage(_WHO).ru_nivcsw != before)


def steady(samples: Sequence[Sample]) -> list[float]:
    """Return the times, µs, of the samples that were not preempted.

    Where fewer than one sample in ten is left, the machine is too busy for that
    and all of them count.
    """
    clean = [sample.us for sample in samples if not sample.is_preempted]
    return clean if 10 * len(clean) >= len(samples) else [sample.us for sample in samples]
