"""Make the channels between two layers alike in size, without changing what they compute.

Where channels differ by hundreds, one scale for all of them leaves the small ones a few
integers. What a layer gives out can be divided by what the next one multiplies with,
as long as only a rectifier lies between them.
Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias
correction". Factors are powers of two, so that no value is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

__all__ = ["Factors", "Pair", "equalised", "find_factors"]

_ROUNDS = 4
_WORTH_IT = 16.0

Factors = dict[str, tuple[float, ...]]
"""What each output channel of a layer is divided by, by the name of its weights."""


class Pair(msgspec.Struct, frozen=True):
    """Two layers with nothing but a rectifier between them.

    Attributes:
        first: Weights of the layer before.
        output_axis: Axis of its output channels.
        bias: Its bias; None without one.
        second: Weights of the layer behind.
        input_axis: Axis of its input channels.
    """

    first: str
    output_axis: int
    bias: str | None
    second: str
    input_axis: int


def find_factors(constants: Mapping[str, np.ndarray], pairs: Sequence[Pair]) -> Factors:
    """Return the factors of the layers whose channels differ much; none for the others.

    Args:
        constants: Weights and biases by name.
        pairs: Layers that follow each other.
    """
    found: dict[str, np.ndarray] = {}
    values = dict(constants)
    for _ in range(_ROUNDS):
        for pair in pairs:
            factor = _balance(values, pair)
            values |= _divided(values, pair, factor)
            found[pair.first] = found.get(pair.first, np.ones(len(factor))) * factor
    return {
        name: tuple(factor.tolist())
        for name, factor in found.items()
        if factor.max() / factor.min() >= _WORTH_IT
    }


def equalised(
    constants: Mapping[str, np.ndarray],
    pairs: Sequence[Pair],
    factors: Mapping[str, Sequence[float]],
) -> dict[str, np.ndarray]:
    """Return the constants that change; the network computes what it did before."""
    values = dict(constants)
    for pair in pairs:
        if pair.first in factors:
            values |= _divided(values, pair, np.array(factors[pair.first]))
    return {name: one for name, one in values.items() if one is not constants[name]}


def _balance(values: Mapping[str, np.ndarray], pair: Pair) -> np.ndarray:
    """Return the factors that make weights before and behind a channel equally large."""
    before = _largest(values[pair.first], pair.output_axis)
    behind = _largest(values[pair.second], pair.input_axis)
    ratio = np.sqrt(before / np.where(behind > 0, behind, 1))
    usable = (before > 0) & (behind > 0)
    exponents = np.rint(np.log2(ratio, out=np.zeros_like(ratio), where=usable))
    result: np.ndarray = np.exp2(exponents)
    return result


def _largest(weights: np.ndarray, axis: int) -> np.ndarray:
    others = tuple(one for one in range(weights.ndim) if one != axis)
    result: np.ndarray = np.abs(weights).max(axis=others).astype(np.float64)
    return result


def _divided(
    values: Mapping[str, np.ndarray], pair: Pair, factor: np.ndarray
) -> dict[str, np.ndarray]:
    first, second = values[pair.first], values[pair.second]
    changed = {
        pair.first: first / _along(factor, first, pair.output_axis),
        pair.second: second * _along(factor, second, pair.input_axis),
    }
    if pair.bias is not None:
        changed[pair.bias] = values[pair.bias] / factor.astype(np.float32)
    return changed


def _along(factor: np.ndarray, values: np.ndarray, axis: int) -> np.ndarray:
    shape = [-1 if one == axis else 1 for one in range(values.ndim)]
    return factor.astype(np.float32).reshape(shape)
