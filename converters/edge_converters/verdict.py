"""Is a quantised model good enough, not good enough, or can these windows not tell?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Literal

import msgspec
import numpy as np

from edge_converters.metrics import (
    auc,
    classes_of,
    f1,
    loss_of,
    scores_of,
    truth_of,
    value_of,
)
from edge_converters.quantise.contracts import Budget, MetricName, Samples
from edge_runtime.intervals import share_bounds

__all__ = [
    "Choice",
    "Contender",
    "Outcome",
    "Verdict",
    "choose",
    "judge",
    "mcnemar",
    "windows_needed",
]

Outcome = Literal["pass", "fail", "inconclusive"]

_Z = 1.959963984540054
_FEWEST_WINDOWS = 30
_RESAMPLES = 1000
_BLOCK_VALUES = 1 << 22


class Verdict(msgspec.Struct, frozen=True):
    """What evaluation data say about one model against float.

    Attributes:
        outcome: ``pass`` where the whole interval of the loss is within the budget,
            ``fail`` where none of it is, else ``inconclusive``.
        metric: What was measured.
        float_value: The metric of the float model.
        value: The metric of the model in question.
        loss: How much worse it is, in the metric's unit; None for ``snr``, which is
            itself a comparison.
        low: Lower end of the 95 % interval of the loss.
        high: Its upper end.
        max_drop: The budget.
        windows: How many were asked.
        needed: How many more would tell; None where more are not needed or would not help.
        p_value: Exact McNemar test of equal accuracy; None for other metrics.
        method: How the interval was found.
    """

    outcome: Outcome
    metric: MetricName
    float_value: float
    value: float
    loss: float | None
    low: float | None
    high: float | None
    max_drop: float
    windows: int
    needed: int | None = None
    p_value: float | None = None
    method: str = ""

    def __str__(self) -> str:
        if self.loss is None:
            return f"{self.outcome}: {self.value:.1f} dB, at least {self.max_drop:g} wanted"
        text = (
            f"{self.outcome}: {self.metric} {self.value:.4f} against {self.float_value:.4f}, "
            f"loss {self.loss:+.4f} [{self.low:+.4f}, {self.high:+.4f}], "
            f"{self.max_drop:g} allowed, {self.windows} windows"
        )
        return f"{text}, need {self.needed} more" if self.needed else text


class _Interval(msgspec.Struct, frozen=True):
    """The 95 % interval of a loss, and how it was found."""

    low: float
    high: float
    method: str
    p_value: float | None = None


def judge(
    budget: Budget,
    samples: Samples,
    reference: np.ndarray,
    outputs: np.ndarray,
    *,
    seed: int = 0,
) -> Verdict:
    """Compare a model with float on the same windows.

    Both are asked the same windows, so only what differs between them counts: an exact
    McNemar test and the interval of Agresti and Min for accuracy, Wilson's for
    agreement, a paired bootstrap for AUC, F1 and MAE.

    Args:
        budget: The metric and what it may lose.
        samples: Windows that neither calibration nor search has seen.
        reference: Outputs of the float model, shape (n, …); of a stream (n, steps, …), and
            the last step of each sequence counts, except for the SNR.
        outputs: Outputs of the model in question, as many.
        seed: Of the bootstrap.

    Raises:
        ConfigError: The metric cannot be computed from these samples.
    """
    float_value = value_of(budget, samples, reference, reference)
    value = value_of(budget, samples, reference, outputs)
    if budget.metric == "snr":
        outcome: Outcome = "pass" if value >= budget.max_drop else "fail"
        return _verdict(budget, samples, float_value, value, outcome)
    loss = loss_of(budget, float_value, value)
    ends = samples.ends_of(reference), samples.ends_of(outputs)
    found = _interval(budget, samples.ends, *ends, seed)
    outcome = _outcome(budget, found, len(samples))
    return _verdict(budget, samples, float_value, value, outcome, loss, found)


def mcnemar(only_float: int, only_other: int) -> float:
    """Return the exact two-sided p-value of equal accuracy.

    Of the windows that one of two models gets right, each is as likely to be the one's
    as the other's. Source: McNemar 1947, with the binomial distribution.

    Args:
        only_float: Windows that the float model alone gets right.
        only_other: Windows that the other alone gets right.
    """
    count, fewer = only_float + only_other, min(only_float, only_other)
    tail: int = sum(math.comb(count, one) for one in range(fewer + 1))
    return min(1.0, float(Fraction(2 * tail, 2**count)))


def windows_needed(disagreement: float, margin: float) -> int:
    """Return how many windows tell whether accuracy is off by ``margin``.

    n = z² d / margin², with d the share of windows on which the models disagree: the
    variance of the difference is at most d / n.
    """
    return math.ceil(_Z * _Z * disagreement / (margin * margin))


# --- intervals ----------------------------------------------------------------------


def _interval(
    budget: Budget, samples: Samples, reference: np.ndarray, outputs: np.ndarray, seed: int
) -> _Interval:
    if budget.metric == "accuracy":
        truth = truth_of(budget, samples)
        return _of_accuracy(classes_of(reference) == truth, classes_of(outputs) == truth)
    if budget.metric == "agreement":
        return _of_agreement(classes_of(reference), classes_of(outputs))
    return _bootstrap(budget, samples, reference, outputs, seed)


def _of_accuracy(was_right: np.ndarray, is_right: np.ndarray) -> _Interval:
    """Return the interval of Agresti and Min 2005 for matched shares."""
    lost = int(np.count_nonzero(was_right & ~is_right))
    won = int(np.count_nonzero(~was_right & is_right))
    count = len(was_right) + 2
    middle = (lost - won) / count
    half = _Z * math.sqrt((lost + won + 1 - count * middle * middle) / (count * count))
    method = "exact McNemar test, interval of Agresti and Min"
    return _Interval(middle - half, middle + half, method, mcnemar(lost, won))


def _of_agreement(before: np.ndarray, after: np.ndarray) -> _Interval:
    differing = int(np.count_nonzero(before != after))
    return _Interval(*share_bounds(differing, len(before)), "interval of Wilson")


def _bootstrap(
    budget: Budget, samples: Samples, reference: np.ndarray, outputs: np.ndarray, seed: int
) -> _Interval:
    """Return the percentile interval of the loss over resampled windows."""
    before, after = (_weighted(budget, samples, one) for one in (reference, outputs))
    truth = truth_of(budget, samples)
    strata = truth if budget.metric == "auc" else np.zeros(len(truth))
    sign = -1.0 if budget.metric == "mae" else 1.0
    losses = [sign * (before(weights) - after(weights)) for weights in _resampled(strata, seed)]
    low, high = np.quantile(np.concatenate(losses), [0.025, 0.975])
    return _Interval(float(low), float(high), f"paired bootstrap, {_RESAMPLES} resamples")


def _weighted(
    budget: Budget, samples: Samples, outputs: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the metric as a function of how often each window counts, shape (b, n)."""
    truth = truth_of(budget, samples)
    if budget.metric == "f1":
        classes = classes_of(outputs)
        return lambda weights: f1(classes, truth, weights)
    scores = scores_of(budget, samples, outputs)
    if budget.metric == "auc":
        return lambda weights: auc(scores, truth, weights)
    errors = np.abs(scores - truth)
    return lambda weights: weights @ errors / len(errors)


