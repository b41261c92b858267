"""Log-mel energies and cepstra against TensorFlow's official features and librosa's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy import fft, signal

from edge_runtime.errors import ConfigError, ShapeError
from edge_runtime.pipeline.features import compute
from edge_runtime.spec import LogMel, Mfcc

DATA = Path(__file__).parents[3] / "data"
RATE_HZ = 16_000.0

KEYWORD_MEL = LogMel(480, 320, 512, 40, 20.0, 4000.0, peak=True)
MARVIN = LogMel(
    frame_length=1024,
    frame_step=512,
    fft_length=1024,
    bands=40,
    low_hz=0.0,
    high_hz=8000.0,
    log_offset=0.0,
    taper="hamming_symmetric",
    gain=2.0**-20,  # samples / 32768, power / 1024
    pre_emphasis=1 - 2.0**-5,
    spectrum="power",
    log="db",
    offset=52.0,
    scale=1 / 64,
    clip=(0.0, 1.0),
)
LIBROSA = LogMel(
    1024,
    512,
    1024,
    64,
    0.0,
    8000.0,
    gain=1 / 32768,
    spectrum="power",
    mel="librosa",
    log="none",
)


def test_keyword_features_are_the_official_ones() -> None:
    """Our MFCC is within 0.01 of the integers that MLPerf Tiny ships, on average."""
    clips = np.load(DATA / "keywords" / "clips_int16_16k.npz")["audio"]
    official = np.load(DATA / "keywords" / "mfcc_int8_49x10.npz")["features"][..., 0]

    found = compute([Mfcc(KEYWORD_MEL, 10)], clips[..., None], rate_hz=RATE_HZ)

    integers = np.clip(np.trunc(found / 0.5847029 + 83), -128, 127)
    assert len(official) == 500
    assert np.abs(integers - official).mean() < 0.01


def test_marvin_features_are_the_golden_ones(audio: Callable[[str], np.ndarray]) -> None:
    """Pre-emphasis, symmetric Hamming, power, decibels and clipping together are exact."""
    golden = np.load(DATA / "models" / "sww_marvin_stream.npz")["features"]
    recording = np.concatenate([np.zeros((1, 1), np.int16), audio("marvin_10s")])

    found = compute([MARVIN], recording[None], rate_hz=RATE_HZ)[0]

    assert found.shape == golden.shape == (311, 40)
    np.testing.assert_allclose(found, golden, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("golden", "spec", "tolerance"),
    [
        ("slaney_power", LIBROSA, 1e-5),
        (
            "htk_magnitude",
            LogMel(1024, 512, 1024, 40, 0.0, 8000.0, gain=1 / 32768, mel="tensorflow", log="none"),
            0.05,  # librosa draws the triangles straight in Hz
        ),
    ],
)
def test_energies_are_those_of_librosa(
    audio: Callable[[str], np.ndarray], golden: str, spec: LogMel, tolerance: float
) -> None:
    """Slaney's bands agree to float32; HTK bands as far as librosa has the same triangles."""
    expected = np.load(DATA / "reference" / "librosa_mel.npz")[golden]
    recording = audio("marvin_10s")[16_000:48_000]

    found = compute([spec], recording[None], rate_hz=RATE_HZ)[0]

    difference = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert found.shape == expected.shape
    assert difference < tolerance


@pytest.mark.parametrize("taper", ["hann", "hann_symmetric", "hamming", "hamming_symmetric"])
@pytest.mark.parametrize("spectrum", ["magnitude", "power"])
def test_spectra_of_frames_are_those_of_scipy(taper: str, spectrum: str) -> None:
    """One band that hears all bins alike sums what scipy's transform of the frame gives."""
    frame = np.random.default_rng(3).normal(size=256).astype(np.float32)
    name, _, symmetry = taper.partition("_")
    weighted = frame * signal.get_window(name, 256, fftbins=not symmetry)
    levels = np.abs(fft.rfft(weighted, 512)) ** (2 if spectrum == "power" else 1)
    spec = LogMel(256, 256, 512, 1, 0.0, 8000.0, taper=taper, spectrum=spectrum, log="none")  # type: ignore[arg-type]

    found = compute([spec], frame[None, :, None], rate_hz=RATE_HZ)

    mel = 2595 * np.log10(1 + np.arange(257) * (RATE_HZ / 512) / 700)
    half = mel[-1] / 2
    triangle = 1 - np.abs(mel - half) / half
    np.testing.assert_allclose(found[0, 0, 0], np.sum(levels * triangle), rtol=1e-6)


def test_cepstra_are_scipys_cosine_transform_of_the_energies() -> None:
    """Coefficients are an unnormalised DCT-II over the root of twice the bands."""
    window = np.random.default_rng(4).normal(size=(1, 1600, 1)).astype(np.float32)
    mel = LogMel(480, 320, 512, 40, 20.0, 4000.0)

    found = compute([Mfcc(mel, 13)], window, rate_hz=RATE_HZ)

    energies = compute([mel], window, rate_hz=RATE_HZ).astype(np.float64)
    expected = fft.dct(energies, type=2, axis=-1)[..., :13] / np.sqrt(80)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_bands_between_two_bins_hear_nothing() -> None:
    """So many bands that some have no bin of their own give the logarithm of the offset there."""
    window = np.random.default_rng(5).normal(size=(1, 64, 1)).astype(np.float32)
    spec = LogMel(64, 64, 64, 60, 0.0, 8000.0, 1e-3)

    found = compute([spec], window, rate_hz=RATE_HZ)[0, 0]

    is_silent = found == np.float32(np.log(1e-3))
    assert 0 < np.count_nonzero(is_silent) < 60
    assert np.isfinite(found).all()


def test_silence_without_an_offset_is_finite() -> None:
    """The logarithm of nothing is that of the smallest number, or what the clip makes of it."""
    silence = np.zeros((1, 1024 + 1, 1), np.int16)

    clipped = compute([MARVIN], silence, rate_hz=RATE_HZ)
    plain = compute([msgspec.structs.replace(MARVIN, clip=None)], silence, rate_hz=RATE_HZ)

    assert (clipped == 0).all()
    assert np.isfinite(plain).all()


def test_a_clip_has_its_lower_value_first() -> None:
    """Turned around it would make every number the same."""
    with pytest.raises(ConfigError, match="the lower value first"):
        msgspec.structs.replace(MARVIN, clip=(1.0, 0.0)).__post_init__()


def test_pre_emphasis_takes_the_first_sample_for_the_one_before() -> None:
    """A window must be one sample longer than its frames."""
    with pytest.raises(ShapeError, match="1023 samples"):
        compute([MARVIN], np.zeros((1, 1024, 1), np.int16), rate_hz=RATE_HZ)
