"""Train the fan's vibration classifier and quantise it to int8 TFLite and ONNX.

    python train.py --data accelerometer.csv --out artefacts/1.0.0

writes four files into ``--out``:

======================  ======================================================
``model_int8.tflite``   int8 input and output, batch 1, resizable
``model_int8.onnx``     QDQ with static ranges, float32 input and output
``features.json``       window, features in order, mean and std, labels
``metrics.json``        accuracy on windows never trained on, library versions
======================  ======================================================

Both models take z-scored features, shape (n, 168), and answer logits, shape
(n, 3). Features come from the runtime itself, so that the device computes the
same numbers. The same seed, machine and library versions give the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_runtime.pipeline.features import compute
from edge_runtime.spec import Spectrum, Statistics

COLUMNS = "Sensor Configuration,Rotation Speed Percentage,x,y,z"
CHANNELS = ("x", "y", "z")
LABELS = ("unbalance-1", "unbalance-2", "unbalance-3")
RATE_HZ = 50.0
WINDOW = 100  # samples: two seconds
TRAIN_ROWS = 2100  # of each run; the later ones are for the test
TRAIN_HOP = 10  # training windows overlap, test windows never do
FEATURES = (
    Statistics(which=("mean", "std", "ptp", "skewness", "kurtosis", "crest")),
    Spectrum(first=1, last=50, remove_mean=True, log=True),
)
UNSEEN_SPEEDS = (35, 60, 85)
PART_SPEEDS = (40, 60, 80, 100)
PART_ROWS = 600  # the last rows of each run
HIDDEN = (64, 32)
EPOCHS = 40
BATCH = 64
LEARNING_RATE = 3e-3
WEIGHT_PENALTY = 1e-4
DROPOUT = 0.2
NOISE = 0.2  # standard deviations of a feature
LABEL_SMOOTHING = 0.1  # keeps logits small, so that their int8 steps are fine
SEED = 7
CALIBRATION_ROWS = 1024
OPSET = 17
IR_VERSION = 8

Layer = tuple[np.ndarray, np.ndarray]
Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Run:
    """One recording at constant class and speed.

    Attributes:
        label: Index into ``LABELS``.
        speed: Per cent of the full speed.
        samples: Shape (n, 3), float32, g, 50 a second.
        lines: The same rows as the file has them.
    """

    label: int
    speed: int
    samples: np.ndarray
    lines: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Windows:
    """Features of windows, shape (n, 168), and their labels, shape (n,)."""

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Scaling:
    """z-score of the features, from training windows alone."""

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the features z-scored, float32."""
        scaled: np.ndarray = ((features - self.mean) / self.std).astype(np.float32)
        return scaled


def load(path: Path) -> list[Run]:
    """Read the data file and part it into runs.

    Raises:
        ValueError: The columns are not the expected ones.
    """
    header, *lines = path.read_text().splitlines()
    if header != COLUMNS:
        raise ValueError(
            f"{path}:1: the columns are {header!r}; expected {COLUMNS!r}.\n"
            "  Pass the file described in DATA.md with --data."
        )
    table = np.array([line.split(",") for line in lines], dtype=np.float64)
    edges = np.flatnonzero(np.any(np.diff(table[:, :2], axis=0) != 0, axis=1)) + 1
    bounds = [0, *edges.tolist(), len(table)]
    return [
        Run(
            label=int(table[start, 0]) - 1,
            speed=int(table[start, 1]),
            samples=table[start:end, 2:].astype(np.float32),
            lines=tuple(lines[start:end]),
        )
        for start, end in itertools.pairwise(bounds)
    ]


def windows_of(runs: Sequence[Run], rows: slice, hop: int) -> Windows:
    """Cut windows from the same rows of every run and compute their features."""
    cut, labels = [], []
    for run in runs:
        views = np.lib.stride_tricks.sliding_window_view(run.samples[rows], WINDOW, axis=0)
        cut.append(views[::hop].transpose(0, 2, 1))
        labels += [run.label] * len(cut[-1])
    features = compute(FEATURES, np.concatenate(cut), rate_hz=RATE_HZ)
    return Windows(features, np.array(labels))


