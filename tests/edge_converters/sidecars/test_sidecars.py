"""What lies beside or inside a model becomes its bundle, or is refused in words."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import flatbuffers
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema

from edge_converters.sidecars import read_sidecar
from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.spec import Limit, MicroFrontend, Normalise, Smoothing, WindowSpec

MODELS = Path(__file__).parents[2] / "data" / "models"


def test_a_wake_word_s_json_is_found_beside_it() -> None:
    """Front end, window, averaging and cut-off of microWakeWord."""
    sidecar = read_sidecar(MODELS / "okay_nabu.tflite", "tflite", None)

    assert sidecar is not None
    changes = sidecar.changes
    assert changes["features"] == (MicroFrontend(),)
    assert changes["window"] == WindowSpec(800, 480)
    assert changes["smoothing"] == Smoothing(5)
    assert changes["limits"] == (Limit("okay_nabu", 0.97, 0.485),)


@pytest.mark.parametrize(
    "told",
    [b"", b"[]", b'{"type": "micro", "wake_word": "x", "micro": {"probability_cutoff": 7}}'],
)
def test_a_sidecar_that_was_named_must_be_one(tmp_path: Path, told: bytes) -> None:
    """Exit code 2, with what is wrong in it."""
    (tmp_path / "x.json").write_bytes(told)

    with pytest.raises(ConfigError, match="no microWakeWord JSON"):
        read_sidecar(MODELS / "okay_nabu.tflite", "tflite", tmp_path / "x.json")


def test_another_json_beside_a_model_is_nothing_to_us(tmp_path: Path) -> None:
    """Only what says that it is a wake word is read."""
    shutil.copy(MODELS / "hello_world_float.tflite", tmp_path / "m.tflite")
    (tmp_path / "m.json").write_text(json.dumps({"epochs": 3}))

    assert read_sidecar(tmp_path / "m.tflite", "tflite", None) is None


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("labels", '["cat", "dog"]'),
        ("names", "{0: 'cat', 1: 'dog'}"),
        ("classes", "cat, dog"),
    ],
)
def test_class_names_in_an_onnx_file_are_labels(tmp_path: Path, key: str, text: str) -> None:
    """However the exporter wrote them."""
    proto = onnx.load(MODELS / "ic_resnet8_float.onnx")
    proto.metadata_props.add(key=key, value=text)
    onnx.save(proto, tmp_path / "m.onnx")

    sidecar = read_sidecar(tmp_path / "m.onnx", "onnx", None)

    assert sidecar is not None
    assert sidecar.labels == ("cat", "dog")


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    """It is not taken for nothing."""
    proto = onnx.load(MODELS / "ic_resnet8_float.onnx")
    proto.metadata_props.add(key="edge_runtime.manifest", value="{")
    onnx.save(proto, tmp_path / "m.onnx")

    with pytest.raises(BundleError, match="manifest"):
        read_sidecar(tmp_path / "m.onnx", "onnx", None)


def test_labels_behind_a_tflite_file_are_read(tmp_path: Path) -> None:
    """As LiteRT's tools append them, in a zip."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
    model = (MODELS / "hello_world_float.tflite").read_bytes()
    (tmp_path / "m.tflite").write_bytes(model + zipped.getvalue())

    sidecar = read_sidecar(tmp_path / "m.tflite", "tflite", None)

    assert sidecar is not None
    assert sidecar.labels == ("cat", "dog")


def metadata() -> bytes:
    """Write a ModelMetadata table: a name, and mean and std of the one input."""
    builder = flatbuffers.Builder(0)
    name = builder.CreateString("Pump")
    floats = []
    for value in (127.5, 64.0):
        builder.StartVector(4, 1, 4)
        builder.PrependFloat32(value)
        floats.append(builder.EndVector())
    options = table(builder, {0: floats[0], 1: floats[1]})
    unit = table(builder, {1: options}, {0: 1})
    tensor = table(builder, {4: vector(builder, unit)})
    graph = table(builder, {2: vector(builder, tensor)})
    builder.Finish(table(builder, {0: name, 3: vector(builder, graph)}), b"M001")
    return bytes(builder.Output())


def table(builder: Any, references: dict[int, int], bytes_: dict[int, int] | None = None) -> int:
    builder.StartObject(8)
    for slot, reference in references.items():
        builder.PrependUOffsetTRelativeSlot(slot, reference, 0)
    for slot, value in (bytes_ or {}).items():
        builder.PrependUint8Slot(slot, value, 0)
    return int(builder.EndObject())


def vector(builder: Any, one: int) -> int:
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(one)
    return int(builder.EndVector())


def test_normalisation_in_litert_metadata_becomes_the_bundle_s(tmp_path: Path) -> None:
    """Mean and standard deviation of the input, and what the model is called."""
    parsed = schema.ModelT.InitFromPackedBuf((MODELS / "hello_world_float.tflite").read_bytes(), 0)
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer, buffer.data = "TFLITE_METADATA", len(parsed.buffers), [*metadata()]
    parsed.buffers.append(buffer)
    parsed.metadata = [*(parsed.metadata or []), entry]
    builder = flatbuffers.Builder(0)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    (tmp_path / "m.tflite").write_bytes(bytes(builder.Output()))

    sidecar = read_sidecar(tmp_path / "m.tflite", "tflite", None)

    assert sidecar is not None
    assert sidecar.changes == {"normalise": Normalise((127.5,), (64.0,))}
    assert sidecar.notes == ("Pump",)
