"""Filters against scipy, and one block against many."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from edge_runtime.errors import ConfigError, ModelError, ShapeError
from edge_runtime.pipeline.filters import StreamFilter, sections_of
from edge_runtime.spec import Butterworth, FilterSpec, Notch, Rectify, Sections

RATE_HZ = 1000.0
BLOCK = 32
CHAIN: tuple[FilterSpec, ...] = (
    Butterworth("bandpass", (20.0, 300.0), 3),
    Notch(50.0),
    Rectify(),
    Butterworth("lowpass", (10.0,), 2),
)
BANDS = [
    ("lowpass", (50.0,)),
    ("lowpass", (0.5,)),
    ("highpass", (50.0,)),
    ("highpass", (499.0,)),
    ("bandpass", (50.0, 120.0)),
    ("bandpass", (0.5, 400.0)),
    ("bandpass", (5.0, 6.0)),
    ("bandstop", (50.0, 120.0)),
    ("bandstop", (49.0, 51.0)),
]


def filter_of(specs: Sequence[FilterSpec], channels: int = 2) -> StreamFilter:
    return StreamFilter(specs, channels=channels, rate_hz=RATE_HZ, block=BLOCK)


def noise(blocks: int, seed: int = 1, channels: int = 2) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(blocks * BLOCK, channels))
    return values.astype(np.float32)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("order", range(1, 13))
@pytest.mark.parametrize(("band", "corners_hz"), BANDS)
def test_butterworth_filters_are_scipys(
    band: str, corners_hz: tuple[float, ...], order: int
) -> None:
    """Every order and band gives what scipy's design and loop over samples give."""
    rows = noise(100)
    spec = Butterworth(band, corners_hz, order)  # type: ignore[arg-type]

    found = filter_of([spec])(rows)

    corners = corners_hz if len(corners_hz) > 1 else corners_hz[0]
    sections = signal.butter(order, corners, band, fs=RATE_HZ, output="sos")
    assert found.dtype == np.float32
    assert_close(found, signal.sosfilt(sections, rows.astype(np.float64), axis=0))


@pytest.mark.parametrize(("frequency_hz", "quality"), [(50.0, 30.0), (1.0, 5.0), (400.0, 2.0)])
def test_notches_are_scipys(frequency_hz: float, quality: float) -> None:
    """Numerator and denominator are those of ``iirnotch``."""
    found = sections_of(Notch(frequency_hz, quality), RATE_HZ)

    expected = signal.iirnotch(frequency_hz, quality, fs=RATE_HZ)
    np.testing.assert_allclose(found[0], np.concatenate(expected), rtol=1e-12)


def test_sections_are_taken_as_they_are() -> None:
    """Sections from elsewhere, with any a0, filter as scipy filters with them."""
    sections = signal.cheby1(6, 1, 100, fs=RATE_HZ, output="sos")
    spec = Sections(tuple(map(tuple, (2 * sections).tolist())))
    rows = noise(50)

    found = filter_of([spec])(rows)

    assert_close(found, signal.sosfilt(sections, rows.astype(np.float64), axis=0))


def test_a_chain_filters_in_order() -> None:
    """Linear filters, the absolute value, and a filter after it."""
    rows = noise(50)

    found = filter_of(CHAIN)(rows)

    wave = rows.astype(np.float64)
    for spec in CHAIN:
        if isinstance(spec, Rectify):
            wave = np.abs(wave)
        else:
            wave = signal.sosfilt(sections_of(spec, RATE_HZ), wave, axis=0)
    assert_close(found, wave)


def test_the_lowest_integer_is_rectified() -> None:
    """-32768 has no positive twin in int16, but its absolute value is right."""
    rows = np.full((BLOCK, 1), -32768, np.int16)

    found = filter_of([Rectify()], channels=1)(rows)

    assert (found == 32768).all()


