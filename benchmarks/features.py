"""What features cost: one window at a time as a stream brings them, and many at once.

Frames are those of the keyword and wake-word models. A bar is a time, so it
holds on the machine it was set on; ratios to one Fourier transform of the same
length, measured in the same rounds, hold elsewhere too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import numpy as np
from measure import interleaved
from results import Row

from edge_runtime.pipeline.features import Extractor
from edge_runtime.pipeline.filters import StreamFilter
from edge_runtime.spec import (
    BandPower,
    Butterworth,
    Envelope,
    EnvelopeSpectrum,
    FeatureSpec,
    LogMel,
    Mfcc,
    MicroFrontend,
    Spectrum,
    Statistics,
)

__all__ = ["rows"]

MANY = 128
BLOCK = 64
RATE_HZ = 16_000.0

KEYWORD_MEL = LogMel(480, 320, 512, 40, 20.0, 4000.0)
MARVIN = LogMel(
    frame_length=1024,
    frame_step=512,
    fft_length=1024,
    bands=40,
    low_hz=0.0,
    high_hz=8000.0,
    log_offset=0.0,
    taper="hamming_symmetric",
    gain=2.0**-20,
    pre_emphasis=1 - 2.0**-5,
    spectrum="power",
    log="db",
    offset=52.0,
    scale=1 / 64,
    clip=(0.0, 1.0),
)


class Case(msgspec.Struct, frozen=True):
    """A feature and the windows it is measured on.

    Attributes:
        feature: What is computed.
        length: Samples of a window.
        hop: Samples from one window to the next.
        channels: Channels of a window.
        units: What a window adds: new frames, or the one window.
        bars_us: Most that one unit may cost alone and among many; None for no bar.
    """

    feature: FeatureSpec
    length: int
    hop: int
    channels: int = 1
    units: int = 1
    bars_us: tuple[float | None, float | None] = (None, None)


CASES = {
    "log_mel_frame": Case(KEYWORD_MEL, 16_000, 320),
    "mfcc_frame": Case(Mfcc(KEYWORD_MEL, 10), 16_000, 320, bars_us=(15.0, 3.5)),
    "marvin_frame": Case(MARVIN, 15_873, 512),
    "micro_frontend_frame": Case(MicroFrontend(), 800, 480, units=3),
    "statistics_128x3": Case(
        Statistics(("mean", "std", "rms", "skewness", "kurtosis")), 128, 64, channels=3
    ),
    "spectrum_128x3": Case(Spectrum(log=True), 128, 64, channels=3),
    "band_power_512x3": Case(
        BandPower(((10.0, 500.0), (500.0, 2000.0), (2000.0, 8000.0)), 128), 512, 256, channels=3
    ),
    "envelope_1024": Case(Envelope(2000.0, 4000.0), 1024, 512),
    "envelope_spectrum_1024": Case(EnvelopeSpectrum(2000.0, 4000.0, last=50), 1024, 512),
}


def rows(*, rounds: int) -> list[Row]:
    """Measure every feature and the filter.

    Args:
        rounds: Samples of each variant; 200 give steady medians.
    """
    found = [row for name, case in CASES.items() for row in _feature(name, case, rounds)]
    return [*found, *_filter(rounds)]


def _feature(name: str, case: Case, rounds: int) -> Iterator[Row]:
    window = (case.length, case.channels)
    extract = Extractor([case.feature], window, rate_hz=RATE_HZ, hop=case.hop)
    windows = _windows(case)
    extract(windows[:1])
    frame = np.random.default_rng(1).normal(size=(1, 512))
    one = windows[1:2]
    calls: dict[str, Callable[[], object]] = {
        "single": lambda: extract(one, is_fresh=False),
        "many": lambda: extract(windows, is_fresh=False),
    }
    for (label, call), count, bar in zip(calls.items(), (1, MANY), case.bars_us, strict=True):
        timing = interleaved(
            {"rfft": lambda: np.fft.rfft(frame), "ours": call},
            rounds=rounds,
            calls=10 if count == 1 else 1,
        )
        taken_us = timing["ours"].median_us / count / case.units
        peers = {"rfft(512) us": timing["rfft"].median_us}
        yield Row.of(f"{name}_{label}_us", taken_us, "us", bar=bar, peers=peers)


def _windows(case: Case) -> np.ndarray:
    """Return windows of a stream as the cutter gives them: views into one buffer."""
    count = case.length + (MANY - 1) * case.hop
    stream = np.random.default_rng(0).normal(0, 3000, (count, case.channels)).astype(np.int16)
    every = np.lib.stride_tricks.sliding_window_view(stream, case.length, axis=0)
    return every[:: case.hop].transpose(0, 2, 1)


def _filter(rounds: int) -> Iterator[Row]:
    specs = [Butterworth("bandpass", (500.0, 4000.0), 4)]
    stream = StreamFilter(specs, channels=3, rate_hz=RATE_HZ, block=BLOCK)
    samples = np.random.default_rng(0).normal(size=(MANY * BLOCK, 3)).astype(np.float32)
    calls: dict[str, Callable[[], object]] = {
        "single": lambda: stream(samples[:BLOCK]),
        "many": lambda: stream(samples),
    }
    for (label, call), blocks in zip(calls.items(), (1, MANY), strict=True):
        timing = interleaved({"ours": call}, rounds=rounds, calls=10 if blocks == 1 else 1)
        taken_us = timing["ours"].median_us / blocks
        yield Row.of(f"filter_{BLOCK}x3_{label}_us", taken_us, "us", bar=None, peers={})
