"""The link a model declares, and the terms that layers add in it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ShapeError
from edge_runtime.spec import OutputSpec

__all__ = [
    "Link",
    "Reals",
    "activate",
    "calibrate",
    "check_alike",
    "decay",
    "from_link",
    "squared_error",
    "to_link",
]

Reals = NDArray[np.float64]
Link = Literal["identity", "log_odds"]

_LOWEST_PROBABILITY = 1e-6
_LARGEST_EXPONENT = 700.0  # exp of more overflows float64


def to_link(values: Reals, link: Link) -> Reals:
    """Map reported values to the link.

    Log-odds are ``ln(p / (1 - p))``; p is first cut to 1e-6 … 1 - 1e-6, where a
    quantised 0 or 1 would be infinite. Source: Cox 1958, the logistic model.

    Args:
        values: Shape (n, k), float64, C-contiguous; probabilities for log-odds.
        link: The model's link.

    Returns:
        A new array of the same shape.
    """
    if link == "identity":
        return values.copy()
    p = np.maximum(values, _LOWEST_PROBABILITY)
    np.minimum(p, 1.0 - _LOWEST_PROBABILITY, out=p)
    odds = p / (1.0 - p)
    return np.log(odds, out=odds)


def from_link(z: Reals, link: Link) -> Reals:
    """Map the link's values back to reported ones: the inverse of `to_link`."""
    return z if link == "identity" else _sigmoid(z)


def _sigmoid(z: Reals) -> Reals:
    exponent = np.minimum(np.maximum(-z, -_LARGEST_EXPONENT), _LARGEST_EXPONENT)
    odds = np.exp(exponent, out=exponent)
    odds += 1.0
    return np.divide(1.0, odds, out=odds)


def _softmax(values: Reals) -> Reals:
    """Source: Bridle 1990; shifted by the largest value, so that nothing overflows."""
    shifted: Reals = values - values.max(axis=1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= np.add.reduce(shifted, axis=1, keepdims=True)
    return shifted


def activate(values: Reals, output: OutputSpec) -> Reals:
    """Turn dequantised outputs into the reported scale.

    Args:
        values: Shape (n, k), float64, C-contiguous. For ``reconstruction`` they
            are the squared errors already.
        output: The activation, and the temperature that divides the logits before it
            (Guo et al. 2017, "On calibration of modern neural networks").
    """
    if output.temperature != 1.0:
        values = values / output.temperature
    match output.activation:
        case "softmax":
            return _softmax(values)
        case "sigmoid":
            return _sigmoid(values)
        case "none" | "reconstruction":
            return values


def check_alike(seen: np.ndarray, answered: np.ndarray) -> None:
    """Raise a `ShapeError` unless an autoencoder answered in the shape it was shown."""
    if seen.shape != answered.shape:
        raise ShapeError(
            f"the model was shown {seen.shape} and answered {answered.shape}",
            expected="equal shapes, for the activation 'reconstruction'",
            remedy="Use another activation in bundle.yaml.",
        )


def squared_error(seen: Reals, answered: Reals) -> Reals:
    """Return the mean squared error of each row, shape (n, 1), float64.

    Args:
        seen: What an autoencoder was shown, shape (n, m), float64.
        answered: What it made of it, same shape.

    Raises:
        ShapeError: The shapes differ.
    """
    check_alike(seen, answered)
    error = seen - answered
    error *= error
    mean: Reals = np.add.reduce(error, axis=1, keepdims=True)
    mean /= error.shape[1]
    return mean


def calibrate(values: Reals, output: OutputSpec, link: Link) -> Reals:
    """Apply the calibration shipped with the base, ``scale * z + offset`` in the link."""
    if output.scale == 1.0 and output.offset == 0.0:
        return values
    z = to_link(values, link)
    z *= output.scale
    z += output.offset
    return from_link(z, link)


def decay(age_s: Reals, half_life_s: float | None) -> Reals:
    """Return ``2^(-age / half_life)``, shape (n, 1); 1 without a half-life."""
    if half_life_s is None:
        return np.ones((len(age_s), 1))
    return np.exp2(age_s / -half_life_s)[:, None]
