"""A bundle around a bare file answers as the file does, and says what was assumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends import open_session
from edge_runtime.bundle import load_bundle, pack
from edge_runtime.errors import BundleError
from edge_runtime.pipeline import Pipeline
from edge_runtime.types import Windows
from edge_runtime.update.admission import admit
from edge_runtime.update.bare import ModelQuestion
from edge_runtime.update.derived import derive_bundle

MODELS = Path(__file__).parents[2] / "data" / "models"
QUESTIONS = {"silero_vad.onnx": ModelQuestion(constants={"sr": 16000.0}, shape=(576,))}
FILES = sorted(path.name for path in MODELS.iterdir() if path.suffix in (".tflite", ".onnx"))


@pytest.mark.parametrize("name", FILES)
def test_every_model_becomes_a_bundle_that_is_admitted(tmp_path: Path, name: str) -> None:
    """Its own golden vectors are reproduced in a child process."""
    derived = derive_bundle(MODELS / name, QUESTIONS.get(name))

    (tmp_path / "bundle.zip").write_bytes(pack(derived.bundle))
    read = load_bundle(tmp_path / "bundle.zip")
    assert read.digest == derived.bundle.digest
    assert admit(tmp_path / "bundle.zip").is_admitted


def test_it_answers_as_the_bare_session_does() -> None:
    """A float model's outputs are the values, untouched."""
    bundle = derive_bundle(MODELS / "hello_world_float.tflite").bundle
    x = np.linspace(0, 6, 50, dtype=np.float32).reshape(50, 1, 1)
    at = np.arange(50)
    session = open_session(bundle)

    values = Pipeline(bundle.spec, session, base=bundle.digest).score_windows(
        Windows(at, at, at, x)
    )

    alone = np.concatenate([session.run(row) for row in x.reshape(50, 1, 1)])
    assert values.value.tobytes() == alone.astype(np.float64).tobytes()


def test_an_autoencoder_is_scored_by_its_error() -> None:
    """Where the answer has the shape of the question."""
    spec = derive_bundle(MODELS / "ad_autoencoder_int8.tflite").bundle.spec

    assert (spec.kind, spec.labels) == ("scorer", ("error",))
    assert spec.output.activation == "reconstruction"


def test_what_had_to_be_assumed_is_said() -> None:
    """Window, rate, outputs; and that this state cannot be read."""
    assumed = "\n".join(derive_bundle(MODELS / "okay_nabu.tflite", rate_hz=33.3).assumed)

    assert "3 samples of 40 channels" in assumed
    assert "33.3 Hz" in assumed
    assert "the last 100 windows are played to the model again" in assumed


def test_a_file_that_is_refused_has_its_reason(tmp_path: Path) -> None:
    """No bundle is made of junk."""
    (tmp_path / "junk.tflite").write_bytes(b"TFL3" * 100)

    with pytest.raises(BundleError, match=r"junk\.tflite"):
        derive_bundle(tmp_path / "junk.tflite")
