"""Bundles to tune: real models with golden answers of their own, and one for faulty runtimes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends import load_session
from edge_runtime.bundle import Golden, save_bundle, write_golden
from edge_runtime.pipeline import Pipeline
from edge_runtime.spec import ArtefactSpec, ChannelSpec, ModelSpec, StreamSpec, WindowSpec
from edge_runtime.update.proof import golden_windows

MODELS = Path(__file__).parents[2] / "data" / "models"


@pytest.fixture
def keywords(tmp_path: Path) -> Path:
    """The keyword spotter from ready features, int8, as TFLite and as ONNX."""
    spec = ModelSpec(
        name="keywords",
        version="1",
        kind="classifier",
        stream=StreamSpec(tuple(ChannelSpec(f"c{i}") for i in range(10)), rate_hz=50),
        window=WindowSpec(length=49, hop=49),
        artefacts=(
            ArtefactSpec("tflite", "kws_dscnn_int8.tflite", "int8"),
            ArtefactSpec("onnx", "kws_dscnn_int8_qdq.onnx", "int8"),
        ),
        labels=tuple(f"word{i}" for i in range(12)),
        tolerance=0.02,
    )
    clips = np.load(MODELS.parent / "keywords" / "mfcc_int8_49x10.npz")
    integers = clips[clips.files[0]][:16].reshape(16, 49, 10)
    windows = (integers.astype(np.float32) - 83) * np.float32(0.5847029)
    return _saved(tmp_path / "keywords", spec, windows)


@pytest.fixture
def sine(tmp_path: Path) -> Path:
    """The sine regressor, float32 and int8."""
    spec = ModelSpec(
        name="sine",
        version="1",
        kind="regressor",
        stream=StreamSpec((ChannelSpec("x"),), rate_hz=1),
        window=WindowSpec(length=1, hop=1),
        artefacts=(
            ArtefactSpec("tflite", "hello_world_float.tflite", "float32"),
            ArtefactSpec("tflite", "hello_world_int8.tflite", "int8"),
        ),
        labels=("sine",),
        tolerance=0.1,
    )
    windows = np.linspace(0, 6, 16, dtype=np.float32).reshape(16, 1, 1)
    return _saved(tmp_path / "sine", spec, windows)


@pytest.fixture
def doubled(tmp_path: Path) -> Callable[..., Path]:
    """Make a bundle whose answer is twice its only value, with an artefact for each kind."""

    def make(*kinds: str) -> Path:
        spec = ModelSpec(
            name="doubled",
            version="1",
            kind="regressor",
            stream=StreamSpec((ChannelSpec("x"),), rate_hz=1),
            window=WindowSpec(length=1, hop=1),
            artefacts=tuple(ArtefactSpec(kind, f"{kind}.bin", "float32") for kind in kinds),
            labels=("y",),
        )
        inputs = np.arange(4, dtype=np.float32).reshape(4, 1, 1)
        golden = write_golden(Golden(inputs, 2.0 * inputs[:, :, 0].astype(np.float64)))
        files = {f"{kind}.bin": b"a model" for kind in kinds}
        save_bundle(tmp_path / "doubled", spec, {**files, "golden.npz": golden})
        return tmp_path / "doubled"

    return make


def _saved(folder: Path, spec: ModelSpec, windows: np.ndarray) -> Path:
    files = {one.file: (MODELS / one.file).read_bytes() for one in spec.artefacts}
    first = spec.artefacts[0]
    pipeline = Pipeline(spec, load_session(None, first.backend, files[first.file]), base="0" * 64)
    golden = write_golden(Golden(windows, pipeline.score_windows(golden_windows(windows)).score))
    save_bundle(folder, spec, {**files, "golden.npz": golden})
    return folder
