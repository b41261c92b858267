"""Quantisation is told by tensors, never by a file's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends.onnx_graph import read_graph
from edge_runtime.backends.precision import precision_of

MODELS = Path(__file__).parents[2] / "data" / "models"


@pytest.mark.parametrize(
    ("file", "precision"),
    [
        ("ad_autoencoder_int8.tflite", "int8"),
        ("ad_autoencoder_int8_qdq.onnx", "int8"),
        ("hello_world_float.tflite", "float32"),
        ("hello_world_int8.tflite", "int8"),
        ("kws_dscnn_int8.tflite", "int8"),
        ("kws_dscnn_int8_qdq.onnx", "int8"),
        ("okay_nabu.tflite", "int8"),
    ],
)
def test_real_files_are_what_they_are(file: str, precision: str) -> None:
    """The files in the test data are classified as their makers describe them."""
    path = MODELS / file

    assert precision_of(path.suffix[1:], path.read_bytes()) == precision


@pytest.mark.parametrize(
    ("weights", "inside", "precision"),
    [
        ("FLOAT32", "FLOAT32", "float32"),
        ("FLOAT16", "FLOAT32", "float16"),
        ("INT8", "FLOAT32", "dynamic"),
        ("INT8", "INT16", "int16x8"),
        ("INT8", "INT8", "int8"),
    ],
)
def test_a_tflite_file_is_told_by_weights_and_what_is_computed(
    tflite_builder, weights: str, inside: str, precision: str
) -> None:
    """Float inputs and outputs do not hide integer weights or integer layers."""
    builder = tflite_builder()
    x = builder.tensor("x", [1, 2])
    w = builder.tensor("w", [2, 2], np.zeros((2, 2), np.int32), type_name=weights)
    h = builder.tensor("h", [1, 2], type_name=inside)
    y = builder.tensor("y", [1, 2])
    builder.operator("FULLY_CONNECTED", [x, w], [h])
    builder.operator("FULLY_CONNECTED", [h, w], [y])

    assert precision_of("tflite", builder.pack([x], [y])) == precision


def test_float_layers_beside_integer_ones_are_mixed(tflite_builder) -> None:
    """A file with both kinds of layers is neither."""
    builder = tflite_builder()
    x, y = builder.tensor("x", [1, 2]), builder.tensor("y", [1, 2])
    w = builder.tensor("w", [2, 2], np.zeros((2, 2), np.int8), type_name="INT8")
    hidden = [
        builder.tensor(f"h{i}", [1, 2], type_name=t) for i, t in enumerate(["INT8", "FLOAT32"])
    ]
    for before, after in zip([x, *hidden], [*hidden, y], strict=True):
        builder.operator("FULLY_CONNECTED", [before, w], [after])

    assert precision_of("tflite", builder.pack([x], [y])) == "mixed"


@pytest.mark.parametrize(
    ("operators", "weights", "precision"),
    [
        (["MatMul"], {"a": np.float32}, "float32"),
        (["DequantizeLinear", "MatMul"], {"a": np.int8}, "dynamic"),
        (["DynamicQuantizeLinear", "MatMulInteger"], {"a": np.int8}, "dynamic"),
        (["QuantizeLinear", "DequantizeLinear", "MatMul"], {"a": np.int8}, "int8"),
        (["QLinearMatMul", "MatMul"], {"a": np.uint8, "b": np.float32}, "mixed"),
    ],
)
def test_an_onnx_file_is_told_by_weights_and_operators(
    onnx, operators: list[str], weights: dict[str, type], precision: str
) -> None:
    """Integer weights alone are dynamic; quantised values in between make it int8."""
    elements = {np.float32: 1, np.uint8: 2, np.int8: 3}
    constants = [
        onnx.constant(name, np.zeros((2, 2), kind), elements[kind])
        for name, kind in weights.items()
    ]
    nodes = [onnx.node(operator, ["x", "a"], ["y"]) for operator in operators]
    model = onnx.model(nodes, [onnx.value("x", [1, 2])], [onnx.value("y", [1, 2])], constants)

    assert precision_of("onnx", model) == precision


def test_a_file_of_another_kind_is_said() -> None:
    """Bytes that are no model raise, and an unknown kind has no answer."""
    with pytest.raises(ValueError, match="TFLite"):
        precision_of("tflite", b"nothing at all")

    assert precision_of("misbehaving", b"") is None


def test_the_ports_of_a_graph_are_read_without_its_constants(onnx) -> None:
    """Inputs and outputs come with their shapes; free axes keep their names."""
    model = onnx.model(
        [onnx.node("MatMul", ["x", "w"], ["y"])],
        [onnx.value("x", ["n", 2]), onnx.value("w", [2, 3]), onnx.value("sr", [])],
        [onnx.value("y", ["n", 3])],
        [onnx.constant("w", np.zeros((2, 3), np.float32))],
    )

    graph = read_graph(model)

    assert [(one.name, one.shape) for one in graph.inputs] == [("x", ("n", 2)), ("sr", ())]
    assert [(one.name, one.shape) for one in graph.outputs] == [("y", ("n", 3))]
