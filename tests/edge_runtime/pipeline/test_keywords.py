"""The keyword model from raw audio, through the whole pipeline."""

from __future__ import annotations

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

KEYWORDS = Path(__file__).parents[2] / "data" / "keywords"
WORDS = ["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes"]
LABELS = (*WORDS, "silence", "unknown")
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    """One window a clip, with the official features."""
    return ModelSpec(
        name="keywords",
        version="1",
        kind="classifier",
        stream=StreamSpec((ChannelSpec("audio"),), float(RATE_HZ)),
        window=WindowSpec(RATE_HZ, RATE_HZ),
        features=(Mfcc(LogMel(480, 320, 512, 40, 20.0, 4000.0, peak=True), 10),),
        artefacts=(ArtefactSpec("tflite", "kws_dscnn_int8.tflite", "int8"),),
        labels=LABELS,
    )


@pytest.mark.parametrize(
    ("kind", "file"), [("tflite", "kws_dscnn_int8.tflite"), ("onnx", "kws_dscnn_int8_qdq.onnx")]
)
def test_nine_in_ten_keywords_are_recognised_from_raw_audio(
    spec: ModelSpec, kind: str, file: str
) -> None:
    """500 clips in one stream, in frames of 20 ms: at least 90 % are right with either model."""
    clips = np.load(KEYWORDS / "clips_int16_16k.npz")
    samples = clips["audio"].reshape(-1, 1)
    time_ns = np.arange(len(samples)) * round(1e9 / RATE_HZ)
    session = load_session(None, kind, (KEYWORDS / file).read_bytes())
    pipeline = Pipeline(spec, session, base="ab" * 32)

    found = pipeline.run_many(
        Frame("main", first, time_ns[first : first + 320], samples[first : first + 320])
        for first in range(0, len(samples), 320)
    ).estimates

    assert len(found) == 500
    assert (found.score.argmax(axis=1) == clips["label"]).mean() >= 0.9
