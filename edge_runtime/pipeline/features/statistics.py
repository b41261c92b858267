"""Statistics of every channel over a window."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from edge_runtime.pipeline.features.feature import Reals, by_channel, mean_of_rows
from edge_runtime.spec import Statistic

__all__ = ["statistics"]


class _Moments:
    """Sums over the last axis of (n, channels, length) float64, each made when asked for."""

    def __init__(self, values: Reals) -> None:
        self.values = values

    @functools.cached_property
    def mean(self) -> Reals:
        return mean_of_rows(self.values)

    @functools.cached_property
    def highest(self) -> Reals:
        highest: Reals = np.maximum.reduce(self.values, axis=-1)
        return highest

    @functools.cached_property
    def lowest(self) -> Reals:
        lowest: Reals = np.minimum.reduce(self.values, axis=-1)
        return lowest

    @functools.cached_property
    def rms(self) -> Reals:
        return np.sqrt(mean_of_rows(self.values * self.values))

    @functools.cached_property
    def peak(self) -> Reals:
        return np.maximum(np.abs(self.highest), np.abs(self.lowest))

    @functools.cached_property
    def abs_mean(self) -> Reals:
        return mean_of_rows(np.abs(self.values))

    @functools.cached_property
    def deviations(self) -> Reals:
        return self.values - self.mean[..., None]

    @functools.cached_property
    def squares(self) -> Reals:
        return self.deviations * self.deviations

    @functools.cached_property
    def variance(self) -> Reals:
        # A constant row has variance 0 exactly, whatever its mean rounds to.
        return np.where(self.highest == self.lowest, 0.0, mean_of_rows(self.squares))


def _skewness(of: _Moments) -> Reals:
    third = mean_of_rows(of.squares * of.deviations)
    return _ratio(third, of.variance * np.sqrt(of.variance))


def _kurtosis(of: _Moments) -> Reals:
    excess = _ratio(mean_of_rows(of.squares * of.squares), of.variance * of.variance) - 3.0
    return np.where(of.variance > 0, excess, 0.0)


def _zero_crossings(of: _Moments) -> Reals:
    is_negative = of.values < 0
    changes = np.count_nonzero(is_negative[..., 1:] != is_negative[..., :-1], axis=-1)
    share: Reals = changes / max(1, of.values.shape[-1] - 1)
    return share


_STATISTICS: dict[Statistic, Callable[[_Moments], Reals]] = {
    "mean": lambda of: of.mean,
    "std": lambda of: np.sqrt(of.variance),
    "rms": lambda of: of.rms,
    "min": lambda of: of.lowest,
    "max": lambda of: of.highest,
    "ptp": lambda of: of.highest - of.lowest,
    "skewness": _skewness,
    "kurtosis": _kurtosis,
    "crest": lambda of: _ratio(of.peak, of.rms),
    "abs_mean": lambda of: of.abs_mean,
    "shape": lambda of: _ratio(of.rms, of.abs_mean),
    "impulse": lambda of: _ratio(of.peak, of.abs_mean),
    "zero_crossings": _zero_crossings,
}


def statistics(windows: np.ndarray, which: Sequence[Statistic]) -> np.ndarray:
    """Compute statistics of every channel over a window.

    With N samples, mean m and central moments ``m_k = sum((x - m)^k) / N``:
    std = sqrt(m_2); rms = sqrt(sum(x^2) / N); skewness = m_3 / m_2^1.5;
    kurtosis = m_4 / m_2^2 - 3 (0 for a normal distribution); ptp = max - min;
    crest = max |x| / rms; abs_mean = sum(|x|) / N; shape = rms / abs_mean;
    impulse = max |x| / abs_mean; zero_crossings: the share of neighbours of which
    just one is negative. Where the divisor is 0 the ratio is 0.
    Source: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5; Lei et al. 2008,
    "A new approach to intelligent fault diagnosis of rotating machinery", table 1.

    Args:
        windows: Shape (n, length, channels), float32.
        which: Statistics in order.

    Returns:
        Shape (n, channels * len(which)), float32, channel-major.
    """
    of = _Moments(by_channel(windows))
    columns = np.stack([_STATISTICS[name](of) for name in which], axis=-1)
    columns += 0.0  # the largest of 0.0 and -0.0 may be either: keep one
    return columns.reshape(len(windows), -1).astype(np.float32)


def _ratio(top: Reals, bottom: Reals) -> Reals:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
