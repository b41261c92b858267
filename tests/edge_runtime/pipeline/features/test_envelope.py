"""Envelopes against scipy's Hilbert transform."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from edge_runtime.errors import ShapeError
from edge_runtime.pipeline.features import compute
from edge_runtime.spec import Envelope, EnvelopeSpectrum

RATE_HZ = 1000.0


def modulated(length: int) -> np.ndarray:
    """Return a tone of 200 Hz whose loudness swings at 20 Hz, half up and half down."""
    time = np.arange(length) / RATE_HZ
    swing = 1 + 0.5 * np.cos(2 * np.pi * 20 * time)
    wave: np.ndarray = 2 * swing * np.sin(2 * np.pi * 200 * time)
    return wave


@pytest.mark.parametrize("length", [256, 255, 1000])
def test_the_envelope_is_scipys(length: int) -> None:
    """Without a band, it is the magnitude of the analytic signal of the wave without its mean."""
    windows = np.random.default_rng(1).normal(5, 1, (3, length, 2)).astype(np.float32)

    found = compute([Envelope()], windows, rate_hz=RATE_HZ)

    wave = windows - windows.mean(axis=1, keepdims=True, dtype=np.float64)
    assert found.shape == windows.shape
    np.testing.assert_allclose(found, np.abs(signal.hilbert(wave, axis=1)), rtol=1e-5, atol=1e-6)


def test_a_band_takes_the_rest_out_first() -> None:
    """The envelope of a band is that of the wave whose other bins are 0."""
    windows = np.random.default_rng(2).normal(0, 1, (2, 500, 1)).astype(np.float32)

    found = compute([Envelope(low_hz=100.0, high_hz=200.0)], windows, rate_hz=RATE_HZ)

    spectrum = np.fft.rfft(windows.astype(np.float64), axis=1)
    hz = np.fft.rfftfreq(500, 1 / RATE_HZ)
    spectrum[:, (hz < 100) | (hz > 200)] = 0
    wave = np.fft.irfft(spectrum, 500, axis=1)
    np.testing.assert_allclose(found, np.abs(signal.hilbert(wave, axis=1)), rtol=1e-5, atol=1e-6)


def test_the_envelope_spectrum_shows_how_a_tone_is_modulated() -> None:
    """A tone of amplitude 2 that swings by half at 20 Hz has a line of height 1 there."""
    window = modulated(1000).astype(np.float32)[None, :, None]

    found = compute([EnvelopeSpectrum(150.0, 250.0, last=99)], window, rate_hz=RATE_HZ)[0, 0]

    assert found.shape == (99,)
    assert found.argmax() == 19  # bins begin at 1, one every hertz
    assert found[19] == pytest.approx(1.0, abs=1e-5)
    assert np.delete(found, 19).max() < 1e-5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Envelope(low_hz=600.0), "no bin lies in the band from 600.0 to 500.0 Hz"),
        (Envelope(low_hz=10.1, high_hz=10.2), "every 10 Hz"),
        (EnvelopeSpectrum(last=51), "bins 1 to 51; expected bins from 0 to 50"),
    ],
)
def test_bands_and_bins_that_do_not_fit_are_refused(
    spec: Envelope | EnvelopeSpectrum, message: str
) -> None:
    """An envelope of nothing is a mistake."""
    with pytest.raises(ShapeError, match=message):
        compute([spec], np.zeros((1, 100, 1), np.float32), rate_hz=RATE_HZ)
