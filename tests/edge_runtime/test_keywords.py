"""Keyword spotting from raw audio through pipeline and backends, on real clips."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends import load_session
from edge_runtime.pipeline import Pipeline
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    LogMel,
    Mfcc,
    ModelSpec,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.types import Frame

FOLDER = Path(__file__).parents[1] / "data"
LABELS = "down go left no off on right stop up yes silence unknown"
RATE_HZ = 16_000
FILES = {"tflite": "kws_dscnn_int8.tflite", "onnx": "kws_dscnn_int8_qdq.onnx"}

SPEC = ModelSpec(
    name="keywords",
    version="1",
    kind="classifier",
    stream=StreamSpec(channels=(ChannelSpec("audio"),), rate_hz=RATE_HZ),
    window=WindowSpec(length=RATE_HZ, hop=RATE_HZ),
    artefacts=(ArtefactSpec(backend="tflite", file=FILES["tflite"], precision="int8"),),
    labels=tuple(LABELS.split()),
    features=(
        Mfcc(
            LogMel(
                frame_length=480,
                frame_step=320,
                fft_length=512,
                bands=40,
                low_hz=20,
                high_hz=4000,
                peak=True,
            ),
            coefficients=10,
        ),
    ),
)


def pipeline(kind: str) -> Pipeline:
    pytest.importorskip({"tflite": "ai_edge_litert", "onnx": "onnxruntime"}[kind])
    session = load_session(None, kind, (FOLDER / "models" / FILES[kind]).read_bytes())
    return Pipeline(SPEC, session, base="0" * 64)


@functools.cache
def recording() -> tuple[Frame, np.ndarray]:
    """Return the 500 clips one after the other, and the label of each."""
    arrays = np.load(FOLDER / "keywords" / "clips_int16_16k.npz")
    samples = arrays["audio"].reshape(-1, 1)
    time_ns = np.arange(len(samples), dtype=np.int64) * SPEC.stream.period_ns
    return Frame("main", 0, time_ns, samples), arrays["label"]


@pytest.mark.parametrize("kind", FILES)
def test_nine_in_ten_clips_are_recognised(kind: str) -> None:
    """From raw audio to labels, at least 90 % of the 500 clips are right."""
    frame, labels = recording()

    estimates = pipeline(kind).push(frame).estimates

    assert len(estimates) == len(labels) == 500
    assert (estimates.score.argmax(axis=1) == labels).mean() >= 0.90


@pytest.mark.parametrize("kind", FILES)
def test_small_frames_give_the_same_bytes(kind: str) -> None:
    """Audio in blocks of 20 ms is answered byte for byte like one long frame."""
    frame, _ = recording()
    count, block = 20 * RATE_HZ, RATE_HZ // 50
    whole = pipeline(kind).push(_part(frame, 0, count)).estimates
    blocks = [_part(frame, first, first + block) for first in range(0, count, block)]

    outputs = list(pipeline(kind).run(blocks))

    scores = np.concatenate([output.estimates.score for output in outputs])
    assert scores.tobytes() == whole.score.tobytes()


def test_both_backends_agree() -> None:
    """TFLite and ONNX give the same label for at least 99 of 100 clips."""
    frame, _ = recording()
    part = _part(frame, 0, 200 * RATE_HZ)

    answers = [pipeline(kind).push(part).estimates.score.argmax(axis=1) for kind in FILES]

    assert (answers[0] == answers[1]).mean() >= 0.99


def _part(frame: Frame, first: int, last: int) -> Frame:
    rows = slice(first, last)
    return Frame(frame.stream, first, frame.time_ns[rows], frame.samples[rows])
