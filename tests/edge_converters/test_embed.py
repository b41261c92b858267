"""A model file tells by itself what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_converters.contracts import Format
from edge_converters.embed import embed, manifest_of, read_manifest
from edge_converters.sidecars import read_sidecar
from edge_runtime.backends import load_session
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Limit,
    ModelSpec,
    StreamSpec,
    WindowSpec,
)

MODELS = Path(__file__).parents[1] / "data" / "models"
FILES: list[tuple[str, Format, tuple[int, ...]]] = [
    ("hello_world_float.tflite", "tflite", (1, 1)),
    ("ic_resnet8_float.onnx", "onnx", (1, 32, 32, 3)),
]
SPEC = ModelSpec(
    name="pump",
    version="3",
    kind="classifier",
    stream=StreamSpec((ChannelSpec("x", "g"),), 50.0),
    window=WindowSpec(10, 5),
    artefacts=(ArtefactSpec("onnx", "model.onnx", "float32"),),
    labels=("ok", "worn"),
    limits=(Limit("worn", 0.8, 0.5),),
)


@pytest.mark.parametrize(("name", "form", "shape"), FILES)
def test_a_manifest_comes_back_and_changes_no_answer(
    name: str, form: Format, shape: tuple[int, ...]
) -> None:
    """Byte for byte, in both formats."""
    model = (MODELS / name).read_bytes()
    window = np.full(shape, 0.5, np.float32)

    told = embed(model, form, manifest_of(SPEC))

    assert read_manifest(model, form) is None
    assert read_manifest(told, form) == manifest_of(SPEC)
    before, after = (load_session(None, form, one).run(window) for one in (model, told))
    assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize(("name", "form", "shape"), FILES)
def test_a_second_manifest_replaces_the_first(
    name: str, form: Format, shape: tuple[int, ...]
) -> None:
    """A file says one thing about itself."""
    model = embed((MODELS / name).read_bytes(), form, b'{"old": 1}')

    assert read_manifest(embed(model, form, b'{"new": 2}'), form) == b'{"new": 2}'


def test_what_a_file_tells_becomes_its_bundle(tmp_path: Path) -> None:
    """Units, window and operating point travel in the model file alone."""
    path = tmp_path / "model.onnx"
    model = (MODELS / "ic_resnet8_float.onnx").read_bytes()
    path.write_bytes(embed(model, "onnx", manifest_of(SPEC)))

    sidecar = read_sidecar(path, "onnx", None)

    assert sidecar is not None
    other = ModelSpec(
        name="other",
        version="1",
        kind="regressor",
        stream=StreamSpec((ChannelSpec("y"),), 1.0),
        window=WindowSpec(1, 1),
        artefacts=SPEC.artefacts,
        labels=("a", "b"),
    )
    assert sidecar.applied_to(other) == SPEC
