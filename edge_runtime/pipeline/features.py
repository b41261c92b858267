"""Features of a window, in NumPy alone.

Every value depends on its own window only, to the last bit: no matrix product
and no reduction runs across windows, sums are float64 over contiguous rows,
and ``log`` sees contiguous arrays (strided ones may take another code path).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ShapeError
from edge_runtime.spec import FeatureSpec, LogMel, Mfcc, Raw, Spectrum, Statistic, Statistics

__all__ = ["Extractor", "compute", "shape_of"]

_Reals = NDArray[np.float64]

_SPECTRUM_LOG_OFFSET = 1e-6


def compute(
    specs: Sequence[FeatureSpec], windows: np.ndarray, *, rate_hz: float = 1.0
) -> np.ndarray:
    """Compute the features of a block of windows.

    Args:
        specs: What to compute; several are flattened and concatenated.
        windows: Shape (n, length, channels), any real dtype.
        rate_hz: Samples a second; only mel bands depend on it.

    Returns:
        Shape (n, *shape_of(specs, (length, channels))), float32, C-contiguous.
        May be ``windows`` itself.

    Raises:
        ShapeError: A feature does not fit windows of this shape.
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
    shapes = [_shape_of_one(spec, window) for spec in specs]
    return shapes[0] if len(shapes) == 1 else (sum(map(math.prod, shapes)),)


