"""Normalisers: what features go through before the model sees them."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ShapeError
from edge_runtime.spec import Normalise, NormaliserLayer

__all__ = ["Quantiles", "Scales", "ZScore", "normal_quantile", "normalise", "scales_of"]

_Reals = NDArray[np.float64]

_LOWEST_SHARE = 1e-7
_COMPARED_AT_ONCE = 1 << 20


class ZScore(msgspec.Struct, frozen=True, eq=False):
    """Mean and std, each of one window's features' shape, float32."""

    mean: np.ndarray
    std: np.ndarray


class Quantiles(msgspec.Struct, frozen=True, eq=False):
    """Ascending knots of every feature element, shape (elements, knots), float64."""

    knots: np.ndarray
    is_normal: bool


Scales = ZScore | Quantiles


def scales_of(numbers: Normalise | NormaliserLayer, shape: tuple[int, ...], where: str) -> Scales:
    """Spread a normaliser's numbers over one window's features.

    Args:
        numbers: One per feature element, or one per last axis.
        shape: Shape of one window's features.
        where: What they belong to, for the message.

    Raises:
        ShapeError: Their lengths fit neither.
    """
    if isinstance(numbers, Normalise) and numbers.kind == "quantile":
        count = len(numbers.knots)
        _check_lengths(f"knots has {count} lists", {count}, shape, where)
        knots = np.array(numbers.knots, np.float64)
        repeats = int(np.prod(shape)) // count
        return Quantiles(np.tile(knots, (repeats, 1)), numbers.output == "normal")
    means, stds = len(numbers.mean), len(numbers.std)
    _check_lengths(f"mean has {means} and std {stds} numbers", {means, stds}, shape, where)
    spread = shape if means == int(np.prod(shape)) else (shape[-1],)
    mean, std = (
        np.broadcast_to(np.array(side, np.float32).reshape(spread), shape).copy()
        for side in (numbers.mean, numbers.std)
    )
    return ZScore(mean, std)


def _check_lengths(what: str, lengths: set[int], shape: tuple[int, ...], where: str) -> None:
    size = int(np.prod(shape))
    if lengths in ({size}, {shape[-1]}):
        return
    raise ShapeError(
        what,
        where=where,
        expected=f"{size} or {shape[-1]} each, for features of shape {shape}",
        remedy="Fit it again on this model's features.",
    )


def normalise(features: np.ndarray, scales: Scales | None) -> np.ndarray:
    """Return normalised features, float32; the features themselves without scales.

    Args:
        features: Shape (n, …), float32.
        scales: Of one window's features.
    """
    if scales is None:
        return features
    if isinstance(scales, Quantiles):
        return _by_quantiles(features, scales)
    result: np.ndarray = features - scales.mean
    result /= scales.std
    return result


# --- quantiles --------------------------------------------------------------------


def _by_quantiles(features: np.ndarray, scales: Quantiles) -> np.ndarray:
    flat = features.reshape(len(features), -1).astype(np.float64)
    at_once = max(1, _COMPARED_AT_ONCE // scales.knots.size)
    shares = np.empty_like(flat)
    for first in range(0, len(flat), at_once):
        part = slice(first, first + at_once)
        shares[part] = _shares(flat[part], scales.knots)
    if scales.is_normal:
        shares = normal_quantile(shares)
    return shares.reshape(features.shape).astype(np.float32)


def _shares(values: _Reals, knots: _Reals) -> _Reals:
    """Return the share of the training values below each value, 0 to 1.

    Straight lines between knots; where several knots are equal, the middle of
    their shares; 0 up to the first knot and 1 from the last one on.
    Source: scikit-learn, ``QuantileTransformer``.

    Args:
        values: Shape (n, elements).
        knots: Shape (elements, knots).
    """
    last = knots.shape[1] - 1
    below = np.count_nonzero(knots < values[..., None], axis=-1)
    up_to = np.count_nonzero(knots <= values[..., None], axis=-1)
    left = np.clip(below - 1, 0, last - 1)
    rows = np.arange(len(knots))
    low, high = knots[rows, left], knots[rows, left + 1]
    between = np.divide(values - low, high - low, out=np.zeros_like(values), where=high > low)
    is_on_knot = up_to > below
    places = np.where(is_on_knot, (below + up_to - 1) / 2, left + between)
    shares: _Reals = places / last
    shares[values >= knots[:, -1]] = 1.0
    shares[values <= knots[:, 0]] = 0.0
    return shares


def normal_quantile(shares: _Reals) -> _Reals:
    """Return the points below which these shares of the normal distribution lie.

    Shares are cut to 1e-7 … 1 - 1e-7, so that points lie between -5.2 and 5.2.
    Source: Wichura 1988, algorithm AS 241, PPND16.
    """
    centred = np.clip(shares, _LOWEST_SHARE, 1 - _LOWEST_SHARE) - 0.5
    r = 0.180625 - centred * centred
    inside = centred * np.polyval(_A, r) / np.polyval(_B, r)
    tail = np.sqrt(-np.log(np.minimum(0.5 + centred, 0.5 - centred)))
    # Beyond 5 another formula would be needed: the cut keeps the tail below 4.02.
    outside = np.polyval(_C, tail - 1.6) / np.polyval(_D, tail - 1.6)
    points: _Reals = np.where(np.abs(centred) <= 0.425, inside, np.copysign(outside, centred))
    return points


_A = (
    2.5090809287301226727e3,
    3.3430575583588128105e4,
    6.7265770927008700853e4,
    4.5921953931549871457e4,
    1.3731693765509461125e4,
    1.9715909503065514427e3,
    1.3314166789178437745e2,
    3.3871328727963666080e0,
)
_B = (
    5.2264952788528545610e3,
    2.8729085735721942674e4,
    3.9307895800092710610e4,
    2.1213794301586595867e4,
    5.3941960214247511077e3,
    6.8718700749205790830e2,
    4.2313330701600911252e1,
    1.0,
)
_C = (
    7.74545014278341407640e-4,
    2.27238449892691845833e-2,
    2.41780725177450611770e-1,
    1.27045825245236838258e0,
    3.64784832476320460504e0,
    5.76949722146069140550e0,
    4.63033784615654529590e0,
    1.42343711074968357734e0,
)
_D = (
    1.05075007164441684324e-9,
    5.47593808499534494600e-4,
    1.51986665636164571966e-2,
    1.48103976427480074590e-1,
    6.89767334985100004550e-1,
    1.67638483018380384940e0,
    2.05319162663775882187e0,
    1.0,
)
