"""What stands in a file, what it costs, and which runtimes know it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_converters.operations import Operation, count_macs
from edge_converters.operations.known import (
    TFLITE_RUNTIME,
    knows_litert,
    knows_onnxruntime,
    knows_tflite_runtime,
)
from edge_converters.operations.onnx import read_onnx
from edge_converters.operations.tflite import macs_of, read_tflite
from edge_converters.workers.jobs.examined import examine
from edge_runtime.errors import ModelError

MODELS = Path(__file__).parents[2] / "data" / "models"
READERS = {".onnx": read_onnx, ".tflite": read_tflite}


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("ad_autoencoder_int8.tflite", 264_192),
        ("ad_autoencoder_int8_qdq.onnx", 264_192),
        ("hello_world_float.tflite", 288),
        ("ic_resnet8_float.onnx", 12_501_632),
        ("ic_resnet8_float.tflite", 12_501_632),
        ("kws_dscnn_int8.tflite", 2_656_768),
        ("kws_dscnn_int8_qdq.onnx", 2_656_768),
        ("vww_mobilenet_int8.tflite", 7_489_664),
    ],
)
def test_multiplications_are_counted_alike_in_both_formats(name: str, macs: int) -> None:
    """The networks of MLPerf Tiny cost what is published, quantised or not, in either format."""
    file = MODELS / name

    assert count_macs(READERS[file.suffix](file.read_bytes())) == macs


def test_a_loop_has_a_cost_nobody_can_tell() -> None:
    """One operator whose cost is not known makes that of the whole unknown."""
    silero = read_onnx((MODELS / "silero_vad.onnx").read_bytes())

    assert count_macs(silero) is None
    assert macs_of("UNIDIRECTIONAL_SEQUENCE_LSTM", (4, 4), (1, 4)) is None
    assert macs_of("FULLY_CONNECTED", (4, 8), (5, 4)) == 160
    assert macs_of("BATCH_MATMUL", (2, 8, 4), (2, 3, 4)) == 2 * 3 * 4 * 8


@pytest.mark.parametrize("name", ["kws_dscnn_int8.tflite", "kws_dscnn_int8_qdq.onnx"])
def test_products_of_an_int8_file_compute_with_int8(name: str) -> None:
    """In TFLite by their tensors, in ONNX because integers go in and come out."""
    file = MODELS / name

    found = [one for one in READERS[file.suffix](file.read_bytes()) if one.macs]

    # The head of the ONNX file answers a softmax in float.
    assert {one.precision for one in found[:9]} == {"int8"}
    assert len(found) == 10


def test_integer_weights_behind_floats_are_called_that() -> None:
    """They are no int8 operators: their activations are floats."""
    file = MODELS.parents[1] / "edge_converters" / "data" / "kws_dscnn_hybrid.onnx"

    found = {one.precision for one in read_onnx(file.read_bytes()) if one.macs}

    assert found == {"float32", "int8 weights"}


@pytest.mark.parametrize("read", [read_onnx, read_tflite])
def test_garbage_is_refused(read: object) -> None:
    """A file that is none ends in a sentence."""
    with pytest.raises(ModelError, match="cannot be read"):
        read(b"\x20\x00\x00\x00no model at all, whatever its name")  # type: ignore[operator]


def test_the_old_runtime_lacks_new_versions() -> None:
    """Products with a scale by channel behind floats are version 12, which 2.14 never had."""
    hybrid = Operation("FULLY_CONNECTED", 12, "int8 weights")

    assert knows_litert(hybrid)
    assert not knows_tflite_runtime(hybrid)
    assert knows_tflite_runtime(msgspec.structs.replace(hybrid, version=4))
    assert not knows_litert(msgspec.structs.replace(hybrid, version=23))
    assert not knows_litert(Operation("FULLY_CONFUSED", 1, "float32"))
    assert not knows_tflite_runtime(Operation("CUSTOM FlexErf", 1, "float32"))


@pytest.mark.parametrize(
    ("kind", "version", "is_known"),
    [
        ("Conv", 20, True),
        ("HardSwish", 17, True),
        ("com.microsoft.QGemm", 1, True),
        ("com.example.QGemm", 1, False),
        ("Convolve", 20, False),
    ],
)
def test_onnxruntime_has_a_kernel_or_a_definition(kind: str, version: int, is_known: bool) -> None:
    """What is neither built in nor made of others is not known."""
    assert knows_onnxruntime(Operation(kind, version, "float32")) is is_known


def test_a_delegate_takes_over_all_products_of_an_int8_file() -> None:
    """XNNPACK runs everything that multiplies, and both runtimes know every operator."""
    told = examine([str(MODELS / "kws_dscnn_int8.tflite")], ["tflite"])

    found = msgspec.convert(told["operations"], list[tuple[Operation, ...]])[0]
    assert all(one.is_delegated for one in found if one.macs)
    assert not any(one.lacking for one in found)
    assert told["runtimes"][0][1] == TFLITE_RUNTIME  # type: ignore[index]


def test_onnxruntime_knows_all_of_a_file_that_it_runs() -> None:
    """Branches and constants included; of delegates nobody can tell."""
    told = examine([str(MODELS / "silero_vad.onnx")], ["onnx"])

    found = msgspec.convert(told["operations"], list[tuple[Operation, ...]])[0]
    assert {one.is_delegated for one in found} == {None}
    assert not any(one.lacking for one in found)


def test_a_file_that_the_runtime_refuses_is_examined_all_the_same(tmp_path: Path) -> None:
    """An operator of a version that is still to come is named with everybody who lacks it."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    content = (MODELS / "hello_world_float.tflite").read_bytes()
    parsed = schema.ModelT.InitFromPackedBuf(content, 0)
    parsed.operatorCodes[0].version = 23
    builder = flatbuffers.Builder(len(content))
    builder.Finish(parsed.Pack(builder), b"TFL3")
    (tmp_path / "new.tflite").write_bytes(bytes(builder.Output()))

    told = examine([str(tmp_path / "new.tflite")], ["tflite"])

    found = msgspec.convert(told["operations"], list[tuple[Operation, ...]])[0]
    assert {one.is_delegated for one in found} == {None}
    assert all(one.lacking == tuple(told["runtimes"][0]) for one in found)  # type: ignore[index]
