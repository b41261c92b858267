"""The TensorFlow Lite Micro audio front end, as microWakeWord models hear."""

from __future__ import annotations

import importlib
import struct
from typing import Any

import numpy as np

from edge_runtime.errors import MissingExtra
from edge_runtime.pipeline.features.feature import Feature, Order, misfit
from edge_runtime.spec import MicroFrontend

__all__ = ["CHANNELS", "MicroFrames", "frames_of"]

RATE_HZ = 16_000.0
FRAME_LENGTH, FRAME_STEP, CHANNELS = 480, 160, 40


class MicroFrames:
    """Frames of the audio front end; every one depends on the whole stream before it.

    The front end estimates noise and gain as it goes. It starts anew where a
    window does not follow the one before, and cannot be copied: after a restart
    it has to hear a while again.
    Source: tensorflow/lite/experimental/microfrontend; the package pymicro-features.

    Args:
        spec: The feature.
        window: Shape of a window, (length, 1).
        rate_hz: Samples a second, 16,000.
        hop: Samples from one window to the next, whole frames; None if windows are unrelated.

    Raises:
        ShapeError: Window, hop or rate do not fit.
        MissingExtra: pymicro-features is not installed.
    """

    is_stateful = True
    is_quiet = True

    def __init__(
        self, spec: MicroFrontend, window: tuple[int, int], rate_hz: float, hop: int | None
    ) -> None:
        self._frames = frames_of(spec, window)
        # It takes whole steps; samples behind the last frame wait for the next window.
        self._end = FRAME_LENGTH + (self._frames - 1) * FRAME_STEP
        if rate_hz != RATE_HZ:
            raise misfit(spec, f"a stream of {rate_hz:g} Hz", f"{RATE_HZ:g} Hz")
        if hop is not None and (hop % FRAME_STEP or hop > window[0]):
            raise misfit(
                spec, f"hop {hop}", f"a multiple of {FRAME_STEP}, at most the window's {window[0]}"
            )
        self._arguments = (spec, window, rate_hz, hop)
        self._hop = hop
        self._make = _front_end()
        self._front: Any = None
        self._recent = np.empty((0, CHANNELS), np.float32)

    def fork(self) -> Feature:
        """Return one that has heard nothing."""
        return MicroFrames(*self._arguments)

    def __call__(self, windows: np.ndarray, order: Order, /) -> np.ndarray:
        """Return float32 (n, frames, 40) of windows (n, length, 1), samples in int16's range."""
        samples = _int16(windows)
        if len(samples) == 1:
            return self._next(samples[0], follows=order is Order.FOLLOWS)[None]
        rows = [
            self._next(
                window, follows=order is Order.FOLLOWS or (order is Order.FRESH and place > 0)
            )
            for place, window in enumerate(samples)
        ]
        return np.array(rows, np.float32).reshape(-1, self._frames, CHANNELS)

    def _next(self, window: np.ndarray, *, follows: bool) -> np.ndarray:
        """Return the frames of one window, hearing only what is new in it."""
        if follows and self._front is not None and self._hop is not None:
            new = self._hear(window[self._end - self._hop : self._end])
        else:
            self._front = self._make()
            new = self._hear(window[: self._end])
        if len(new) != self._frames:
            new = np.concatenate((self._recent, new))[-self._frames :]
        self._recent = new
        return new

    def _hear(self, samples: np.ndarray) -> np.ndarray:
        """Feed whole steps of samples and return the frames they complete."""
        audio, step = samples.tobytes(), 2 * FRAME_STEP
        hear = self._front.process_samples
        values: list[float] = []
        for first in range(0, len(audio), step):
            values += hear(audio[first : first + step]).features
        # A third of the time that np.array takes.
        packed = struct.pack(f"{len(values)}f", *values)
        return np.frombuffer(packed, np.float32).reshape(-1, CHANNELS)


def frames_of(spec: MicroFrontend, window: tuple[int, int]) -> int:
    """Return how many frames a window has.

    Raises:
        ShapeError: The window does not fit.
    """
    length, channels = window
    if channels != 1 or length < FRAME_LENGTH:
        raise misfit(
            spec, f"a window of shape {window}", f"one channel and at least {FRAME_LENGTH} samples"
        )
    return (length - FRAME_LENGTH) // FRAME_STEP + 1


def _int16(samples: np.ndarray) -> np.ndarray:
    if samples.dtype == np.int16:
        return samples
    limits = np.iinfo(np.int16)
    rounded: np.ndarray = np.clip(np.rint(samples), limits.min, limits.max).astype(np.int16)
    return rounded


def _front_end() -> Any:
    try:
        return importlib.import_module("pymicro_features").MicroFrontend
    except ImportError as error:
        raise MissingExtra.of('feature "micro_frontend"', "pymicro-features", "audio") from error