def _resampled(strata: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks of weights, shape (b, n): windows drawn anew within each stratum."""
    draw = np.random.default_rng(seed)
    count = len(strata)
    members = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    each = max(1, _BLOCK_VALUES // count)
    for first in range(0, _RESAMPLES, each):
        rows = min(each, _RESAMPLES - first)
        drawn = [one[draw.integers(len(one), size=(rows, len(one)))] for one in members]
        places = np.concatenate(drawn, axis=1) + np.arange(rows)[:, np.newaxis] * count
        weights = np.bincount(places.ravel(), minlength=rows * count)
        yield weights.reshape(rows, count).astype(np.float64)


# --- outcome ------------------------------------------------------------------------


def _outcome(budget: Budget, found: _Interval, windows: int) -> Outcome:
    if windows < _FEWEST_WINDOWS:
        return "inconclusive"
    if found.high <= budget.max_drop:
        return "pass"
    return "fail" if found.low > budget.max_drop else "inconclusive"


def _verdict(
    budget: Budget,
    samples: Samples,
    float_value: float,
    value: float,
    outcome: Outcome,
    loss: float | None = None,
    found: _Interval | None = None,
) -> Verdict:
    is_open = found is not None and outcome == "inconclusive"
    return Verdict(
        outcome=outcome,
        metric=budget.metric,
        float_value=float_value,
        value=value,
        loss=loss,
        low=found.low if found else None,
        high=found.high if found else None,
        max_drop=budget.max_drop,
        windows=len(samples),
        needed=_needed(budget, found, len(samples)) if found and is_open else None,
        p_value=found.p_value if found else None,
        method=found.method if found else "",
    )


def _needed(budget: Budget, found: _Interval, windows: int) -> int | None:
    """Return how many more windows tell; the interval shrinks with the root of their number.

    The loss that was found may lie on the limit by chance, which no number of windows
    would tell apart: a quarter of the budget is what is worth telling.
    """
    middle, half = (found.low + found.high) / 2, (found.high - found.low) / 2
    margin = max(abs(budget.max_drop - middle), budget.max_drop / 4)
    if margin == 0:
        return None
    total = max(_FEWEST_WINDOWS, math.ceil(windows * (half / margin) ** 2))
    return max(1, total - windows)


# --- choice -------------------------------------------------------------------------


class Contender(msgspec.Struct, frozen=True):
    """A file that may be chosen.

    Attributes:
        name: Of the file.
        precision: Of the file.
        size_bytes: Of the file.
        latency_s: Of one window, in seconds; None where not measured.
        verdict: None for float, which is what the others are measured against.
    """

    name: str
    precision: str
    size_bytes: int
    latency_s: float | None = None
    verdict: Verdict | None = None


class Choice(msgspec.Struct, frozen=True):
    """Which file is the best, and why."""

    name: str
    why: str
    keeps_float: bool


def choose(contenders: Sequence[Contender], prefer: Literal["latency", "size"] = "size") -> Choice:
    """Choose the best file that passed, or keep float where no file is worth it.

    Args:
        contenders: All files, float among them; at least that one.
        prefer: What makes a file better than float.
    """
    original = next(one for one in contenders if one.verdict is None)
    passed = [one for one in contenders if one.verdict and one.verdict.outcome == "pass"]
    if not passed:
        return Choice(original.name, f"keep float: {_why_none(contenders)}", keeps_float=True)
    best = min(passed, key=lambda one: _cost(one, prefer))
    if _cost(best, prefer) >= _cost(original, prefer):
        why = f"keep float: no file that passed has less {prefer}"
        return Choice(original.name, why, keeps_float=True)
    share = _cost(best, prefer)[0] / _cost(original, prefer)[0]
    why = f"{best.precision} passed and has {share:.0%} of float's {prefer}"
    return Choice(best.name, why, keeps_float=False)


def _cost(one: Contender, prefer: Literal["latency", "size"]) -> tuple[float, float]:
    """Return what counts, and what decides among equals; what was not measured is no gain."""
    latency = math.inf if one.latency_s is None else one.latency_s
    size = float(one.size_bytes)
    return (size, latency) if prefer == "size" else (latency, size)


def _why_none(contenders: Sequence[Contender]) -> str:
    verdicts = [one.verdict for one in contenders if one.verdict]
    open_ones = [one.needed for one in verdicts if one.outcome == "inconclusive" and one.needed]
    if open_ones:
        return f"inconclusive, need {min(open_ones)} more windows"
    return (
        "every quantised file loses more than the budget" if verdicts else "nothing else is there"
    )
