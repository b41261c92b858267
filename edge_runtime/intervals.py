"""How far a rate or a share that was counted may be from the true one."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["highest_rate", "rate_bounds", "share_bounds"]

_STEPS = 60
_Z_95 = 1.959963984540054


def rate_bounds(count: int, hours: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a Poisson rate, lowest and highest, per hour.

    Source: Garwood 1936, "Fiducial limits for the Poisson distribution".

    Args:
        count: Events that were counted.
        hours: In how much time, above 0.
        confidence: Share of such intervals that hold the true rate, at least.
    """
    tail = (1.0 - confidence) / 2.0
    # P(X >= count) = tail is P(X <= count - 1) = 1 - tail.
    lowest = _mean_with(count - 1, 1.0 - tail) / hours if count else 0.0
    return lowest, highest_rate(count, hours, tail)


def highest_rate(count: int, hours: float, risk: float) -> float:
    """Return the rate per hour that the true one exceeds with probability ``risk`` at most.

    Without a single event it is ``-ln(risk) / hours``: three an hour for 5 %.

    Args:
        count: Events that were counted.
        hours: In how much time, above 0.
        risk: Above 0 and below 1.
    """
    return _mean_with(count, risk) / hours


def share_bounds(count: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a share; (0, 1) of nothing. Source: Wilson 1927."""
    if not of:
        return 0.0, 1.0
    z2, share = _Z_95 * _Z_95, count / of
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z_95 * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    return max(0.0, middle - half), min(1.0, middle + half)


def _mean_with(count: int, chance: float) -> float:
    """Return the mean of the Poisson distribution for which P(X <= count) is ``chance``."""
    numbers = np.arange(count + 1, dtype=np.float64)
    log_factorials = np.concatenate(([0.0], np.cumsum(np.log(numbers[1:]))))
    low, high = 0.0, 1.0
    while _chance(high, numbers, log_factorials) > chance:
        low, high = high, 2.0 * high
    for _ in range(_STEPS):
        mean = (low + high) / 2.0
        is_low = _chance(mean, numbers, log_factorials) > chance
        low, high = (mean, high) if is_low else (low, mean)
    return (low + high) / 2.0


def _chance(mean: float, numbers: np.ndarray, log_factorials: np.ndarray) -> float:
    if mean == 0.0:
        return 1.0
    return float(np.exp(numbers * math.log(mean) - mean - log_factorials).sum())
