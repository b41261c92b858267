"""What a model is judged by: accuracy, F1, AUC, MAE; agreement and SNR where truth is unknown."""

from __future__ import annotations

import math

import numpy as np

from edge_converters.quantise.contracts import Budget, Samples
from edge_runtime.errors import ConfigError

__all__ = [
    "GARBAGE_DB",
    "auc",
    "classes_of",
    "f1",
    "is_within",
    "loss_of",
    "rows_of",
    "scores_of",
    "snr_db",
    "value_of",
]

GARBAGE_DB = 10.0
"""Below it an output is garbage, whatever it was meant to be: wrong kernels gave 1 dB."""

_HALF = 0.5


def value_of(budget: Budget, samples: Samples, reference: np.ndarray, outputs: np.ndarray) -> float:
    """Return the metric of ``outputs``.

    Args:
        budget: Names the metric.
        samples: Windows and their truth; of a stream, the SNR is over every step, and
            any other metric over the last step of each sequence.
        reference: Outputs of the float model, shape (n, …); of a stream (n, steps, …).
        outputs: Outputs of the model in question, as many.

    Raises:
        ConfigError: The metric cannot be computed from these samples.
    """
    if budget.metric == "snr":
        return snr_db(reference, outputs)
    reference, outputs = samples.ends_of(reference), samples.ends_of(outputs)
    samples = samples.ends
    if budget.metric == "agreement":
        return float(np.mean(classes_of(reference) == classes_of(outputs)))
    truth = truth_of(budget, samples)
    if budget.metric == "accuracy":
        return float(np.mean(classes_of(outputs) == truth))
    if budget.metric == "f1":
        return float(f1(classes_of(outputs), truth, np.ones((1, len(truth))))[0])
    if budget.metric == "auc":
        scores = scores_of(budget, samples, outputs)
        return float(auc(scores, truth, np.ones((1, len(truth))))[0])
    return float(np.mean(np.abs(scores_of(budget, samples, outputs) - truth)))


def truth_of(budget: Budget, samples: Samples) -> np.ndarray:
    """Return the truth after checking that ``budget``'s metric can use it.

    Raises:
        ConfigError: There is none, as many as there are windows, or too few kinds of it.
    """
    truth = samples.truth
    if truth is None:
        raise _cannot(budget, "nothing is known about the windows", "labels or values for each")
    if truth.shape != (len(samples),):
        raise _cannot(budget, f"{truth.shape} is the shape of the truth", f"({len(samples)},)")
    if not np.isfinite(truth).all():
        raise _cannot(budget, "some of the truth is not finite", "a number for each window")
    if budget.metric == "auc" and set(np.unique(truth).tolist()) != {0, 1}:
        raise _cannot(budget, "the truth is not 0 and 1, both of them", "normal and anomalous ones")
    return truth


def loss_of(budget: Budget, float_value: float, value: float) -> float:
    """Return how much worse ``value`` is than float, in the metric's unit."""
    if budget.metric == "agreement":
        return 1.0 - value
    return value - float_value if budget.metric == "mae" else float_value - value


def is_within(budget: Budget, float_value: float, value: float) -> bool:
    """Return whether the budget holds for a value that is taken at its word."""
    if budget.metric == "snr":
        return value >= budget.max_drop
    # One part in a thousand million: a loss of half a point is not more than half a point.
    return loss_of(budget, float_value, value) <= budget.max_drop + 1e-9


def classes_of(outputs: np.ndarray) -> np.ndarray:
    """Return the class of each window: the largest output, or one above a half for a single."""
    rows = rows_of(outputs)
    result: np.ndarray = rows.argmax(1) if rows.shape[1] > 1 else (rows[:, 0] > _HALF).astype(int)
    return result


def scores_of(budget: Budget, samples: Samples, outputs: np.ndarray) -> np.ndarray:
    """Return one number for each window: an anomaly's score, or an estimate.

    Raises:
        ConfigError: Which of several outputs is meant is unknown.
    """
    rows = rows_of(outputs)
    if budget.scoring == "reconstruction":
        windows = rows_of(samples.windows)
        if windows.shape != rows.shape:
            raise _cannot(budget, f"{rows.shape} outputs rebuild nothing", f"{windows.shape}")
        result: np.ndarray = np.square(rows - windows).mean(1, dtype=np.float64)
        return result
    if rows.shape[1] > (2 if budget.metric == "auc" else 1):
        raise _cannot(budget, f"a window has {rows.shape[1]} outputs", "a single score")
    return rows[:, -1]


def rows_of(values: np.ndarray) -> np.ndarray:
    """Return values as (n, k), float64."""
    return values.reshape(len(values), -1).astype(np.float64)


def snr_db(reference: np.ndarray, outputs: np.ndarray) -> float:
    """Return the power of ``reference`` over that of the difference; infinite where there is none.

    What a reference is has no offset: a constant output would otherwise look precise.
    """
    wanted, found = rows_of(reference), rows_of(outputs)
    noise = float(np.square(wanted - found).sum())
    signal = float(np.square(wanted).sum())
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal else -math.inf


def auc(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve for each row of weights; ties count half.

    It is the share of pairs of an anomalous and a normal window whose scores are in
    order. Source: Hanley and McNeil 1982.

    Args:
        scores: Shape (n,).
        truth: 0 or 1, shape (n,).
        weights: How often each window counts, shape (b, n).

    Returns:
        Shape (b,); NaN where one of the two has no weight.
    """
    order = np.argsort(scores, kind="stable")
    _, starts = np.unique(scores[order], return_index=True)
    is_anomaly = truth[order] == 1
    sorted_weights = weights[:, order].astype(np.float64)
    anomalous = np.add.reduceat(sorted_weights * is_anomaly, starts, axis=1)
    normal = np.add.reduceat(sorted_weights * ~is_anomaly, starts, axis=1)
    below = np.cumsum(normal, axis=1) - normal / 2
    pairs = anomalous.sum(1) * normal.sum(1)
    with np.errstate(invalid="ignore"):
        result: np.ndarray = (anomalous * below).sum(1) / np.where(pairs, pairs, np.nan)
    return result


def f1(classes: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return F1 for each row of weights: of class 1 where there are 0 and 1, else their mean.

    A class that is neither there nor named counts 0.

    Args:
        classes: What a model says, shape (n,), integers.
        truth: What is true, shape (n,), integers.
        weights: How often each window counts, shape (b, n).
    """
    known = np.union1d(truth, classes).astype(int)
    if set(known.tolist()) <= {0, 1}:
        known = np.array([1])
    said = classes[:, np.newaxis] == known
    true = truth[:, np.newaxis] == known
    both = 2.0 * (weights @ (said & true))
    either = weights @ said.astype(np.float64) + weights @ true.astype(np.float64)
    result: np.ndarray = np.divide(both, either, out=np.zeros_like(both), where=either > 0).mean(1)
    return result


def _cannot(budget: Budget, what: str, expected: str) -> ConfigError:
    return ConfigError(
        what,
        where=f"metric {budget.metric!r}",
        expected=expected,
        remedy="Choose another metric, or give other evaluation data.",
    )
