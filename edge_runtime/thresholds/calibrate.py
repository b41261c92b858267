"""Two numbers that labelled data choose: where answers are uncertain, and a temperature."""

from __future__ import annotations

import math

import numpy as np

from edge_runtime.errors import ConfigError
from edge_runtime.spec import OutputSpec, Reject

__all__ = ["fitted_temperature", "reject_band"]

_LOWEST = 1e-12
_RANGE = (math.log(0.02), math.log(50.0))
_STEPS = 80
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def reject_band(present: np.ndarray, absent: np.ndarray, error_rate: float) -> Reject | None:
    """Choose the band outside of which answers are wrong seldom enough.

    ``low`` is the floor(a (n + 1))-th smallest of n values of events: with
    probability a at most, the value of another event lies below it. ``high`` is just
    above the ceil((1 - a)(n + 1))-th smallest of n values without one, likewise. This holds
    where the next values are drawn as these were (exchangeable), for each class on
    its own. Source: Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world",
    label-conditional conformal prediction; Sadinle, Lei and Wasserman 2019.

    Args:
        present: Peaks of events, shape (n,).
        absent: Peaks of stretches without one, shape (m,).
        error_rate: The ``a`` above, above 0 and below 1.

    Returns:
        The band; None where the two classes lie apart at this rate.

    Raises:
        ConfigError: There are too few of either for this rate.
    """
    for values, what in ((present, "events"), (absent, "stretches without an event")):
        if math.floor(error_rate * (len(values) + 1)) < 1:
            raise ConfigError(
                f"there are {len(values)} {what} for an error rate of {error_rate:g}",
                expected=f"at least {math.ceil(1 / error_rate) - 1}",
                remedy="Record more, or allow more errors.",
            )
    low = np.sort(present)[math.floor(error_rate * (len(present) + 1)) - 1]
    place = math.ceil((1.0 - error_rate) * (len(absent) + 1)) - 1
    high = np.nextafter(np.sort(absent)[place], np.inf)
    return Reject(float(low), float(high)) if low < high else None


def fitted_temperature(scores: np.ndarray, is_true: np.ndarray, output: OutputSpec) -> float:
    """Return the temperature for which the scores are most likely, given what was true.

    It minimises the mean negative log-likelihood, which has one minimum, by golden
    section. Source: Guo et al. 2017, "On calibration of modern neural networks".

    Args:
        scores: What the bundle answers, shape (n, labels), float64.
        is_true: Which labels were there, same shape, bool; for a softmax exactly one a row.
        output: How the bundle makes scores; its temperature goes into the result.

    Raises:
        ConfigError: The scores are no probabilities of this softmax or sigmoid alone,
            or nothing is labelled.
    """
    is_plain = output.scale == 1.0 and output.offset == 0.0
    if output.activation not in ("softmax", "sigmoid") or not is_plain or not len(scores):
        raise ConfigError(
            f"output has activation {output.activation!r}, scale {output.scale:g} and offset "
            f"{output.offset:g}, and {len(scores)} windows are labelled",
            where="temperature",
            expected="a softmax or sigmoid without another calibration, and labelled windows",
            remedy="Leave out --fit-temperature.",
        )
    is_softmax = output.activation == "softmax"
    logits = _log(scores) if is_softmax else _log(scores) - _log(1.0 - scores)
    loss = _softmax_loss if is_softmax else _sigmoid_loss
    low, high = _RANGE
    for _ in range(_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        is_left = loss(logits / math.exp(left), is_true) < loss(logits / math.exp(right), is_true)
        low, high = (low, right) if is_left else (left, high)
    fitted = output.temperature * math.exp((low + high) / 2.0)
    return float(f"{min(1e3, max(1e-3, fitted)):.4g}")


def _log(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.log(np.maximum(values, _LOWEST))
    return found


def _softmax_loss(logits: np.ndarray, is_true: np.ndarray) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    totals = np.log(np.exp(shifted).sum(axis=1))
    return float((totals - shifted[is_true]).mean())


def _sigmoid_loss(logits: np.ndarray, is_true: np.ndarray) -> float:
    return float(np.logaddexp(0.0, np.where(is_true, -logits, logits)).mean())
