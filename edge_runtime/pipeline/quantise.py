"""Real values to the integers of a quantised tensor, and back."""

from __future__ import annotations

import math

import numpy as np

from edge_runtime.errors import ShapeError
from edge_runtime.types import TensorSpec

__all__ = ["Quantiser", "dequantise", "quantise"]

_CACHED_VALUES = 1 << 16


def quantise(values: np.ndarray, tensor: TensorSpec) -> np.ndarray:
    """Map real values to the integers a quantised model expects.

    q = clip(round(x / scale) + zero_point); ties go to even.
    Source: ONNX operator QuantizeLinear. Infinities saturate; NaN, which has
    no integer, becomes the lowest. A float tensor takes the values as they are.

    Args:
        values: Features, shape (n, *tensor.shape[1:]), float32, any range.
        tensor: Input tensor of the model; its scale must be positive.

    Returns:
        Same shape, dtype ``tensor.dtype``, saturated to that type's range.

    Raises:
        ShapeError: ``values`` does not match ``tensor.shape``.
    """
    if values.shape[1:] != tensor.shape[1:]:
        raise ShapeError(
            f"values have shape {values.shape}",
            where=f"tensor {tensor.name!r}",
            expected=f"(n, {', '.join(map(str, tensor.shape[1:]))})",
            remedy="Reshape the features to the model's input tensor.",
        )
    with np.errstate(over="ignore"):  # too large is infinite, and saturates
        return Quantiser(tensor)(values.astype(np.float32, copy=False)).copy()


def dequantise(values: np.ndarray, tensor: TensorSpec) -> np.ndarray:
    """Map a tensor's integers to the real values they stand for.

    x = (q - zero_point) * scale. Source: ONNX operator DequantizeLinear.

    Args:
        values: Any shape, dtype ``tensor.dtype``.
        tensor: Tensor the values come from.

    Returns:
        Same shape, float64, C-contiguous; a float tensor's values unchanged.
    """
    if tensor.scale is None:
        return values.astype(np.float64)
    real: np.ndarray = np.subtract(values, float(tensor.zero_point or 0), dtype=np.float64)
    real *= tensor.scale
    return real


class Quantiser:
    """Fills one tensor with real values, reusing its work arrays; one thread.

    Args:
        tensor: Input tensor of the model.

    Raises:
        ShapeError: The tensor's scale is not a positive number.
    """

    def __init__(self, tensor: TensorSpec) -> None:
        self._dtype = np.dtype(tensor.dtype)
        self._is_float = self._dtype.kind == "f"
        self._integers: dict[tuple[int, ...], np.ndarray] = {}
        self._reals: dict[tuple[int, ...], np.ndarray] = {}
        if not self._is_float:
            self._set_range(tensor)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return ``values`` in the tensor's dtype; valid until the next call.

        Args:
            values: Any shape, float32.
        """
        if self._is_float:
            return np.ascontiguousarray(values, dtype=self._dtype)
        integers = self._integers_of(values.shape)
        if values.size <= _CACHED_VALUES:
            self._fill(values, integers)
            return integers
        # What is read again in the next step should still be in the cache.
        rows = max(1, _CACHED_VALUES * len(values) // values.size)
        for first in range(0, len(values), rows):
            part = slice(first, first + rows)
            self._fill(values[part], integers[part])
        return integers

    def _fill(self, values: np.ndarray, integers: np.ndarray) -> None:
        real = self._real_of(values.shape)
        np.divide(values, self._scale, out=real)
        np.rint(real, out=real)
        np.add(real, self._zero_point, out=real)
        # fmax and fmin, not maximum and minimum: NaN must not reach the cast,
        # whose result would depend on the machine.
        np.fmax(real, self._lowest, out=real)
        np.fmin(real, self._highest, out=real)
        np.copyto(integers, real, casting="unsafe")

    def _integers_of(self, shape: tuple[int, ...]) -> np.ndarray:
        found = self._integers.get(shape)
        if found is None:
            # Two shapes at most are in use: one window, and one full batch.
            if len(self._integers) >= 2:
                self._integers.clear()
            found = self._integers[shape] = np.empty(shape, self._dtype)
        return found

    def _real_of(self, shape: tuple[int, ...]) -> np.ndarray:
        found = self._reals.get(shape)
        if found is None:
            if len(self._reals) >= 4:
                self._reals.clear()
            found = self._reals[shape] = np.empty(shape, self._real)
        return found

    def _set_range(self, tensor: TensorSpec) -> None:
        scale = 1.0 if tensor.scale is None else tensor.scale
        if not (math.isfinite(scale) and scale > 0):
            raise ShapeError(
                f"scale is {scale}",
                where=f"tensor {tensor.name!r}",
                expected="a positive number",
                remedy="Convert the model again.",
            )
        # float32 holds every 16-bit integer; wider tensors need float64.
        self._real = np.dtype(np.float32 if self._dtype.itemsize <= 2 else np.float64)
        self._scale = np.array(scale, self._real)
        self._zero_point = np.array(tensor.zero_point or 0, self._real)
        limits = np.iinfo(self._dtype)
        self._lowest = np.array(limits.min, self._real)
        self._highest = np.array(limits.max, self._real)
        if int(self._highest) > limits.max:
            self._highest = np.nextafter(self._highest, np.zeros_like(self._highest))
