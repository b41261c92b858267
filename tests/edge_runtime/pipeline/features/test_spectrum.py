"""Band powers against scipy's Welch method."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from edge_runtime.errors import ShapeError
from edge_runtime.pipeline.features import compute
from edge_runtime.spec import BandPower

RATE_HZ = 200.0
BANDS = ((0.5, 4.0), (4.0, 8.0), (8.0, 13.0), (13.0, 100.5))


@pytest.mark.parametrize("segment", [None, 64, 65, 200, 400])
@pytest.mark.parametrize("length", [401, 400])
def test_band_powers_are_those_of_scipys_welch(segment: int | None, length: int) -> None:
    """Sums of scipy's density, times the distance of the bins."""
    windows = np.random.default_rng(1).normal(3, 2, (3, length, 2)).astype(np.float32)
    size = segment or length

    found = compute([BandPower(BANDS, segment)], windows, rate_hz=RATE_HZ)

    hz, density = signal.welch(
        windows.astype(np.float64),
        RATE_HZ,
        window="hann",
        nperseg=size,
        noverlap=size // 2,
        detrend="constant",
        axis=1,
    )
    expected = [
        density[:, (hz >= low) & (hz < high)].sum(axis=1) * RATE_HZ / size for low, high in BANDS
    ]
    np.testing.assert_allclose(found, np.stack(expected, axis=-1), rtol=1e-5)


def test_the_power_of_a_sine_is_half_its_square() -> None:
    """All of a sine's power is in the band around it, in the channel's unit squared."""
    wave = 3 * np.sin(2 * np.pi * 10 * np.arange(400) / RATE_HZ).astype(np.float32)

    found = compute([BandPower(((8.0, 13.0), (20.0, 30.0)))], wave[None, :, None], rate_hz=RATE_HZ)

    np.testing.assert_allclose(found[0, 0], [4.5, 0], atol=1e-5)


def test_log_is_natural_and_finite() -> None:
    """A silent band gives the logarithm of the offset."""
    silence = np.zeros((1, 64, 1), np.float32)

    found = compute([BandPower(((10.0, 20.0),), log=True)], silence, rate_hz=RATE_HZ)

    assert found[0, 0, 0] == pytest.approx(np.log(1e-12))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BandPower(BANDS, 101), "segment 101; expected at most the window's 100"),
        (BandPower(((1.0, 1.5),)), "no bin lies in the band from 1.0 to 1.5 Hz"),
        (BandPower(((8.0, 4.0),)), "no bin"),
        (BandPower(((101.0, 120.0),)), "no bin"),
    ],
)
def test_bands_and_segments_that_do_not_fit_are_refused(spec: BandPower, message: str) -> None:
    """A band that is always 0 is a mistake."""
    with pytest.raises(ShapeError, match=message):
        compute([spec], np.zeros((1, 100, 1), np.float32), rate_hz=RATE_HZ)
