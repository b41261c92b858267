"""The small dense networks of the examples: quantised to int8 TFLite and ONNX, and run.

The scripts that train them share this; TensorFlow and the like are imported where they are
used. The same seed, machine and library versions give the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "Names",
    "Predict",
    "calibration_rows",
    "float_network",
    "library_versions",
    "save_quantised",
    "write_json",
]

CALIBRATION_ROWS = 1024
OPSET = 17
IR_VERSION = 8

_Dense = tuple[np.ndarray, np.ndarray]
"""Weights (in, out) and bias (out,) of one layer, float32."""

Predict = Callable[[np.ndarray], np.ndarray]
"""Normalised inputs, shape (n, features), float32, to answers, shape (n, outputs)."""


@dataclass(frozen=True)
class Names:
    """What an ONNX graph, its input and its output are called."""

    graph: str
    source: str
    sink: str


def save_quantised(
    model: Any, calibration: np.ndarray, out: Path, names: Names
) -> dict[str, Predict]:
    """Quantise a Keras model, write both files into ``out``, and return what runs each form.

    Returns:
        ``float``, ``int8_tflite`` and ``int8_onnx``.
    """
    content, layers = _to_tflite(model, calibration), _dense_layers(model)
    out.mkdir(parents=True, exist_ok=True)
    (out / "model_int8.tflite").write_bytes(content)
    _to_onnx(layers, calibration, out / "model_int8.onnx", names)
    return {
        "float": _float_predict(layers),
        "int8_tflite": _tflite_predict(content),
        "int8_onnx": _onnx_predict(out / "model_int8.onnx"),
    }


def float_network(model: Any) -> Predict:
    """Return what runs the float form of a Keras model."""
    return _float_predict(_dense_layers(model))


def _dense_layers(model: Any) -> list[_Dense]:
    """Return weights and bias of each dense layer of a Keras model."""
    return [tuple(weights) for layer in model.layers if (weights := layer.get_weights())]


def _float_predict(layers: Sequence[_Dense]) -> Predict:
    """Return the float network as a plain NumPy function."""

    def predict(inputs: np.ndarray) -> np.ndarray:
        x = inputs
        for weights, bias in layers[:-1]:
            x = np.maximum(x @ weights + bias, 0.0)
        weights, bias = layers[-1]
        answer: np.ndarray = x @ weights + bias
        return answer

    return predict


def calibration_rows(inputs: np.ndarray, *, extremes: bool) -> np.ndarray:
    """Choose real rows that set the integer ranges: evenly spaced ones.

    Args:
        inputs: Training rows in order of time, shape (n, features).
        extremes: Add the rows where a feature is lowest or highest, so that no training
            row saturates.
    """
    rows = np.linspace(0, len(inputs) - 1, CALIBRATION_ROWS).astype(int)
    if extremes:
        ends = [inputs.argmin(axis=0), inputs.argmax(axis=0)]
        rows = np.unique(np.concatenate([rows, *ends]))
    chosen: np.ndarray = inputs[rows]
    return chosen


def _to_tflite(model: Any, calibration: np.ndarray) -> bytes:
    """Quantise a Keras model to full int8: weights, activations, input and output."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    with contextlib.redirect_stdout(sys.stderr):  # the converter prints the graph
        return bytes(converter.convert())


def _tflite_predict(content: bytes) -> Predict:
    """Return a function that runs an int8 TFLite model."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def predict(inputs: np.ndarray) -> np.ndarray:
        scale, zero = source["quantization"]
        interpreter.resize_tensor_input(source["index"], inputs.shape)
        interpreter.allocate_tensors()
        q = np.clip(np.round(inputs / np.float32(scale)) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], q)
        interpreter.invoke()
        scale, zero = sink["quantization"]
        answer = interpreter.get_tensor(sink["index"]).astype(np.float32)
        values: np.ndarray = (answer - zero) * scale
        return values

    return predict


def _to_onnx(layers: Sequence[_Dense], calibration: np.ndarray, path: Path, names: Names) -> None:
    """Quantise to ONNX with QuantizeLinear/DequantizeLinear pairs and write ``path``.

    Weights are unsigned like the activations: x86 processors without VNNI
    saturate sums of unsigned by signed products, and would answer differently.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out the calibration rows one by one."""

        def __init__(self) -> None:
            self._rows: Iterator[np.ndarray] = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self._rows, None)
            return None if row is None else {names.source: row[None]}

    quantize_static(
        _float_onnx(layers, names),
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QUInt8,
    )


def _float_onnx(layers: Sequence[_Dense], names: Names) -> Any:
    """Build the float ONNX network from weights: Gemm and Relu, free batch axis."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []
    x = names.source
    for index, (weights, bias) in enumerate(layers):
        is_last = index == len(layers) - 1
        inputs = [f"weights_{index}", f"bias_{index}"]
        constants += map(numpy_helper.from_array, (weights, bias), inputs)
        out = names.sink if is_last else f"sum_{index}"
        nodes.append(helper.make_node("Gemm", [x, *inputs], [out], name=f"gemm_{index}"))
        if not is_last:
            x = f"hidden_{index}"
            nodes.append(helper.make_node("Relu", [out], [x], name=f"relu_{index}"))
    sizes = ((names.source, len(layers[0][0])), (names.sink, len(layers[-1][1])))
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in sizes
    ]
    graph = helper.make_graph(nodes, names.graph, tensors[:1], tensors[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    checker.check_model(model)
    return model


def _onnx_predict(path: Path) -> Predict:
    """Return a function that runs an ONNX model with one input."""
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {name: inputs})[0]


def library_versions() -> dict[str, str]:
    """Return the versions that made the artefacts."""
    names = ("numpy", "tensorflow-cpu", "keras", "ai-edge-litert", "onnx", "onnxruntime")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2) + "\n")
