"""Real public models become bundles that give the answers recorded for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_converters import Request, convert
from edge_runtime.backends import open_session
from edge_runtime.bundle import load_bundle
from edge_runtime.update.admission import admit

SHARED = Path(__file__).parents[3] / "shared" / "data"
LIGHT = Path(__file__).parents[1] / "data" / "models"
_FLOAT_TOLERANCE = 1e-3
_INTEGER_TOLERANCE = 1


def models(folder: Path) -> list[Path]:
    return sorted(one for one in folder.rglob("*") if one.suffix in (".tflite", ".onnx"))


def recorded(model: Path) -> dict[str, np.ndarray]:
    """Return the golden vectors of a model: beside it, or among the shared ones."""
    names = (f"{model.name}.npz", f"{model.stem}_stream.npz")
    places = (model.parent, SHARED / "golden")
    stem = model.stem.removesuffix("_int8").removesuffix("_float")
    names = (*names, f"{stem}_stream.npz")
    for path in (folder / name for folder in places for name in names):
        if path.is_file():
            with np.load(path) as arrays:
                return {name: arrays[name] for name in arrays.files}
    return {}


def converted(model: Path, output: Path) -> None:
    silero = {"constants": {"sr": 16000.0}, "shape": (576,)} if "silero" in model.name else {}
    request = Request(model=str(model), output=output, precisions=("as-is",), **silero)  # type: ignore[arg-type]
    convert(request)


def check(model: Path, output: Path) -> None:
    """Convert a model, and ask the bundle what was once asked of the model."""
    converted(model, output)

    assert admit(output).is_admitted
    golden = recorded(model)
    first = golden.get("output", golden.get("boxes"))
    if "input" not in golden or first is None:
        return
    session = open_session(load_bundle(output))
    asked = golden["input"].reshape(-1, *session.inputs[0].shape[1:])
    answers = np.concatenate([session.run(row[None]) for row in asked])
    expected = first.reshape(answers.shape)
    is_float = answers.dtype.kind == "f"
    off = np.abs(answers.astype(np.float64) - expected.astype(np.float64)).max()
    assert off <= (_FLOAT_TOLERANCE if is_float else _INTEGER_TOLERANCE)


@pytest.mark.parametrize("name", ["kws_dscnn_int8.tflite", "kws_dscnn_int8_qdq.onnx"])
def test_a_model_and_its_twin_give_the_recorded_answers(tmp_path: Path, name: str) -> None:
    """On LiteRT and on ONNX Runtime."""
    check(LIGHT / name, tmp_path / "bundle")


@pytest.mark.slow
@pytest.mark.parametrize("model", models(SHARED / "models"), ids=lambda path: path.name)
def test_every_shared_model_gives_the_recorded_answers(tmp_path: Path, model: Path) -> None:
    """To one step of an integer, or a thousandth; models with state as whole sequences."""
    check(model, tmp_path / "bundle")
