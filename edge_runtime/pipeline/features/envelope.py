"""Envelope of a channel, and the frequencies in it."""

from __future__ import annotations

import numpy as np

from edge_runtime.pipeline.features.feature import Reals, by_channel, mean_of_rows, misfit
from edge_runtime.pipeline.features.fourier import Spectra, bins_of, power_of
from edge_runtime.spec import Envelope, EnvelopeSpectrum

__all__ = ["EnvelopeSpectrumTable", "EnvelopeTable"]


class EnvelopeTable:
    """Envelopes of all channels, laid out as the window is.

    Raises:
        ShapeError: No bin lies in the band.
    """

    def __init__(self, spec: Envelope, length: int, rate_hz: float) -> None:
        self._analytic = _Analytic(spec, length, rate_hz)

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return shape (n, length, channels)."""
        return np.ascontiguousarray(self._analytic(windows).transpose(0, 2, 1), np.float32)


class EnvelopeSpectrumTable:
    """Amplitudes in the envelope, ``2 / N |rfft(e - mean(e))|``.

    Source: Randall and Antoni 2011, "Rolling element bearing diagnostics: a tutorial", section 4.

    Raises:
        ShapeError: No bin lies in the band, or there are no such bins.
    """

    def __init__(self, spec: EnvelopeSpectrum, length: int, rate_hz: float) -> None:
        self._analytic = _Analytic(spec, length, rate_hz)
        self._bins = bins_of(spec, spec.first, spec.last, length)

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return shape (n, channels, bins)."""
        waves = self._analytic(windows)
        waves -= mean_of_rows(waves)[..., None]
        amplitude = power_of(np.fft.rfft(waves)[..., self._bins])
        np.sqrt(amplitude, out=amplitude)
        amplitude *= 2.0 / waves.shape[-1]
        return amplitude.astype(np.float32)


class _Analytic:
    """Magnitude of the analytic signal.

    Bins outside the band and of negative frequencies are 0, the others count twice
    (half the rate once), and the inverse transform's magnitude is the envelope.
    Source: Marple 1999, "Computing the discrete-time analytic signal via FFT".
    """

    def __init__(self, spec: Envelope | EnvelopeSpectrum, length: int, rate_hz: float) -> None:
        hz = np.arange(length // 2 + 1) * (rate_hz / length)
        high_hz = rate_hz / 2 if spec.high_hz is None else spec.high_hz
        is_heard = (hz >= spec.low_hz) & (hz <= high_hz)
        is_heard[0] = False  # the mean is no part of the wave
        if not is_heard.any():
            raise misfit(
                spec,
                f"no bin lies in the band from {spec.low_hz} to {high_hz} Hz",
                f"a band that holds one of the bins every {rate_hz / length:g} Hz "
                f"up to {rate_hz / 2:g} Hz",
            )
        self._weights = np.where(is_heard, 2.0, 0.0)
        if length % 2 == 0:
            self._weights[-1] /= 2

    def __call__(self, windows: np.ndarray) -> Reals:
        """Return envelopes, shape (n, channels, length), float64."""
        values = by_channel(windows)
        analytic: Spectra = np.zeros(values.shape, np.complex128)
        np.multiply(np.fft.rfft(values), self._weights, out=analytic[..., : len(self._weights)])
        square = power_of(np.fft.ifft(analytic))
        return np.sqrt(square, out=square)
