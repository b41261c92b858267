"""Features against plain formulas, and one window against many."""

from __future__ import annotations

import cmath
import itertools
import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edge_runtime.errors import ShapeError
from edge_runtime.pipeline import compute, shape_of
from edge_runtime.spec import (
    BandPower,
    Envelope,
    EnvelopeSpectrum,
    FeatureSpec,
    LogMel,
    Mfcc,
    Raw,
    Spectrum,
    Statistic,
    Statistics,
)

ALL_STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
MEL = LogMel(64, 32, 128, 10, 20.0, 3000.0)
SPECS: list[tuple[FeatureSpec, ...]] = [
    (Raw(),),
    (Raw(peak=True),),
    (Statistics(ALL_STATISTICS),),
    (Spectrum(),),
    (Spectrum(first=1, last=9, remove_mean=False, log=True),),
    (MEL,),
    (Mfcc(MEL, 5),),
    (BandPower(((100.0, 900.0), (900.0, 4000.0)), 64, log=True),),
    (Envelope(500.0, 3000.0),),
    (EnvelopeSpectrum(500.0, 3000.0, last=20),),
    (Statistics(("std",)), Spectrum(first=2), Raw()),
]


def windows_of(
    count: int, channels: int, seed: int, *, length: int = 200, dtype: str = "float32"
) -> np.ndarray:
    """Draw windows with very different sizes of numbers in them."""
    random = np.random.default_rng(seed)
    sizes = 10.0 ** random.integers(-4, 5, (count, 1, channels))
    return (random.normal(size=(count, length, channels)) * sizes).astype(dtype)


def plain_statistics(samples: list[float]) -> list[float]:
    """Compute all statistics one sample at a time, with exact sums."""
    count = len(samples)
    mean = math.fsum(samples) / count
    second, third, fourth = (
        math.fsum((x - mean) ** power for x in samples) / count for power in (2, 3, 4)
    )
    rms = math.sqrt(math.fsum(x * x for x in samples) / count)
    low, high = min(samples), max(samples)
    abs_mean = math.fsum(map(abs, samples)) / count
    peak = max(abs(low), abs(high))
    crossings = sum((x < 0) != (y < 0) for x, y in itertools.pairwise(samples))
    return [
        mean,
        math.sqrt(second),
        rms,
        low,
        high,
        high - low,
        third / second**1.5,
        fourth / second**2 - 3,
        peak / rms,
        abs_mean,
        rms / abs_mean,
        peak / abs_mean,
        crossings / (count - 1),
    ]


