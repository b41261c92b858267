"""Figures by which answers about fraud are compared, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = [
    "FALSE_ALARM_EUR",
    "FALSE_ALARM_SHARE",
    "Interval",
    "Verdict",
    "average_precision",
    "threshold_at",
]

FALSE_ALARM_SHARE = 0.005
"""One honest payment in two hundred may be asked about."""
FALSE_ALARM_EUR = 5.0
"""What asking an honest customer costs."""

# 97.5 % point of Student's t for 1 to 30 degrees of freedom. Source: NIST handbook 1.3.6.7.2.
_T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def average_precision(score: np.ndarray, is_fraud: np.ndarray) -> float:
    """Return the area under the precision-recall curve, by steps; equal scores count as one.

    Source: Manning, Raghavan and Schütze 2008, chapter 8.4.

    Args:
        score: Higher is more suspicious, shape (n,).
        is_fraud: The truth, bool, shape (n,); at least one is true.
    """
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(is_fraud[order])
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    recall, precision = hits[ends] / hits[-1], hits[ends] / (ends + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def threshold_at(score: np.ndarray, is_fraud: np.ndarray) -> float:
    """Return the lowest threshold that keeps the allowed share of false alarms."""
    honest = np.sort(score[~is_fraud])[::-1]
    return float(np.nextafter(honest[int(FALSE_ALARM_SHARE * len(honest))], np.inf))


@dataclass(frozen=True)
class Verdict:
    """How good one way to answer was in one world.

    Attributes:
        average_precision: Area under the precision-recall curve.
        recall: Share of fraudulent payments found, at the allowed share of false alarms.
        saved: Share of the fraud's money kept, less what false alarms cost, with the
            threshold that was set beforehand.
        false_alarms: Share of honest payments asked about with that threshold.
    """

    average_precision: float
    recall: float
    saved: float
    false_alarms: float

    @classmethod
    def of(
        cls, score: np.ndarray, is_fraud: np.ndarray, amount: np.ndarray, alarm: np.ndarray
    ) -> Verdict:
        """Judge scores, and the alarms that a threshold set beforehand made of them."""
        found = score >= threshold_at(score, is_fraud)
        kept = amount[alarm & is_fraud].sum() - FALSE_ALARM_EUR * (alarm & ~is_fraud).sum()
        return cls(
            average_precision(score, is_fraud),
            float(found[is_fraud].mean()),
            float(kept / amount[is_fraud].sum()),
            float(alarm[~is_fraud].mean()),
        )


@dataclass(frozen=True)
class Interval:
    """Mean over worlds, and half the width of its 95 % interval (Student's t)."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: list[float]) -> Interval:
        """Make the interval of two to 31 values."""
        sample = np.array(values)
        half = _T975[len(sample) - 2] * sample.std(ddof=1) / math.sqrt(len(sample))
        return cls(float(sample.mean()), float(half))

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"
