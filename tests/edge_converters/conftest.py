"""Small networks trained in a moment on real recordings, written as ONNX and TFLite files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
_MAKE_S = 600.0
_SENSORS = ("AT", "AP", "AH", "AFDP", "GTEP", "TIT", "TAT", "TEY", "CDP")
_ADAM = 0.9, 0.999, 1e-8
_WINDOW, _HOP, _KERNEL, _STRIDE = 64, 8, 8, 4


@dataclass(frozen=True)
class Layer:
    """y = x W + b, with W of shape (in, out), and perhaps max(y, 0)."""

    weights: np.ndarray
    bias: np.ndarray
    is_rectified: bool = True


@dataclass(frozen=True)
class Network:
    """Dense layers, perhaps behind (x - offset) * gain, perhaps behind a convolution over time.

    The convolution's kernels have shape (outputs, kernel, channels).
    """

    layers: tuple[Layer, ...]
    offset: np.ndarray | None = None
    gain: np.ndarray | None = None
    kernels: np.ndarray | None = None


@dataclass(frozen=True)
class Task:
    """A trained network, and windows with truth in three parts that share no recording time."""

    network: Network
    calibration: np.ndarray
    search: tuple[np.ndarray, np.ndarray]
    confirm: tuple[np.ndarray, np.ndarray]


def train(
    inputs: np.ndarray,
    targets: np.ndarray,
    sizes: Sequence[int],
    *,
    epochs: int = 40,
    rate: float = 3e-3,
    rows: int = 128,
    is_classifier: bool = True,
) -> tuple[Layer, ...]:
    """Fit dense layers with Adam; cross-entropy for classes, squares for values."""
    draw = np.random.default_rng(1)
    shapes = list(zip([inputs.shape[1], *sizes], [*sizes, targets.shape[1]], strict=True))
    values = [draw.normal(0, np.sqrt(2 / one[0]), one).astype(np.float32) for one in shapes]
    values += [np.zeros(one[1], np.float32) for one in shapes]
    moments = [(np.zeros_like(one), np.zeros_like(one)) for one in values]
    step = 0
    for _ in range(epochs):
        for batch in np.array_split(draw.permutation(len(inputs)), max(1, len(inputs) // rows)):
            slopes = _slopes(values, inputs[batch], targets[batch], is_classifier)
            step += 1
            for value, slope, (first, second) in zip(values, slopes, moments, strict=True):
                first += (1 - _ADAM[0]) * (slope - first)
                second += (1 - _ADAM[1]) * (slope * slope - second)
                spread = np.sqrt(second / (1 - _ADAM[1] ** step)) + _ADAM[2]
                value -= rate * first / (1 - _ADAM[0] ** step) / spread
    count = len(shapes)
    return tuple(
        Layer(weights, bias, number < count - 1)
        for number, (weights, bias) in enumerate(zip(values[:count], values[count:], strict=True))
    )


def _slopes(
    values: Sequence[np.ndarray], inputs: np.ndarray, targets: np.ndarray, is_classifier: bool
) -> list[np.ndarray]:
    count = len(values) // 2
    passed = [inputs]
    for number in range(count):
        sums = passed[-1] @ values[number] + values[count + number]
        passed.append(np.maximum(sums, 0) if number < count - 1 else sums)
    answer = passed[-1]
    if is_classifier:
        answer = np.exp(answer - answer.max(1, keepdims=True))
        answer /= answer.sum(1, keepdims=True)
    error = (answer - targets) / len(inputs)
    of_weights: list[np.ndarray] = []
    of_biases: list[np.ndarray] = []
    for number in reversed(range(count)):
        of_weights.insert(0, passed[number].T @ error)
        of_biases.insert(0, error.sum(0))
        error = (error @ values[number].T) * (passed[number] > 0)
    return of_weights + of_biases


def unscaled(layers: Sequence[Layer], mean: np.ndarray, spread: np.ndarray) -> tuple[Layer, ...]:
    """Let an autoencoder of scaled values take and give them as they were."""
    first, *inner, last = layers
    weights = first.weights / spread[:, np.newaxis]
    first = Layer(weights.astype(np.float32), (first.bias - mean @ weights).astype(np.float32))
    bias = (last.bias * spread + mean).astype(np.float32)
    last = Layer((last.weights * spread).astype(np.float32), bias, is_rectified=False)
    return first, *inner, last


def outlying(network: Network, number: int, largest: float) -> Network:
    """Make hidden channels behind a layer up to ``largest`` times as large.

    What comes in is multiplied by as much as what goes out is divided by, so the
    network computes what it did before.
    """
    layers = list(network.layers)
    before, after = layers[number : number + 2]
    factor = np.geomspace(1, largest, before.weights.shape[1]).astype(np.float32)
    layers[number] = Layer(before.weights * factor, before.bias * factor)
    layers[number + 1] = replace(after, weights=after.weights / factor[:, np.newaxis])
    return replace(network, layers=tuple(layers))


def write_onnx(network: Network, shape: Sequence[int]) -> bytes:
    """Write a network as ONNX with a free batch axis."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, values: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    last = "x"
    if network.offset is not None:
        last = node("Sub", [last, constant("offset", network.offset)])
        last = node("Mul", [last, constant("gain", network.gain)])
    if network.kernels is not None:
        kernels = constant("kernels", network.kernels.transpose(0, 2, 1))
        last = node("Transpose", [last], perm=[0, 2, 1])
        last = node("Relu", [node("Conv", [last, kernels], strides=[_STRIDE])])
        last = node("Transpose", [last], perm=[0, 2, 1])
        last = node("Flatten", [last])
    for number, layer in enumerate(network.layers):
        names = [constant(f"w{number}", layer.weights), constant(f"b{number}", layer.bias)]
        last = node("Gemm", [last, *names])
        last = node("Relu", [last]) if layer.is_rectified else last
    nodes[-1].output[0] = "y"
    sizes = ["n", *shape], ["n", network.layers[-1].weights.shape[1]]
    ports = [
        helper.make_tensor_value_info(*one) for one in (("x", 1, sizes[0]), ("y", 1, sizes[1]))
    ]
    graph = helper.make_graph(nodes, "main", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def write_tflite(network: Network, shape: Sequence[int], builder: Any) -> bytes:
    """Write a network as TFLite for one window."""
    schema = builder.schema
    entry = last = builder.tensor("x", [1, *shape])
    size = list(shape)
    if network.offset is not None:
        for kind, values in (("SUB", network.offset), ("MUL", network.gain)):
            right = builder.tensor(f"{kind}_by", values.shape, values)
            result = builder.tensor(kind, [1, *size])
            builder.operator(
                kind, [last, right], [result], getattr(schema, f"{kind.title()}OptionsT")()
            )
            last = result
    if network.kernels is not None:
        last, size = _convolve(builder, network.kernels, last, size)
    for number, layer in enumerate(network.layers):
        last, size = _dense(builder, layer, number, last), [layer.weights.shape[1]]
    return bytes(builder.pack([entry], [last]))


def _convolve(
    builder: Any, kernels: np.ndarray, last: int, size: list[int]
) -> tuple[int, list[int]]:
    schema = builder.schema
    outputs, width, channels = kernels.shape
    steps = (size[0] - width) // _STRIDE + 1
    options = schema.ReshapeOptionsT()
    image = builder.tensor("image", [1, 1, *size])
    to = builder.tensor("to", [4], np.array([1, 1, *size], np.int32), type_name="INT32")
    builder.operator("RESHAPE", [last, to], [image], options)
    weights = builder.tensor(
        "kernels", [outputs, 1, width, channels], kernels[:, np.newaxis].copy()
    )
    bias = builder.tensor("none", [outputs], np.zeros(outputs, np.float32))
    found = builder.tensor("convolved", [1, 1, steps, outputs])
    options = schema.Conv2DOptionsT()
    options.padding, options.strideW, options.strideH = schema.Padding.VALID, _STRIDE, 1
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    builder.operator("CONV_2D", [image, weights, bias], [found], options)
    flat = builder.tensor("flat", [1, steps * outputs])
    to = builder.tensor("flat_to", [2], np.array([1, steps * outputs], np.int32), type_name="INT32")
    builder.operator("RESHAPE", [found, to], [flat], schema.ReshapeOptionsT())
    return flat, [steps * outputs]


def _dense(builder: Any, layer: Layer, number: int, last: int) -> int:
    schema = builder.schema
    weights = layer.weights.T.copy()
    names = [
        builder.tensor(f"w{number}", weights.shape, weights),
        builder.tensor(f"b{number}", layer.bias.shape, layer.bias),
    ]
    result = builder.tensor(f"dense_{number}", [1, len(layer.bias)])
    options = schema.FullyConnectedOptionsT()
    if layer.is_rectified:
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    builder.operator("FULLY_CONNECTED", [last, *names], [result], options)
    return int(result)


@pytest.fixture(scope="session")
def networks() -> SimpleNamespace:
    """Give what makes networks."""
    return SimpleNamespace(
        Layer=Layer, Network=Network, Task=Task, outlying=outlying, train=train, unscaled=unscaled
    )


@pytest.fixture(scope="session")
def mixed_units() -> Task:
    """Train a network on nine sensors in their own units: is more NOx made than usual?

    It takes °C, mbar, MW and % as they are, and scales them itself, as case A does.
    """
    rows = np.genfromtxt(
        EXAMPLES / "gas_turbine" / "gas_turbine_2011_2015.csv", delimiter=",", names=True
    )
    values = np.stack([rows[name] for name in _SENSORS], 1).astype(np.float32)[::4]
    truth = (rows["NOX"][::4] > np.median(rows["NOX"])).astype(int)
    offset, spread = values.mean(0), values.std(0)
    part = np.arange(len(values)) // 50 % 4
    scaled = (values - offset) / spread
    layers = train(
        scaled[part < 2], np.eye(2, dtype=np.float32)[truth[part < 2]], [64, 32], epochs=15
    )
    return Task(
        Network(layers, offset, (1 / spread).astype(np.float32)),
        values[part == 0][:256],
        (values[part == 2], truth[part == 2]),
        (values[part == 3], truth[part == 3]),
    )


@pytest.fixture(scope="session")
def fan() -> Task:
    """Train a network on vibration windows: which blades of the fan carry weights?"""
    with np.load(EXAMPLES / "fan_vibration" / "fan_vibration_test.npz") as file:
        is_fast = file["speed"] >= 60
        signals = file["milli_g"][is_fast].astype(np.float32) / 1000
        labels = file["label"][is_fast].astype(int)
    starts = np.arange(0, signals.shape[1] - _WINDOW + 1, _HOP)
    windows = np.stack([signals[:, one : one + _WINDOW] for one in starts], 1)
    part = np.select([starts < 400, starts < 620], [0, 1], 2)
    kernels = np.random.default_rng(3).normal(0, 0.3, (16, _KERNEL, 3)).astype(np.float32)
    kernels -= kernels.mean(1, keepdims=True)

    def cut(number: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = windows[:, part == number]
        truth = np.repeat(labels, chosen.shape[1])
        return chosen.reshape(-1, _WINDOW, 3), truth

    (inputs, truth), search, confirm = cut(0), cut(1), cut(2)
    layers = train(
        _convolved(inputs, kernels), np.eye(3, dtype=np.float32)[truth], [48, 24], epochs=15
    )
    return Task(Network(layers, kernels=kernels), inputs[::5], search, confirm)


def _convolved(windows: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    spans = np.lib.stride_tricks.sliding_window_view(windows, _KERNEL, 1)[:, ::_STRIDE]
    result = np.einsum("ntck,okc->nto", spans, kernels, optimize=True)
    return np.maximum(result, 0).reshape(len(windows), -1)


@pytest.fixture(scope="session")
def outliers(fan: Task) -> Task:
    """Give the fan's network with hidden channels of very different size, as in case B."""
    return replace(fan, network=outlying(fan.network, 0, 500))


@pytest.fixture(scope="session")
def onnx_quantiser() -> Callable[[Task], Any]:
    """Give what makes an ONNX quantiser of a task's network."""
    pytest.importorskip("onnx")
    from edge_converters.quantise.onnx import OnnxQuantiser

    return lambda task: OnnxQuantiser(write_onnx(task.network, task.calibration.shape[1:]))


@pytest.fixture(scope="session")
def tflite_quantiser(tflite_builder: Any) -> Callable[[Task], Any]:
    """Give what makes a TFLite quantiser of a task's network."""
    pytest.importorskip("litert_quantizer")
    from edge_converters.quantise.tflite import TFLiteQuantiser

    return lambda task: TFLiteQuantiser(
        write_tflite(task.network, task.calibration.shape[1:], tflite_builder())
    )


@pytest.fixture(scope="session", params=["onnx", "tflite"])
def quantiser_of(request: pytest.FixtureRequest) -> Any:
    """Give what makes a quantiser of a task's network, in each format."""
    return request.getfixturevalue(f"{request.param}_quantiser")


@pytest.fixture(scope="session")
def made_in() -> Callable[[str, str, Path], Path]:
    """Give what lets a worker's own interpreter write models into a folder."""
    return _made_in


def _made_in(name: str, script: str, folder: Path) -> Path:
    from edge_converters.workers.environments import environment

    worker = environment(name)
    if not worker.is_ready:
        pytest.skip(f"edge-runtime convert env sync {name} has not been run")
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [worker.python, "-P", "-c", script],
        cwd=folder,
        env=quiet,
        check=True,
        capture_output=True,
        timeout=_MAKE_S,
    )
    return folder