@settings(max_examples=60)
@given(
    blocks=st.integers(1, 40),
    seams=st.lists(st.integers(1, 40), max_size=8),
    dtype=st.sampled_from(["float32", "int16"]),
    has_holes=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_split_into_blocks_changes_a_byte(
    blocks: int, seams: list[int], dtype: str, has_holes: bool, seed: int
) -> None:
    """However blocks come, and with a new filter that restores the state in between."""
    rows = (noise(blocks, seed) * 1000).astype(dtype)
    if has_holes and dtype == "float32":
        random = np.random.default_rng(seed)
        rows[random.uniform(size=rows.shape) < 0.01] = np.nan
        rows[random.uniform(size=rows.shape) < 0.005] = np.inf
    expected = filter_of(CHAIN)(rows)
    bounds = sorted({0, blocks, *(seam % blocks for seam in seams)})

    parts, state = [], filter_of(CHAIN).state()
    for first, last in itertools.pairwise(bounds):
        stream = filter_of(CHAIN)
        stream.restore(state)
        parts.append(stream(rows[first * BLOCK : last * BLOCK]))
        state = stream.state()

    assert np.concatenate(parts).tobytes() == expected.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_costs_one_block_of_its_channel(bad: float) -> None:
    """The block is NaN there, and the filter goes on from rest; the other channel sees nothing."""
    rows = noise(6)
    rows[2 * BLOCK + 5, 0] = bad

    found = filter_of(CHAIN)(rows)

    clean = filter_of(CHAIN)(noise(6))
    fresh = filter_of(CHAIN)(noise(6)[3 * BLOCK :])
    assert found[: 2 * BLOCK].tobytes() == clean[: 2 * BLOCK].tobytes()
    assert np.isnan(found[2 * BLOCK : 3 * BLOCK, 0]).all()
    assert found[3 * BLOCK :, 0].tobytes() == fresh[:, 0].tobytes()
    assert found[:, 1].tobytes() == clean[:, 1].tobytes()


def test_reset_means_rest() -> None:
    """After a reset the filter answers as a new one."""
    used = filter_of(CHAIN)
    used(noise(3))

    used.reset()

    assert used(noise(2, 7)).tobytes() == filter_of(CHAIN)(noise(2, 7)).tobytes()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (b"", "0 bytes; expected 160 bytes"),
        (b"\0" * 159, "159 bytes"),
        (np.full(20, np.nan).tobytes(), "not finite"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state: bytes, message: str) -> None:
    """The filter is then as it was."""
    stream = filter_of(CHAIN)
    stream(noise(1))
    before = stream.state()

    with pytest.raises(ModelError, match=message):
        stream.restore(state)

    assert stream.state() == before


@pytest.mark.parametrize("shape", [(BLOCK + 1, 2), (0, 2), (BLOCK, 3)])
def test_rows_that_are_no_whole_blocks_are_refused(shape: tuple[int, int]) -> None:
    """Whoever calls cuts the stream into blocks."""
    with pytest.raises(ShapeError, match="whole blocks of 32 rows of 2 channels"):
        filter_of(CHAIN)(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("denominator", "is_stable"),
    [
        ((1.0, -1.8, 0.9), True),
        ((2.0, -3.6, 1.8), True),
        ((1.0, -2.0, 1.0), False),
        ((1.0, 0.0, 1.0), False),
        ((1.0, 0.3, -0.75), False),
        ((1.0, 0.29, -0.7), True),
        ((0.0, 1.0, 0.5), False),
        ((1.0, 0.0, float("nan")), False),
    ],
)
def test_unstable_sections_are_refused(
    denominator: tuple[float, float, float], is_stable: bool
) -> None:
    """Both poles must lie inside the unit circle."""
    spec = Sections(((1.0, 0.0, 0.0, *denominator),))

    if is_stable:
        assert np.abs(np.roots(denominator)).max() < 1
        assert sections_of(spec, RATE_HZ).shape == (1, 6)
    else:
        with pytest.raises(ConfigError, match="poles inside the unit circle"):
            sections_of(spec, RATE_HZ)


@pytest.mark.parametrize("spec", [Butterworth("lowpass", (1e-12,)), Notch(400.0, 0.7)])
def test_designs_that_cannot_be_computed_are_refused(spec: FilterSpec) -> None:
    """A corner so low that poles round onto the unit circle; a notch wider than the spectrum."""
    with pytest.raises(ConfigError, match="poles inside the unit circle"):
        sections_of(spec, RATE_HZ)


@pytest.mark.parametrize("spec", [Butterworth("lowpass", (500.0,)), Notch(600.0)])
def test_corners_beyond_half_the_rate_are_refused(spec: FilterSpec) -> None:
    """There is nothing to filter up there."""
    with pytest.raises(ConfigError, match="below half the rate, 500 Hz"):
        sections_of(spec, RATE_HZ)


@pytest.mark.parametrize(
    ("band", "corners_hz", "message"),
    [
        ("lowpass", (1.0, 2.0), "one corner"),
        ("bandpass", (1.0,), "two corners"),
        ("bandstop", (2.0, 1.0), "the lower one first"),
        ("bandpass", (2.0, 2.0), "the lower one first"),
    ],
)
def test_corners_must_suit_the_band(band: str, corners_hz: tuple[float, ...], message: str) -> None:
    """A pass at one side has one corner, a band two."""
    with pytest.raises(ConfigError, match=message):
        Butterworth(band, corners_hz)  # type: ignore[arg-type]
