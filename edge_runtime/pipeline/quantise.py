"""Real values to the integers of a quantised tensor, and back."""

from __future__ import annotations

import math

import numpy as np

from edge_runtime.errors import ShapeError
from edge_runtime.types import TensorSpec

__all__ = ["Quantiser", "dequantise", "quantise"]

_CACHED_VALUES = 1 << 16
_ROUNDERS = {np.dtype(np.float32): 3 << 22, np.dtype(np.float64): 3 << 51}
"""1.5 times the least number of each type whose neighbours are one apart.

Added to any integer of half as many bits, it stays between two powers of two.
"""


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
        self._work: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        if not self._is_float:
            self._set_range(tensor)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return ``values`` in the tensor's dtype; valid until the next call.

        Args:
            values: Any shape, float32.
        """
        if self._is_float:
            return np.ascontiguousarray(values, dtype=self._dtype)
        real, integers = self._work.get(values.shape) or self._arrays(values.shape)
        rows = len(real)
        if len(values) == rows:
            self._fill(values, real, integers)
            return integers
        # What is read again in the next step should still be in the cache.
        for first in range(0, len(values), rows):
            part = slice(first, first + rows)
            seen = values[part]
            self._fill(seen, real[: len(seen)], integers[part])
        return integers

    def _fill(self, values: np.ndarray, real: np.ndarray, integers: np.ndarray) -> None:
        # First what saturates, so that nothing after it can overflow. fmax, not maximum:
        # NaN must not reach the bits, which would then depend on the machine.
        np.fmax(values, self._least, out=real)
        np.minimum(real, self._most, out=real)
        np.divide(real, self._scale, out=real)
        if self._rounder is None:
            np.rint(real, out=real)
            np.add(real, self._zero_point, out=real)
            np.copyto(integers, real, casting="unsafe")
            return
        # Beside so large a number only integers fit into the fraction: the sum rounds,
        # ties to even, and its lowest bits are the integer.
        np.add(real, self._rounder, out=real)
        np.copyto(integers, real.view(self._bits), casting="unsafe")
        if self._odd is not None:
            np.add(integers, self._odd, out=integers)

    def _arrays(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return room for real values, a few rows of them, and for all integers."""
        # Two shapes at most are in use: one window, and one full batch.
        if len(self._work) >= 2:
            self._work.clear()
        rows = max(1, min(shape[0], _CACHED_VALUES // max(1, math.prod(shape[1:]))))
        arrays = np.empty((rows, *shape[1:]), self._real), np.empty(shape, self._dtype)
        self._work[shape] = arrays
        return arrays

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
        self._bits = np.dtype(f"i{self._real.itemsize}")
        self._scale = np.array(scale, self._real)
        self._zero_point = np.array(tensor.zero_point or 0, self._real)
        # An odd zero point, added before the rounding, would turn ties the other way.
        odd = int(self._zero_point) % 2
        even = np.array(_ROUNDERS[self._real] + int(self._zero_point) - odd, self._real)
        self._rounder = even if self._dtype.itemsize <= 4 else None
        self._odd = np.array(1, self._dtype) if odd else None
        limits = np.iinfo(self._dtype)
        self._least = self._real_at(limits.min, limits)
        self._most = self._real_at(limits.max, limits)

    def _real_at(self, limit: int, limits: np.iinfo) -> np.ndarray:
        """Return the value furthest out that does not round to an integer beyond ``limit``."""
        zero_point = float(self._zero_point)
        with np.errstate(over="ignore"):
            value = (self._real.type(limit) - self._zero_point) * self._scale
        while not limits.min <= float(np.rint(value / self._scale)) + zero_point <= limits.max:
            value = np.nextafter(value, self._real.type(0))
        return np.array(value, self._real)
