"""A streaming wake word from raw audio through the whole pipeline."""

from __future__ import annotations

import itertools
import wave
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends import load_session
from edge_runtime.config import parse_yaml
from edge_runtime.pipeline import Pipeline
from edge_runtime.spec import ModelSpec
from edge_runtime.types import Frame

DATA = Path(__file__).parents[1] / "data"
RATE_HZ = 16_000
SAID_AT_S = (1.0, 4.0, 7.0)

# Frames of 64 ms every 32 ms, and one sample before them for the pre-emphasis.
MARVIN = """
name: marvin
version: "1"
kind: classifier
stream: {channels: [{name: audio}], rate_hz: 16000}
window: {length: 15873, hop: 512, pad: 1}
features:
  - kind: log_mel
    frame_length: 1024
    frame_step: 512
    fft_length: 1024
    bands: 40
    low_hz: 0
    high_hz: 8000
    taper: hamming_symmetric
    gain: 9.5367431640625e-07  # samples / 32768, and power / 1024
    pre_emphasis: 0.96875
    spectrum: power
    log: db
    log_offset: 0
    offset: 52
    scale: 0.015625
    clip: [0, 1]
artefacts: [{backend: tflite, file: sww_marvin_int8.tflite, precision: int8}]
labels: [marvin, silence, other]
smoothing: {windows: 8}
limits: [{label: marvin, on: 0.5, off: 0.2}]
"""


@pytest.fixture(scope="module")
def recording() -> Frame:
    """Return 10 s of music in which "marvin" is said three times."""
    with wave.open(str(DATA / "audio" / "marvin_10s.wav"), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 1)
    time_ns = np.arange(len(samples), dtype=np.int64) * round(1e9 / RATE_HZ)
    return Frame("main", 0, time_ns, samples)


def pipeline() -> Pipeline:
    model = (DATA / "models" / "sww_marvin_int8.tflite").read_bytes()
    spec = parse_yaml(MARVIN, ModelSpec, "bundle.yaml")
    return Pipeline(spec, load_session(None, "tflite", model), base="0" * 64)


def chunks(frame: Frame, sizes: list[int]) -> list[Frame]:
    bounds = np.minimum(np.cumsum([0, *sizes]), len(frame)).tolist()
    return [
        Frame(frame.stream, first, frame.time_ns[first:last], frame.samples[first:last])
        for first, last in itertools.pairwise(bounds)
        if last > first
    ]


def test_each_word_is_heard_once_and_nothing_else(recording: Frame) -> None:
    """Three of three words, each within a second of being said, and no false one."""
    found = pipeline().push(recording).decisions

    starts = [decision for decision in found if decision.edge == "start"]
    heard_s = [decision.time_ns / 1e9 for decision in starts]
    assert [decision.label for decision in starts] == ["marvin"] * 3
    for said_s, time_s in zip(SAID_AT_S, heard_s, strict=True):
        assert said_s < time_s < said_s + 1


def test_scores_are_the_golden_ones(recording: Frame) -> None:
    """From raw audio, every score is within one integer step of the reference's stream."""
    golden = np.load(DATA / "models" / "sww_marvin_stream.npz")["output"]

    score = pipeline().push(recording).estimates.score

    expected = (golden.astype(np.float64) + 128) / 256
    assert score.shape == expected.shape
    assert np.abs(score - expected).max() <= 1 / 256


@pytest.mark.parametrize("seed", range(3))
def test_how_the_audio_comes_in_does_not_show(recording: Frame, seed: int) -> None:
    """Frames of a microphone, of any sizes, give the bytes of the whole recording."""
    sizes = np.random.default_rng(seed).integers(1, 4000, 200).tolist()

    outputs = list(pipeline().run(chunks(recording, [*sizes, len(recording)])))

    scores = b"".join(output.estimates.score.tobytes() for output in outputs)
    assert scores == pipeline().push(recording).estimates.score.tobytes()