def plain_spectrum(samples: list[float]) -> list[float]:
    """Compute the discrete Fourier transform from its definition."""
    count = len(samples)
    mean = math.fsum(samples) / count
    weighted = [
        (x - mean) * (0.5 - 0.5 * math.cos(2 * math.pi * n / count)) for n, x in enumerate(samples)
    ]
    return [
        abs(sum(x * cmath.exp(-2j * math.pi * k * n / count) for n, x in enumerate(weighted)))
        for k in range(count // 2 + 1)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_statistics_agree_with_plain_formulas(seed: int) -> None:
    """Each channel's statistics stand one channel after the other."""
    windows = windows_of(2, 3, seed, length=50)

    found = compute([Statistics(ALL_STATISTICS)], windows)

    expected = [[plain_statistics(c.tolist()) for c in window.T] for window in windows]
    np.testing.assert_allclose(found, np.reshape(expected, (2, 39)), rtol=3e-6, atol=1e-6)


def test_moments_are_scipys() -> None:
    """Skewness and kurtosis are the biased ones, and kurtosis is that beyond the normal's."""
    windows = windows_of(3, 2, 5)

    found = compute([Statistics(("skewness", "kurtosis"))], windows).reshape(3, 2, 2)

    wide = windows.astype(np.float64)
    np.testing.assert_allclose(found[..., 0], stats.skew(wide, axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[..., 1], stats.kurtosis(wide, axis=1), rtol=1e-5, atol=1e-6)


def test_a_constant_window_has_no_shape() -> None:
    """Where the spread is zero, everything divided by it is zero, and nothing is NaN."""
    windows = np.full((1, 7, 2), 0.1, np.float32)
    windows[..., 1] = 0.0

    found = compute([Statistics(("std", "skewness", "kurtosis", "crest", "impulse"))], windows)

    assert found.tolist() == [[0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("length", [8, 15, 50])
def test_the_spectrum_agrees_with_its_definition(length: int) -> None:
    """Bins are those of the transform of Hann-weighted samples without their mean."""
    windows = windows_of(2, 2, 1, length=length)

    found = compute([Spectrum()], windows)

    expected = [[plain_spectrum(channel.tolist()) for channel in window.T] for window in windows]
    scale = np.abs(windows).max(axis=1)[..., None]
    np.testing.assert_allclose(found / scale, expected / scale, rtol=1e-5, atol=1e-5)


def test_chosen_bins_are_a_part_of_all_bins() -> None:
    """``first`` and ``last`` are inclusive, and ``log`` is the natural one."""
    windows = windows_of(2, 2, 3)

    found = compute([Spectrum(first=3, last=9, log=True)], windows)

    every = compute([Spectrum()], windows)[..., 3:10].astype(np.float64)
    assert found.shape == (2, 2, 7)
    np.testing.assert_allclose(found, np.log(every + 1e-6), rtol=1e-5, atol=1e-5)


def test_a_mel_band_hears_a_tone_at_its_centre() -> None:
    """A tone is loudest in the band that lies around it."""
    spec = LogMel(256, 128, 256, 8, 100.0, 4000.0)
    corners = np.linspace(1127 * math.log1p(100 / 700), 1127 * math.log1p(4000 / 700), 10)
    centre_hz = 700 * math.expm1(corners[5] / 1127)
    tone = np.sin(2 * np.pi * centre_hz * np.arange(1024) / 16000).astype(np.float32)

    found = compute([spec], tone[None, :, None], rate_hz=16000)

    assert found.shape == (1, 7, 8)
    assert (found.argmax(axis=2) == 4).all()


def test_a_window_without_a_positive_sample_is_not_scaled() -> None:
    """There is no peak to bring to 1, and nothing divides by zero."""
    windows = np.array([[[0.0], [0.0]], [[-1.0], [-2.0]], [[1.0], [4.0]]], np.float32)

    found = compute([Raw(peak=True)], windows)

    assert found[..., 0].tolist() == [[0.0, 0.0], [-1.0, -2.0], [0.25, 1.0]]


@settings(max_examples=40)
@given(
    specs=st.sampled_from(SPECS),
    count=st.integers(1, 70),
    channels=st.integers(1, 4),
    length=st.sampled_from([100, 128, 200]),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float64", "int16"]),
)
def test_a_window_alone_has_the_same_bytes_as_among_others(
    specs: tuple[FeatureSpec, ...], count: int, channels: int, length: int, seed: int, dtype: str
) -> None:
    """No value depends on how many windows are computed together."""
    if isinstance(specs[0], LogMel | Mfcc):
        channels = 1
    windows = windows_of(count, channels, seed, length=length, dtype=dtype)

    found = compute(specs, windows, rate_hz=8000)

    alone = [compute(specs, windows[i : i + 1], rate_hz=8000) for i in range(count)]
    assert found.dtype == np.float32
    assert found.shape == (count, *shape_of(specs, (length, channels)))
    assert found.tobytes() == b"".join(part.tobytes() for part in alone)


@pytest.mark.parametrize(
    ("spec", "window", "message"),
    [
        (Spectrum(last=9), (16, 1), "bins 0 to 9; expected bins from 0 to 8"),
        (Spectrum(first=5, last=4), (16, 1), "bins 5 to 4"),
        (MEL, (200, 2), "one channel"),
        (MEL, (63, 1), "frame_length 64"),
        (LogMel(64, 32, 32, 10, 20.0, 3000.0), (200, 1), "at most fft_length 32"),
        (LogMel(64, 32, 64, 10, 300.0, 300.0), (200, 1), "low_hz < high_hz"),
        (Mfcc(MEL, 11), (200, 1), "11 coefficients; expected at most 10"),
    ],
)
def test_a_feature_that_does_not_fit_the_window_is_refused(
    spec: FeatureSpec, window: tuple[int, int], message: str
) -> None:
    """The shape is checked before anything is computed."""
    with pytest.raises(ShapeError, match=message):
        shape_of([spec], window)


def test_bands_above_half_the_rate_are_refused() -> None:
    """There is nothing to hear up there."""
    with pytest.raises(ShapeError, match="half of 4000"):
        compute([MEL], np.zeros((1, 200, 1)), rate_hz=4000.0)
