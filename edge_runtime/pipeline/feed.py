"""How window samples or features become the integers of the input tensor."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edge_runtime.pipeline.quantise import Quantiser
from edge_runtime.pipeline.scales import Scales, ZScore, normalise
from edge_runtime.types import TensorSpec

__all__ = ["Feed", "feed_features", "feed_samples"]

Feed = Callable[[np.ndarray], np.ndarray]
"""Returns the tensor for samples or features (n, …); valid until the next call."""

_LONGEST_TABLE_BYTES = 2


def feed_samples(
    dtype: np.dtype, tensor: TensorSpec, shape: tuple[int, ...], scales: Scales | None
) -> tuple[Feed, bool]:
    """Return what turns raw windows into the tensor, and whether nothing in it can overflow.

    Where both are small integers, every integer a sample can be has one integer in
    the tensor: they are kept in a table, made by the arithmetic of `feed_features`.

    Args:
        dtype: Of the samples.
        tensor: Input tensor.
        shape: Its shape without the batch axis.
        scales: Mean and std to normalise with.
    """
    if scales is None and dtype == np.dtype(tensor.dtype):
        return _as_it_is(shape), True
    if scales is None and dtype == np.float32:
        return feed_features(tensor, shape, None), True
    by_value = feed_features(tensor, shape, scales)

    def feed(samples: np.ndarray) -> np.ndarray:
        return by_value(samples.astype(np.float32, copy=False))

    if not _is_small(dtype):
        return feed, False
    if _is_small(np.dtype(tensor.dtype)) and _is_uniform(scales):
        return _tabled(_table_of(dtype, tensor, scales), dtype, shape), True
    return feed, _is_bounded(feed, dtype, tensor)


def feed_features(tensor: TensorSpec, shape: tuple[int, ...], scales: Scales | None) -> Feed:
    """Return what normalises and quantises features, float32."""
    shaped = _as_it_is(shape)
    quantised = shaped if np.dtype(tensor.dtype) == np.float32 else _quantised(tensor, shaped)
    if scales is None:
        return quantised
    normalised = _normaliser(scales)
    return lambda features: quantised(normalised(features))


def _quantised(tensor: TensorSpec, shaped: Feed) -> Feed:
    quantiser = Quantiser(tensor)
    return lambda features: shaped(quantiser(features))


def _normaliser(scales: Scales | None) -> Callable[[np.ndarray], np.ndarray]:
    """Return `normalise` with what does nothing left out, and one number in place of many."""
    if not isinstance(scales, ZScore):
        return lambda values: normalise(values, scales)
    mean, std = _one_if_uniform(scales.mean), _one_if_uniform(scales.std)
    if not np.any(mean):
        return lambda values: values / std

    def normalised(values: np.ndarray) -> np.ndarray:
        result: np.ndarray = values - mean
        result /= std
        return result

    return normalised


def _one_if_uniform(numbers: np.ndarray) -> np.ndarray | np.float32:
    first: np.float32 = numbers.flat[0]
    return first if (numbers == first).all() else numbers


def _is_small(dtype: np.dtype) -> bool:
    return dtype.kind in "iu" and dtype.itemsize <= _LONGEST_TABLE_BYTES


def _is_bounded(feed: Feed, dtype: np.dtype, tensor: TensorSpec) -> bool:
    """Whether the largest and the smallest sample give ordinary numbers."""
    limits = np.iinfo(dtype)
    size = math.prod(tensor.shape[1:])
    with np.errstate(all="raise"):
        try:
            for extreme in (limits.min, limits.max):
                feed(np.full((1, size), extreme, dtype))
        except (FloatingPointError, ValueError):
            # Numbers for every channel need the window's own shape: not worth it.
            return False
    return True


def _as_it_is(shape: tuple[int, ...]) -> Feed:
    one = (1, *shape)

    def feed(values: np.ndarray) -> np.ndarray:
        if len(values) == 1:
            return values.reshape(one)
        # Windows that overlap share memory; a tensor does not.
        return np.ascontiguousarray(values).reshape(len(values), *shape)

    return feed


def _is_uniform(scales: Scales | None) -> bool:
    """Whether every value is normalised alike."""
    if not isinstance(scales, ZScore):
        return scales is None
    return all(np.ndim(_one_if_uniform(side)) == 0 for side in (scales.mean, scales.std))


def _table_of(dtype: np.dtype, tensor: TensorSpec, scales: Scales | None) -> np.ndarray:
    """Return the tensor's integer for every integer of ``dtype``, in the order of its bits."""
    every = np.arange(1 << 8 * dtype.itemsize).astype(f"u{dtype.itemsize}").view(dtype)
    with np.errstate(all="ignore"):
        # The values of all integers stand in for a window: one row, any number of them.
        feed = feed_features(tensor, (len(every),), scales)
        table: np.ndarray = feed(every.astype(np.float32)[None])[0].copy()
        return table


def _tabled(table: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> Feed:
    bits = np.dtype(f"u{dtype.itemsize}")
    shifted = (np.arange(len(table)) ^ 1 << 8 * dtype.itemsize - 1).astype(bits)
    if table.dtype.itemsize == dtype.itemsize and (table.view(bits) == shifted).all():
        return _shifted(bits, table.dtype, shape)
    one = np.empty((1, *shape), table.dtype)
    flat = one.reshape(-1)

    def feed(samples: np.ndarray) -> np.ndarray:
        if len(samples) > 1:
            seen = np.ascontiguousarray(samples).view(bits)
            return table.take(seen).reshape(len(samples), *shape)
        # No index lies outside: "clip" only saves the copy that "raise" makes first.
        table.take(samples.reshape(-1).view(bits), out=flat, mode="clip")
        return one

    return feed


def _shifted(bits: np.dtype, dtype: np.dtype, shape: tuple[int, ...]) -> Feed:
    """Between signed and unsigned only the highest bit differs: ten times as fast as a table."""
    highest = np.array(1 << 8 * bits.itemsize - 1, bits)
    one = np.empty((1, *shape), dtype)
    flat = one.view(bits).reshape(-1)

    def feed(samples: np.ndarray) -> np.ndarray:
        if len(samples) > 1:
            seen = np.ascontiguousarray(samples).view(bits)
            tensor: np.ndarray = (seen ^ highest).view(dtype).reshape(len(samples), *shape)
            return tensor
        np.bitwise_xor(samples.reshape(-1).view(bits), highest, out=flat)
        return one

    return feed
