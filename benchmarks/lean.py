"""The least a process needs to answer one window; its memory is a benchmark row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime.backends import load_session
from edge_runtime.pipeline import Pipeline
from edge_runtime.spec import ArtefactSpec, ChannelSpec, ModelSpec, StreamSpec, WindowSpec
from edge_runtime.types import Frame

__all__ = ["first_answer"]

MODELS = Path(__file__).parents[1] / "tests" / "data" / "models"
FILES = {
    "litert": ("tflite", "kws_dscnn_int8.tflite"),
    "onnx": ("onnx", "kws_dscnn_int8_qdq.onnx"),
}


def first_answer(backend: str) -> None:
    """Load the keyword model and answer one window of features."""
    kind, name = FILES[backend]
    spec = ModelSpec(
        name="keywords",
        version="1",
        kind="classifier",
        stream=StreamSpec(channels=tuple(ChannelSpec(f"c{i}") for i in range(10)), rate_hz=50),
        window=WindowSpec(length=49, hop=49),
        artefacts=(ArtefactSpec(backend=kind, file=name, precision="int8"),),
        labels=tuple(f"word{i}" for i in range(12)),
    )
    session = load_session(backend, kind, (MODELS / name).read_bytes())
    pipeline = Pipeline(spec, session, base="0" * 64)
    time_ns = np.arange(49, dtype=np.int64) * spec.stream.period_ns
    pipeline.push(Frame("main", 0, time_ns, np.zeros((49, 10), np.float32)))
