"""Magnitude spectrum, and the power in bands of it."""

from __future__ import annotations

import numpy as np

from edge_runtime.pipeline.features.feature import Reals, by_channel, mean_of_rows, misfit
from edge_runtime.pipeline.features.fourier import bins_of, power_of, taper_of
from edge_runtime.spec import BandPower, Spectrum

__all__ = ["BandPowerTable", "SpectrumTable", "segment_of"]

_SPECTRUM_LOG_OFFSET = 1e-6
_POWER_LOG_OFFSET = 1e-12


class SpectrumTable:
    """Magnitude of the discrete Fourier transform of Hann-weighted channels.

    ``|sum_n hann[n] (x[n] - mean) exp(-2 pi i k n / N)|`` for the chosen bins k.
    Source: Oppenheim and Schafer, "Discrete-Time Signal Processing", chapter 10.

    Raises:
        ShapeError: The window has no such bins.
    """

    def __init__(self, spec: Spectrum, length: int) -> None:
        self._spec = spec
        self._bins = bins_of(spec, spec.first, spec.last, length)
        self._taper = taper_of("hann", length)

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return shape (n, channels, bins)."""
        values = by_channel(windows)
        if self._spec.remove_mean:
            values -= mean_of_rows(values)[..., None]
        values *= self._taper
        magnitude = power_of(np.fft.rfft(values)[..., self._bins])
        np.sqrt(magnitude, out=magnitude)
        if self._spec.log:
            magnitude += _SPECTRUM_LOG_OFFSET
            np.log(magnitude, out=magnitude)
        return magnitude.astype(np.float32)


class BandPowerTable:
    """Sums of Welch's power spectral density over bands.

    Density at bin k, averaged over segments: ``w_k |rfft(taper (x - mean))_k|^2 /
    (rate sum(taper^2))`` with w_k = 2, but 1 at 0 and half the rate; a band's power
    is the sum of its bins times ``rate / N``.
    Source: Welch 1967, "The use of fast Fourier transform for the estimation of power spectra".

    Raises:
        ShapeError: A segment is longer than the window, or a band has no bin.
    """

    def __init__(self, spec: BandPower, length: int, rate_hz: float) -> None:
        size = self._size = segment_of(spec, length)
        self._step = size - size // 2
        self._is_log = spec.log
        self._taper = taper_of("hann", size)
        hz: Reals = np.arange(size // 2 + 1, dtype=np.float64) * (rate_hz / size)
        self._bands = [_bins_between(spec, hz, band) for band in spec.bands]
        sides = np.full(len(hz), 2.0)
        sides[0] = 1.0
        if size % 2 == 0:
            sides[-1] = 1.0
        self._weights = sides / (size * np.sum(self._taper**2))

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return shape (n, channels, bands)."""
        density = self._density(by_channel(windows))
        power = np.stack([np.add.reduce(density[..., bins], axis=-1) for bins in self._bands], -1)
        if self._is_log:
            power += _POWER_LOG_OFFSET
            np.log(power, out=power)
        return power.astype(np.float32)

    def _density(self, values: Reals) -> Reals:
        """Return weighted powers, averaged over segments, shape (n, channels, bins)."""
        every = np.lib.stride_tricks.sliding_window_view(values, self._size, axis=-1)
        segments = every[..., :: self._step, :].copy()
        segments -= mean_of_rows(segments)[..., None]
        segments *= self._taper
        power = power_of(np.fft.rfft(segments))
        density: Reals = power[..., 0, :].copy()
        for number in range(1, power.shape[-2]):
            density += power[..., number, :]
        density *= self._weights / power.shape[-2]
        return density


def segment_of(spec: BandPower, length: int) -> int:
    """Return the samples of one of Welch's segments.

    Raises:
        ShapeError: It is longer than the window.
    """
    size = length if spec.segment is None else spec.segment
    if size > length:
        raise misfit(spec, f"segment {size}", f"at most the window's {length} samples")
    return size


def _bins_between(spec: BandPower, hz: Reals, band: tuple[float, ...]) -> slice:
    low, high = band
    first, end = np.searchsorted(hz, [low, high], side="left").tolist()
    if first >= end:
        raise misfit(
            spec,
            f"no bin lies in the band from {low} to {high} Hz",
            f"bands that hold one of the bins every {hz[1]:g} Hz up to {hz[-1]:g} Hz",
        )
    return slice(first, end)
