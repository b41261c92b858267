"""The small dense networks of the examples: made int8 by the conversion library, and run.

The scripts that train them share this; TensorFlow and the like are imported where they are
used. The same seed, machine and library versions give the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edge_converters import Outcome
    from edge_converters.quantise.contracts import Format, Quantiser
    from edge_runtime.spec import ModelSpec

__all__ = [
    "Evidence",
    "Names",
    "Predict",
    "calibration_rows",
    "float_network",
    "float_tflite",
    "library_versions",
    "save_converted",
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


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a conversion is calibrated with and judged by.

    Attributes:
        calibration: Windows of the stream that set the ranges, shape (n, length, channels).
        windows: Those it is judged on, which training never saw, the same shape.
        labels: What is true of each, shape (m,).
        metric: ``auc`` or ``mae``.
        max_drop: How much of it int8 may lose; the script stops where it loses more.
    """

    calibration: np.ndarray
    windows: np.ndarray
    labels: np.ndarray
    metric: str
    max_drop: float


def save_converted(
    model: Any, spec: ModelSpec, evidence: Evidence, out: Path, report: Path, names: Names
) -> tuple[dict[str, Predict], dict[str, Any]]:
    """Let ``edge_converters`` make both files of a Keras model, as its command would.

    Each is judged against float; file and recipe go into ``out``, the reports into ``report``.

    Returns:
        What runs ``float``, ``int8_tflite`` and ``int8_onnx``, and the verdict on each file.

    Raises:
        ModelError: A file loses more than it may.
    """
    layers = _dense_layers(model)
    floats: dict[Format, bytes] = {
        "tflite": float_tflite(model),
        "onnx": _float_onnx(layers, names),
    }
    runs, verdicts = {"float": _float_predict(layers)}, {}
    out.mkdir(parents=True, exist_ok=True)
    for form, content in floats.items():
        outcome, int8, recipe = _converted(form, content, spec, evidence, report / form)
        (out / f"model_int8.{form}").write_bytes(int8)
        (out / f"recipe_{form}.json").write_bytes(recipe)
        runs[f"int8_{form}"] = _int8_predict(form, int8)
        verdicts[f"int8_{form}"] = _verdict_of(outcome)
    return runs, verdicts


def _converted(
    form: Format, content: bytes, spec: ModelSpec, evidence: Evidence, report: Path
) -> tuple[Outcome, bytes, bytes]:
    """Convert one float file to int8; return what was found, the file and its recipe."""
    from edge_converters import Request, convert
    from edge_converters.reporting import write_report
    from edge_runtime.bundle import load_bundle
    from edge_runtime.config.document import dump_yaml
    from edge_runtime.spec import as_builtins

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / f"{spec.name}.{form}"
        model.write_bytes(content)
        (folder / "bundle.yaml").write_text(dump_yaml(as_builtins(spec)))
        np.savez(folder / "calib.npz", inputs=evidence.calibration)
        np.savez(folder / "eval.npz", inputs=evidence.windows, labels=evidence.labels)
        outcome = convert(
            Request(
                model=str(model),
                output=folder / "bundle",
                spec=folder / "bundle.yaml",
                calib=folder / "calib.npz",
                eval=folder / "eval.npz",
                metric=evidence.metric,
                max_drop=evidence.max_drop,
                precisions=("int8",),
                target="raspberry-pi-4",
            )
        )
        files = load_bundle(folder / "bundle").files
    write_report(outcome, report)
    return outcome, files[f"model.{form}"], files["recipe.json"]


def _verdict_of(outcome: Outcome) -> dict[str, Any]:
    chosen = next(one for one in outcome.candidates if one.precision == outcome.choice.precision)
    verdict = chosen.verdict
    assert verdict is not None  # noqa: S101 - labels were given
    return {
        "claim": outcome.choice.verdict,
        "metric": verdict.metric,
        "windows": verdict.windows,
        "float": round(verdict.float_value, 4),
        "int8": round(verdict.value, 4),
        "loss_95": [round(verdict.low or 0.0, 4), round(verdict.high or 0.0, 4)],
    }


def save_quantised(
    model: Any, calibration: np.ndarray, out: Path, names: Names
) -> dict[str, Predict]:
    """Quantise a Keras model, write both files into ``out``, and return what runs each form.

    Returns:
        ``float``, ``int8_tflite`` and ``int8_onnx``.
    """
    from edge_converters.quantise.onnx import OnnxQuantiser
    from edge_converters.quantise.tflite import TFLiteQuantiser

    layers = _dense_layers(model)
    tflite = _int8(TFLiteQuantiser(float_tflite(model)), calibration)
    onnx = _int8(OnnxQuantiser(_float_onnx(layers, names)), calibration)
    out.mkdir(parents=True, exist_ok=True)
    (out / "model_int8.tflite").write_bytes(tflite)
    (out / "model_int8.onnx").write_bytes(onnx)
    return {
        "float": _float_predict(layers),
        "int8_tflite": _int8_predict("tflite", tflite),
        "int8_onnx": _int8_predict("onnx", onnx),
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


def _int8(quantiser: Quantiser, calibration: np.ndarray) -> bytes:
    """Make all of a network integers, in the ranges of the calibration rows."""
    return quantiser.quantise(quantiser.recipe("int8", quantiser.calibrate(calibration), {}))


def _int8_predict(form: Format, content: bytes) -> Predict:
    """Return a function that asks a file as a device does."""
    from edge_converters.quantise.answers import answer

    return lambda inputs: answer(form, content, np.asarray(inputs, np.float32))


def float_tflite(model: Any) -> bytes:
    """Convert a Keras model as it is."""
    import tensorflow as tf

    with contextlib.redirect_stdout(sys.stderr):  # the converter prints the graph
        return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def _float_onnx(layers: Sequence[_Dense], names: Names) -> bytes:
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
    return bytes(model.SerializeToString())


def library_versions() -> dict[str, str]:
    """Return the versions that made the artefacts."""
    names = (
        "numpy",
        "tensorflow-cpu",
        "keras",
        "ai-edge-litert",
        "litert-quantizer",
        "onnx",
        "onnxruntime",
    )
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2) + "\n")