def fit_scaling(features: np.ndarray) -> Scaling:
    """Take mean and std of every feature."""
    values = features.astype(np.float64)
    return Scaling(values.mean(axis=0), values.std(axis=0))


def train_network(inputs: np.ndarray, labels: np.ndarray) -> Any:
    """Train the network on z-scored features and return the Keras model."""
    import keras

    keras.utils.set_random_seed(SEED)
    layers: list[Any] = [keras.layers.GaussianNoise(NOISE)]
    for index, width in enumerate(HIDDEN):
        penalty = keras.regularizers.L2(WEIGHT_PENALTY)
        name = f"hidden_{index}"
        layers += [
            keras.layers.Dense(width, "relu", kernel_regularizer=penalty, name=name),
            keras.layers.Dropout(DROPOUT),
        ]
    layers.append(keras.layers.Dense(len(LABELS), name="logits"))
    model = keras.Sequential([keras.Input((inputs.shape[1],), name="features"), *layers])
    steps = EPOCHS * -(-len(inputs) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    loss = keras.losses.CategoricalCrossentropy(True, label_smoothing=LABEL_SMOOTHING)
    model.compile(keras.optimizers.Adam(rate), loss)
    target = np.eye(len(LABELS), dtype=np.float32)[labels]
    model.fit(inputs, target, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def layers_of(model: Any) -> list[Layer]:
    """Return weights (in, out) and bias (out,) of each dense layer, float32."""
    return [tuple(weights) for layer in model.layers if (weights := layer.get_weights())]


def float_predict(model: Any) -> Predict:
    """Return a function that runs the float network."""
    return lambda inputs: model.predict(inputs, verbose=0)


def calibration_rows(inputs: np.ndarray) -> np.ndarray:
    """Choose real windows that set the integer ranges: evenly spaced in the training windows."""
    chosen: np.ndarray = inputs[np.linspace(0, len(inputs) - 1, CALIBRATION_ROWS).astype(int)]
    return chosen


def to_tflite(model: Any, calibration: np.ndarray) -> bytes:
    """Quantise to full int8 TFLite: int8 weights, activations, input and output."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    with contextlib.redirect_stdout(sys.stderr):  # the converter prints the graph
        return bytes(converter.convert())


def tflite_predict(content: bytes) -> Predict:
    """Return a function that runs the TFLite model on z-scored features."""
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


def float_onnx(layers: Sequence[Layer]) -> Any:
    """Build the float ONNX network from weights: Gemm and Relu, free batch axis."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []
    x = "features"
    for index, (weights, bias) in enumerate(layers):
        is_last = index == len(layers) - 1
        names = [f"weights_{index}", f"bias_{index}"]
        constants += map(numpy_helper.from_array, (weights, bias), names)
        out = "logits" if is_last else f"sum_{index}"
        nodes.append(helper.make_node("Gemm", [x, *names], [out], name=f"gemm_{index}"))
        if not is_last:
            x = f"hidden_{index}"
            nodes.append(helper.make_node("Relu", [out], [x], name=f"relu_{index}"))
    sizes = (("features", len(layers[0][0])), ("logits", len(LABELS)))
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in sizes
    ]
    graph = helper.make_graph(nodes, "fan-unbalance", tensors[:1], tensors[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    checker.check_model(model)
    return model


def to_onnx(layers: Sequence[Layer], calibration: np.ndarray, path: Path) -> None:
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
        """Hands out the calibration windows one by one."""

        def __init__(self) -> None:
            self._rows: Iterator[np.ndarray] = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self._rows, None)
            return None if row is None else {"features": row[None]}

    quantize_static(
        float_onnx(layers),
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QUInt8,
    )


def onnx_predict(path: Path) -> Predict:
    """Return a function that runs the ONNX model on z-scored features."""
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {"features": inputs})[0]


def accuracy(predict: Predict, scaling: Scaling, windows: Windows) -> float:
    """Return the share of windows whose highest logit is the right label."""
    answers = predict(scaling(windows.features)).argmax(axis=1)
    return round(float((answers == windows.labels).mean()), 4)


def unseen_accuracy(runs: Sequence[Run]) -> float:
    """Train without the unseen speeds and return the float accuracy on them alone."""
    seen = [run for run in runs if run.speed not in UNSEEN_SPEEDS]
    unseen = [run for run in runs if run.speed in UNSEEN_SPEEDS]
    train = windows_of(seen, slice(None), TRAIN_HOP)
    scaling = fit_scaling(train.features)
    model = train_network(scaling(train.features), train.labels)
    return accuracy(float_predict(model), scaling, windows_of(unseen, slice(None), WINDOW))


def features_json(scaling: Scaling) -> dict[str, Any]:
    """Describe what comes before the model, in the words of ``bundle.yaml``."""
    return {
        "channels": [{"name": name, "unit": "g"} for name in CHANNELS],
        "rate_hz": RATE_HZ,
        "window": {"length": WINDOW, "hop": WINDOW},
        "features": msgspec.to_builtins(FEATURES),
        "normalise": {"mean": scaling.mean.tolist(), "std": scaling.std.tolist()},
        "output": {"activation": "softmax"},
        "labels": LABELS,
    }


def library_versions() -> dict[str, str]:
    """Return the versions that made the artefacts."""
    names = ("numpy", "tensorflow-cpu", "keras", "ai-edge-litert", "onnx", "onnxruntime")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write readable JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_part(runs: Sequence[Run], path: Path) -> None:
    """Write rows never trained on, for demos and tests: the end of some runs."""
    chosen = [run.lines[-PART_ROWS:] for run in runs if run.speed in PART_SPEEDS]
    path.write_text("\n".join([COLUMNS, *(line for lines in chosen for line in lines)]) + "\n")


def build(runs: Sequence[Run], out: Path) -> dict[str, Any]:
    """Train, write the four files into ``out`` and return the metrics."""
    train = windows_of(runs, slice(TRAIN_ROWS), TRAIN_HOP)
    test = windows_of(runs, slice(TRAIN_ROWS, None), WINDOW)
    scaling = fit_scaling(train.features)
    inputs = scaling(train.features)
    model = train_network(inputs, train.labels)
    calibration = calibration_rows(inputs)
    content = to_tflite(model, calibration)

    out.mkdir(parents=True, exist_ok=True)
    (out / "model_int8.tflite").write_bytes(content)
    to_onnx(layers_of(model), calibration, out / "model_int8.onnx")
    write_json(out / "features.json", features_json(scaling))

    models = {
        "float": float_predict(model),
        "int8_tflite": tflite_predict(content),
        "int8_onnx": onnx_predict(out / "model_int8.onnx"),
    }
    metrics = {
        "windows": {"train": len(train.labels), "test": len(test.labels)},
        "accuracy_later_in_time": {
            name: accuracy(predict, scaling, test) for name, predict in models.items()
        },
        "accuracy_unseen_speeds": {
            "speeds": UNSEEN_SPEEDS,
            "float": unseen_accuracy(runs),
        },
        "versions": library_versions(),
    }
    write_json(out / "metrics.json", metrics)
    return metrics


def main(arguments: Iterable[str] | None = None) -> None:
    """Read the command line, build, and print the metrics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the full accelerometer.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the artefacts")
    parser.add_argument("--part", type=Path, help="also write the demo's rows to this file")
    options = parser.parse_args(None if arguments is None else list(arguments))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    runs = load(options.data)
    if options.part:
        write_part(runs, options.part)
    print(json.dumps(build(runs, options.out), indent=2))


if __name__ == "__main__":
    main()
