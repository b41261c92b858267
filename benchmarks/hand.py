"""What a good engineer would write by hand for one model: the loops our pipeline is held against.

Each does the work of its row and no more: a linear ring buffer, set, invoke,
get, a score, a threshold with hysteresis, and an event where one is due. No
gaps, no layers, no snapshot, no second stream. Arrays are made once.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from bare import Answer

__all__ = ["Event", "Hysteresis", "Images", "Keywords", "Reconstruction", "Ring", "quantiser"]

_WINDOWS_KEPT = 16


class Event(msgspec.Struct, frozen=True, array_like=True):
    """A label starts or ends."""

    label: int
    time_ns: int
    is_start: bool
    value: float


_ENCODER = msgspec.msgpack.Encoder()


class Ring:
    """A linear buffer many windows long, moved to its start when it is full.

    Args:
        length: Samples of a window.
        dtype: Of the samples.
    """

    def __init__(self, length: int, dtype: type) -> None:
        self._length = length
        self._buffer = np.zeros(_WINDOWS_KEPT * length, dtype)
        self._used = 0

    def push(self, block: np.ndarray) -> np.ndarray | None:
        """Take a block and return the newest window, a view; None until there is one."""
        first, last = self._used, self._used + len(block)
        if last > len(self._buffer):
            kept = self._length
            self._buffer[:kept] = self._buffer[first - kept : first]
            first, last = kept, kept + len(block)
        self._buffer[first:last] = block
        self._used = last
        return None if last < self._length else self._buffer[last - self._length : last]


class Hysteresis:
    """Starts at ``on``, ends below ``off``, encodes an event for each."""

    def __init__(self, on: float, off: float) -> None:
        self._on, self._off = on, off
        self._has_started = False
        self.events: list[bytes] = []

    def take(self, value: float, time_ns: int, label: int = 0) -> None:
        """Take the next value."""
        if value < self._off if self._has_started else value >= self._on:
            self._has_started = not self._has_started
            event = Event(label, time_ns, self._has_started, value)
            self.events.append(_ENCODER.encode(event))


def quantiser(
    shape: tuple[int, ...], scale: float, zero: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that maps float32 values to int8: five ufuncs, nothing allocated."""
    real, integers = np.empty(shape, np.float32), np.empty(shape, np.int8)
    factor, offset = np.float32(1 / scale), np.float32(zero)
    lowest, highest = np.float32(-128), np.float32(127)

    def quantise(values: np.ndarray) -> np.ndarray:
        np.multiply(values, factor, out=real)
        np.add(real, offset, out=real)
        np.rint(real, out=real)
        np.clip(real, lowest, highest, out=real)
        np.copyto(integers, real, casting="unsafe")
        return integers

    return quantise


class Reconstruction:
    """Autoencoder: mean squared error between a window of 640 values and the answer.

    Args:
        answer: The bare runtime.
        source: Scale and zero point of the input.
        target: Scale and zero point of the output.
        is_float: Whether samples are real values that have to be quantised.
    """

    def __init__(
        self,
        answer: Answer,
        source: tuple[float, int],
        target: tuple[float, int],
        *,
        is_float: bool = False,
    ) -> None:
        self._answer = answer
        self._ring = Ring(640, np.float32 if is_float else np.int8)
        self._quantise = quantiser((640,), *source) if is_float else None
        self._in, self._out = np.float32(source[0]), np.float32(target[0])
        self._shift = np.float32(target[0] * target[1] - source[0] * source[1])
        self._seen, self._error = np.empty((2, 1, 640), np.float32)
        self._limit = Hysteresis(1e6, 1e5)
        self.value = 0.0
        self.windows = 0

    def push(self, block: np.ndarray, time_ns: np.ndarray) -> None:
        """Take 64 samples, shape (64,)."""
        window = self._ring.push(block)
        if window is None:
            return
        if self._quantise is not None:
            window = self._quantise(window)
        window = window.reshape(1, 640)
        answer = self._answer(window)
        error = self._error
        np.multiply(window, self._in, out=self._seen)
        np.multiply(answer, self._out, out=error)
        np.subtract(self._seen, error, out=error)
        np.add(error, self._shift, out=error)
        flat = error[0]
        self.value = float(flat.dot(flat)) / 640
        self.windows += 1
        self._limit.take(self.value, time_ns[-1])


class Keywords:
    """Classifier from ready features; only the best of twelve words can be above its limit."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._quantise = quantiser((1, 49, 10, 1), 0.58470290899276733, 83)
        self._limits = [Hysteresis(0.8, 0.5) for _ in range(10)]
        self._started: int | None = None
        self.value = 0.0

    def push(self, features: np.ndarray, time_ns: np.ndarray) -> None:
        """Take one window of features, (49, 10) float32."""
        scores = self._answer(self._quantise(features.reshape(1, 49, 10, 1)))[0]
        best = int(scores.argmax())
        self.value = (int(scores[best]) + 128) / 256
        started = self._started
        if started is not None and started != best:
            self._limits[started].take((int(scores[started]) + 128) / 256, time_ns[-1], started)
        if best < 10:
            self._limits[best].take(self.value, time_ns[-1], best)
            self._started = best


class Images:
    """Person or nobody, from 8-bit pixels; the model wants ``pixel - 128``."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._pixels = np.empty((1, 96, 96, 3), np.uint8)
        self._input = self._pixels.view(np.int8)
        self._limit = Hysteresis(0.98, 0.9)
        self.value = 0.0

    def push(self, image: np.ndarray, time_ns: np.ndarray) -> None:
        """Take one image, uint8, 27648 values in any shape."""
        np.bitwise_xor(image.reshape(1, 96, 96, 3), 0x80, out=self._pixels)
        self.value = (int(self._answer(self._input)[0, 1]) + 128) / 256
        self._limit.take(self.value, time_ns[-1], 1)
