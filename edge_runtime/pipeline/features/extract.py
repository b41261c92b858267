"""All features of a model, from windows to one array."""

from __future__ import annotations

import copy
import functools
import math
import sys
from collections.abc import Sequence

import numpy as np

from edge_runtime.errors import ShapeError
from edge_runtime.pipeline.features.envelope import EnvelopeSpectrumTable, EnvelopeTable
from edge_runtime.pipeline.features.feature import Feature, Order, Pure
from edge_runtime.pipeline.features.fourier import bins_of
from edge_runtime.pipeline.features.mel import framing_of, log_mel, mfcc
from edge_runtime.pipeline.features.micro import CHANNELS, MicroFrames, frames_of
from edge_runtime.pipeline.features.raw import as_they_are, to_peak_one
from edge_runtime.pipeline.features.spectrum import BandPowerTable, SpectrumTable, segment_of
from edge_runtime.pipeline.features.statistics import statistics
from edge_runtime.spec import (
    BandPower,
    Envelope,
    EnvelopeSpectrum,
    FeatureSpec,
    LogMel,
    Mfcc,
    MicroFrontend,
    Raw,
    Spectrum,
    Statistics,
)

__all__ = ["Extractor", "compute", "shape_of"]


def compute(
    specs: Sequence[FeatureSpec], windows: np.ndarray, *, rate_hz: float = 1.0
) -> np.ndarray:
    """Compute the features of windows that have nothing to do with each other.

    Args:
        specs: What to compute; several are flattened and concatenated.
        windows: Shape (n, length, channels), any real dtype.
        rate_hz: Samples a second; only features with bands in Hz depend on it.

    Returns:
        Shape (n, *shape_of(specs, (length, channels))), float32, C-contiguous.
        May be ``windows`` itself.

    Raises:
        ShapeError: A feature does not fit windows of this shape.
        MissingExtra: A feature needs a package that is not installed.
    """
    return Extractor(specs, windows.shape[1:], rate_hz=rate_hz)(windows)


def shape_of(specs: Sequence[FeatureSpec], window: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of one window's features.

    Args:
        specs: What is computed.
        window: Its (length, channels).

    Raises:
        ShapeError: A feature does not fit windows of this shape.
    """
    shapes = [_shape_of_one(spec, _pair(window)) for spec in specs]
    return shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)


class Extractor:
    """The features of one model, with their tables made once; used by one thread.

    Pure features depend on their own window only, to the last bit, however the
    windows are spread over calls; frames that windows share are computed once
    where the windows are known to follow each other. A stateful feature hears
    the stream: it starts anew with every window that does not follow another.

    Args:
        specs: What to compute.
        window: Shape of a window, (length, channels).
        rate_hz: Samples a second.
        hop: Samples from one window to the next; None if windows are unrelated.

    Attributes:
        shape: Of one window's features.
        is_stateful: Whether answers depend on earlier windows.
        is_quiet: Whether nothing can overflow in it, whatever the samples are.
        looks_back: Whether it is quicker, or other, for windows that follow each other.

    Raises:
        ShapeError: A feature does not fit windows of this shape.
        MissingExtra: A feature needs a package that is not installed.
    """

    def __init__(
        self,
        specs: Sequence[FeatureSpec],
        window: tuple[int, ...],
        *,
        rate_hz: float,
        hop: int | None = None,
    ) -> None:
        self.shape = shape_of(specs, window)
        self._features = [_feature(spec, _pair(window), rate_hz, hop) for spec in specs]
        self._hop = hop
        self.is_stateful = any(feature.is_stateful for feature in self._features)
        self.is_quiet = all(feature.is_quiet for feature in self._features)
        self.looks_back = not all(isinstance(feature, Pure) for feature in self._features)

    def __call__(self, windows: np.ndarray, *, is_fresh: bool = True) -> np.ndarray:
        """Return the features of a block of windows.

        Args:
            windows: Shape (n, length, channels), any real dtype. Of an extractor with
                state and a hop, each follows the one before it by one hop.
            is_fresh: False promises that the first window follows the last one of the
                call before by one hop, and each further one the one before it.

        Returns:
            Shape (n, *shape), float32, C-contiguous; may be ``windows`` itself. The
            caller does not write to it.
        """
        order = self._order(windows, is_fresh)
        if len(self._features) == 1:
            return self._features[0](windows, order)
        parts = [feature(windows, order) for feature in self._features]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    def fork(self) -> Extractor:
        """Return one for another stream: same tables, nothing heard yet."""
        twin = copy.copy(self)
        twin._features = [feature.fork() for feature in self._features]  # noqa: SLF001 - our own
        return twin

    def _order(self, windows: np.ndarray, is_fresh: bool) -> Order:
        if self._hop is None:
            return Order.SEPARATE
        if not is_fresh:
            return Order.FOLLOWS
        # Windows that lie one hop apart in one buffer share their samples, which
        # proves that they follow each other.
        is_one_buffer = windows.strides[0] == self._hop * windows.strides[1]
        return Order.FRESH if is_one_buffer or self.is_stateful else Order.SEPARATE


def _pair(window: tuple[int, ...]) -> tuple[int, int]:
    if len(window) != 2:
        raise ShapeError(f"a window of shape {window}", expected="(length, channels)")
    return window


def _feature(
    spec: FeatureSpec, window: tuple[int, int], rate_hz: float, hop: int | None
) -> Feature:
    length = window[0]
    match spec:
        case Raw():
            return Pure(to_peak_one) if spec.peak else Pure(as_they_are, values_at_once=sys.maxsize)
        case Statistics():
            return Pure(functools.partial(statistics, which=spec.which))
        case Spectrum():
            return Pure(SpectrumTable(spec, length))
        case BandPower():
            return Pure(BandPowerTable(spec, length, rate_hz))
        case Envelope():
            return Pure(EnvelopeTable(spec, length, rate_hz))
        case EnvelopeSpectrum():
            return Pure(EnvelopeSpectrumTable(spec, length, rate_hz))
        case LogMel():
            return log_mel(spec, window, rate_hz, hop)
        case Mfcc():
            return mfcc(spec, window, rate_hz, hop)
        case MicroFrontend():
            return MicroFrames(spec, window, rate_hz, hop)


def _shape_of_one(spec: FeatureSpec, window: tuple[int, int]) -> tuple[int, ...]:
    length, channels = window
    match spec:
        case Raw() | Envelope():
            return window
        case Statistics():
            return (channels * len(spec.which),)
        case Spectrum() | EnvelopeSpectrum():
            bins = bins_of(spec, spec.first, spec.last, length)
            return channels, bins.stop - bins.start
        case BandPower():
            segment_of(spec, length)
            return channels, len(spec.bands)
        case LogMel():
            return framing_of(spec, window).count(length), spec.bands
        case Mfcc():
            return framing_of(spec, window).count(length), spec.coefficients
        case MicroFrontend():
            return frames_of(spec, window), CHANNELS