class Extractor:
    """The features of one model, with their tables made once.

    Args:
        specs: What to compute.
        window: Shape of a window, (length, channels).
        rate_hz: Samples a second.

    Raises:
        ShapeError: A feature does not fit windows of this shape.
    """

    def __init__(
        self, specs: Sequence[FeatureSpec], window: tuple[int, ...], *, rate_hz: float
    ) -> None:
        self.shape = shape_of(specs, window)
        self._features = [_feature(spec, window, rate_hz) for spec in specs]

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return float32 features, shape (n, *shape), of windows (n, length, channels)."""
        values = np.ascontiguousarray(windows, dtype=np.float32)
        parts = [feature(values) for feature in self._features]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


class _Feature(Protocol):
    def __call__(self, windows: np.ndarray) -> np.ndarray: ...


def _feature(spec: FeatureSpec, window: tuple[int, ...], rate_hz: float) -> _Feature:
    match spec:
        case Raw():
            return to_peak_one if spec.peak else _as_they_are
        case Statistics():
            return functools.partial(statistics, which=spec.which)
        case Spectrum():
            return _SpectrumTable(spec, window)
        case LogMel():
            return _LogMelTable(spec, rate_hz)
        case Mfcc():
            return _MfccTable(spec, rate_hz)


def _shape_of_one(spec: FeatureSpec, window: tuple[int, ...]) -> tuple[int, ...]:
    length, channels = window
    match spec:
        case Raw():
            return length, channels
        case Statistics():
            return (channels * len(spec.which),)
        case Spectrum():
            return channels, _bins_of(spec, length)
        case LogMel():
            return _frames_of(spec, window), spec.bands
        case Mfcc():
            if spec.coefficients > spec.mel.bands:
                raise _misfit(
                    spec, f"{spec.coefficients} coefficients", f"at most {spec.mel.bands}"
                )
            return _frames_of(spec.mel, window), spec.coefficients


def _bins_of(spec: Spectrum, length: int) -> int:
    highest = length // 2
    last = highest if spec.last is None else spec.last
    if not spec.first <= last <= highest:
        raise _misfit(
            spec, f"bins {spec.first} to {last}", f"bins from 0 to {highest} for {length} samples"
        )
    return last - spec.first + 1


def _frames_of(spec: LogMel, window: tuple[int, ...]) -> int:
    length, channels = window
    if channels != 1:
        raise _misfit(spec, f"a window of shape {window}", "one channel")
    if not spec.frame_length <= min(length, spec.fft_length):
        raise _misfit(
            spec,
            f"frame_length {spec.frame_length}",
            f"at most fft_length {spec.fft_length} and the window's {length} samples",
        )
    if spec.low_hz >= spec.high_hz:
        raise _misfit(spec, f"bands from {spec.low_hz} to {spec.high_hz} Hz", "low_hz < high_hz")
    return (length - spec.frame_length) // spec.frame_step + 1


def _misfit(spec: FeatureSpec, what: str, expected: str) -> ShapeError:
    return ShapeError(
        what,
        where=f"feature {spec.__struct_config__.tag}",
        expected=expected,
        remedy="Change the feature or the window in the model's bundle.yaml.",
    )


# --- raw ------------------------------------------------------------------------


def _as_they_are(windows: np.ndarray) -> np.ndarray:
    return windows


def to_peak_one(windows: np.ndarray) -> np.ndarray:
    """Divide each window by its largest sample, as the keyword reference does.

    A window whose largest sample is not positive has no such peak and stays.
    Source: MLPerf Tiny keyword spotting, ``get_dataset.py``: audio over its maximum.

    Args:
        windows: Shape (n, length, channels), float32.

    Returns:
        Same shape, float32.
    """
    flat = windows.reshape(len(windows), -1)
    peak = flat.max(axis=1, keepdims=True)
    peak[~(peak > 0)] = 1.0
    scaled: np.ndarray = flat / peak
    return scaled.reshape(windows.shape)


# --- statistics ---------------------------------------------------------------------


class _Moments:
    """Sums over the last axis of (n, channels, length) float64, each made when asked for."""

    def __init__(self, values: _Reals) -> None:
        self.values = values

    @functools.cached_property
    def mean(self) -> _Reals:
        return mean_of_rows(self.values)

    @functools.cached_property
    def highest(self) -> _Reals:
        highest: _Reals = np.maximum.reduce(self.values, axis=-1)
        return highest

    @functools.cached_property
    def lowest(self) -> _Reals:
        lowest: _Reals = np.minimum.reduce(self.values, axis=-1)
        return lowest

    @functools.cached_property
    def rms(self) -> _Reals:
        return np.sqrt(mean_of_rows(self.values * self.values))

    @functools.cached_property
    def deviations(self) -> _Reals:
        return self.values - self.mean[..., None]

    @functools.cached_property
    def squares(self) -> _Reals:
        return self.deviations * self.deviations

    @functools.cached_property
    def variance(self) -> _Reals:
        # A constant row has variance 0 exactly, whatever its mean rounds to.
        return np.where(self.highest == self.lowest, 0.0, mean_of_rows(self.squares))


def _skewness(of: _Moments) -> _Reals:
    third = mean_of_rows(of.squares * of.deviations)
    return _ratio(third, of.variance * np.sqrt(of.variance))


def _kurtosis(of: _Moments) -> _Reals:
    excess = _ratio(mean_of_rows(of.squares * of.squares), of.variance * of.variance) - 3.0
    return np.where(of.variance > 0, excess, 0.0)


def _crest(of: _Moments) -> _Reals:
    return _ratio(np.maximum(np.abs(of.highest), np.abs(of.lowest)), of.rms)


_STATISTICS: dict[Statistic, Callable[[_Moments], _Reals]] = {
    "mean": lambda of: of.mean,
    "std": lambda of: np.sqrt(of.variance),
    "rms": lambda of: of.rms,
    "min": lambda of: of.lowest,
    "max": lambda of: of.highest,
    "ptp": lambda of: of.highest - of.lowest,
    "skewness": _skewness,
    "kurtosis": _kurtosis,
    "crest": _crest,
}


def statistics(windows: np.ndarray, which: Sequence[Statistic]) -> np.ndarray:
    """Compute statistics of every channel over a window.

    With N samples, mean m and central moments ``m_k = sum((x - m)^k) / N``:
    std = sqrt(m_2); rms = sqrt(sum(x^2) / N); skewness = m_3 / m_2^1.5;
    kurtosis = m_4 / m_2^2 - 3 (0 for a normal distribution); ptp = max - min;
    crest = max |x| / rms. Where the divisor is 0 the ratio is 0.
    Source: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.

    Args:
        windows: Shape (n, length, channels), float32.
        which: Statistics in order.

    Returns:
        Shape (n, channels * len(which)), float32, channel-major.
    """
    of = _Moments(_by_channel(windows))
    columns = np.stack([_STATISTICS[name](of) for name in which], axis=-1)
    columns += 0.0  # the largest of 0.0 and -0.0 may be either: keep one
    return _as_float32(columns.reshape(len(windows), -1))


def _by_channel(windows: np.ndarray) -> _Reals:
    return np.ascontiguousarray(windows.transpose(0, 2, 1), dtype=np.float64)


def mean_of_rows(values: _Reals) -> _Reals:
    """Average over the last axis of a C-contiguous float64 array."""
    mean: _Reals = np.add.reduce(values, axis=-1)
    mean /= values.shape[-1]
    return mean


def _ratio(top: _Reals, bottom: _Reals) -> _Reals:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _as_float32(values: _Reals) -> np.ndarray:
    return values.astype(np.float32)


# --- spectra ------------------------------------------------------------------------


def _hann(length: int) -> _Reals:
    """Periodic Hann window, ``0.5 - 0.5 cos(2 pi n / N)``.

    Source: Harris 1978, "On the use of windows for harmonic analysis with the DFT".
    """
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


def _magnitude(spectrum: NDArray[np.complex128]) -> _Reals:
    """Return |z| from basic operations only, which round alike on every machine."""
    power = spectrum.real * spectrum.real
    power += spectrum.imag * spectrum.imag
    return np.sqrt(power, out=power)


class _SpectrumTable:
    """Magnitude of the discrete Fourier transform of Hann-weighted channels.

    ``|sum_n hann[n] (x[n] - mean) exp(-2 pi i k n / N)|`` for the chosen bins k.
    Source: Oppenheim and Schafer, "Discrete-Time Signal Processing", chapter 10.
    """

    def __init__(self, spec: Spectrum, window: tuple[int, ...]) -> None:
        self._spec = spec
        self._bins = slice(spec.first, spec.first + _bins_of(spec, window[0]))
        self._hann = _hann(window[0])

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        values = _by_channel(windows)
        if self._spec.remove_mean:
            values = values - mean_of_rows(values)[..., None]
        magnitude = _magnitude(np.fft.rfft(values * self._hann, axis=-1)[..., self._bins])
        if self._spec.log:
            magnitude += _SPECTRUM_LOG_OFFSET
            np.log(magnitude, out=magnitude)
        return _as_float32(magnitude)


def _mel(hz: _Reals | float) -> _Reals:
    """HTK mel scale, ``1127 ln(1 + f / 700)``.

    Source: Young et al., "The HTK Book", section 5.4.
    """
    return 1127.0 * np.log1p(np.asarray(hz) / 700.0)


def _mel_weights(spec: LogMel, rate_hz: float) -> _Reals:
    """Triangles with corners equally spaced in mel, shape (bins, bands); bin 0 has no weight."""
    bins = np.arange(1.0, spec.fft_length // 2 + 1, dtype=np.float64)
    bins *= rate_hz / spec.fft_length
    corners = np.linspace(_mel(spec.low_hz), _mel(spec.high_hz), spec.bands + 2)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    mel = _mel(bins)[:, None]
    rising = (mel - left) / (centre - left)
    falling = (right - mel) / (right - centre)
    return np.vstack([np.zeros((1, spec.bands)), np.maximum(0, np.minimum(rising, falling))])


class _LogMelTable:
    """Log of mel-band sums of the short-time magnitude spectrum.

    Source: the TensorFlow ``stft`` and ``linear_to_mel_weight_matrix`` operations,
    as the MLPerf Tiny keyword reference uses them.
    """

    def __init__(self, spec: LogMel, rate_hz: float) -> None:
        if spec.high_hz > rate_hz / 2:
            raise _misfit(spec, f"high_hz {spec.high_hz}", f"at most half of {rate_hz} Hz")
        self._spec = spec
        self._hann = _hann(spec.frame_length)
        self._padded = np.zeros((0, spec.fft_length))
        weights = _mel_weights(spec, rate_hz)
        heard = np.flatnonzero(weights.any(axis=1))
        # Bins that no band hears need not be multiplied.
        self._bins = slice(heard[0], heard[-1] + 1) if len(heard) else slice(0, 1)
        self._weights = np.ascontiguousarray(weights[self._bins])

    def energies(self, windows: np.ndarray) -> _Reals:
        """Return log energies, shape (n, frames, bands), float64."""
        if self._spec.peak:
            windows = to_peak_one(windows)
        values = windows.reshape(len(windows), -1).astype(np.float64)
        # One window at a time: a product over all windows could add in another order.
        energies = np.stack([self._of_one(window) for window in values])
        energies += self._spec.log_offset
        return np.log(energies, out=energies)

    def _of_one(self, window: _Reals) -> _Reals:
        spec = self._spec
        every = np.lib.stride_tricks.sliding_window_view(window, spec.frame_length)
        frames = every[:: spec.frame_step]
        if len(self._padded) != len(frames):
            self._padded = np.zeros((len(frames), spec.fft_length))
        np.multiply(frames, self._hann, out=self._padded[:, : spec.frame_length])
        spectrum = np.fft.rfft(self._padded)[:, self._bins]
        energies: _Reals = _magnitude(spectrum) @ self._weights
        return energies

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        return _as_float32(self.energies(windows))


class _MfccTable:
    """Cosine transform of log-mel energies.

    ``c_k = sum_b 2 m_b cos(pi k (2 b + 1) / (2 B)) / sqrt(2 B)``.
    Source: Davis and Mermelstein 1980; scaling of TensorFlow's ``mfccs_from_log_mel_spectrograms``.
    """

    def __init__(self, spec: Mfcc, rate_hz: float) -> None:
        self._mel = _LogMelTable(spec.mel, rate_hz)
        bands = spec.mel.bands
        angles = np.outer(2 * np.arange(bands) + 1, np.arange(spec.coefficients))
        self._cosines = 2 * np.cos(np.pi * angles / (2 * bands)) / np.sqrt(2 * bands)

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        energies = self._mel.energies(windows)
        return _as_float32(np.stack([window @ self._cosines for window in energies]))
