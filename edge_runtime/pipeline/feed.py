"""How window samples or features become the integers of the input tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_runtime.pipeline.layers import Scales, normalise
from edge_runtime.pipeline.quantise import Quantiser
from edge_runtime.types import TensorSpec

__all__ = ["Feed", "feed_features", "feed_samples"]

Feed = Callable[[np.ndarray], np.ndarray]
"""Returns the tensor for samples or features (n, …); valid until the next call."""

_TABLED = "iu"
_LONGEST_TABLE_BYTES = 2


def feed_samples(
    dtype: np.dtype, tensor: TensorSpec, shape: tuple[int, ...], scales: Scales | None
) -> Feed | None:
    """Return what turns raw windows into the tensor without floats in between.

    Every integer a sample can be has one integer in the tensor: both are kept in
    a table, made by the same arithmetic that features go through.

    Args:
        dtype: Of the samples.
        tensor: Input tensor.
        shape: Its shape without the batch axis.
        scales: Mean and std to normalise with.

    Returns:
        None where samples are no small integers, or normalise differently.
    """
    target = np.dtype(tensor.dtype)
    if scales is None and dtype == target:
        return _as_it_is(shape)
    if dtype.kind not in _TABLED or dtype.itemsize > _LONGEST_TABLE_BYTES:
        return None
    if target.kind not in _TABLED or not _is_uniform(scales):
        return None
    return _tabled(_table_of(dtype, tensor, scales), dtype, shape)


def feed_features(tensor: TensorSpec, shape: tuple[int, ...], scales: Scales | None) -> Feed:
    """Return what normalises and quantises features, float32."""
    if scales is None and np.dtype(tensor.dtype) == np.float32:
        return _as_it_is(shape)
    quantiser = Quantiser(tensor)

    def feed(features: np.ndarray) -> np.ndarray:
        return quantiser(normalise(features, scales)).reshape(len(features), *shape)

    return feed


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
    if scales is None:
        return True
    return bool((scales.mean == scales.mean.flat[0]).all()) and bool(
        (scales.std == scales.std.flat[0]).all()
    )


def _table_of(dtype: np.dtype, tensor: TensorSpec, scales: Scales | None) -> np.ndarray:
    """Return the tensor's integer for every integer of ``dtype``, in the order of its bits."""
    every = np.arange(1 << 8 * dtype.itemsize).astype(f"u{dtype.itemsize}").view(dtype)
    values = every.astype(np.float32)
    with np.errstate(all="ignore"):
        if scales is not None:
            values = (values - scales.mean.flat[0]) / scales.std.flat[0]
        return Quantiser(tensor)(values).copy()


def _tabled(table: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> Feed:
    bits = np.dtype(f"u{dtype.itemsize}")
    shifted = (np.arange(len(table)) ^ 1 << 8 * dtype.itemsize - 1).astype(bits)
    if table.dtype.itemsize == dtype.itemsize and (table.view(bits) == shifted).all():
        return _shifted(bits, table.dtype, shape)

    def feed(samples: np.ndarray) -> np.ndarray:
        seen = np.ascontiguousarray(samples).view(bits)
        return table.take(seen).reshape(len(samples), *shape)

    return feed


def _shifted(bits: np.dtype, dtype: np.dtype, shape: tuple[int, ...]) -> Feed:
    """Between signed and unsigned only the highest bit differs: ten times as fast as a table."""
    highest = bits.type(1 << 8 * bits.itemsize - 1)

    def feed(samples: np.ndarray) -> np.ndarray:
        seen = np.ascontiguousarray(samples).view(bits)
        tensor: np.ndarray = (seen ^ highest).view(dtype).reshape(len(samples), *shape)
        return tensor

    return feed
