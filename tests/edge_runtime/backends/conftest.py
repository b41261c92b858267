"""Tiny models made on the spot: TFLite through its schema, ONNX by hand."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest


class TFLiteBuilder:
    """Collects tensors and operators and packs them into a ``.tflite`` file."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self._buffers = [schema.BufferT()]
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: list[Any] = []

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        values: np.ndarray | None = None,
        *,
        is_variable: bool = False,
        is_free: bool = False,
        type_name: str = "FLOAT32",
    ) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.isVariable = name, list(shape), is_variable
        tensor.type = getattr(self.schema.TensorType, type_name)
        if is_free:
            tensor.shapeSignature = [-1, *shape[1:]]
        tensor.buffer = self._buffer(values)
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def operator(
        self, name: str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None
    ) -> None:
        code = self.schema.OperatorCodeT()
        number = getattr(self.schema.BuiltinOperator, name)
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        code.version = 1
        self._codes.append(code)
        operator = self.schema.OperatorT()
        operator.opcodeIndex = len(self._codes) - 1
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, kind)
            operator.builtinOptions = options
        self._operators.append(operator)

    def pack(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        import flatbuffers

        graph = self.schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = "main", self._tensors, self._operators
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        model = self.schema.ModelT()
        model.version, model.description = 3, ""
        model.subgraphs, model.buffers, model.operatorCodes = [graph], self._buffers, self._codes
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _buffer(self, values: np.ndarray | None) -> int:
        if values is None:
            return 0
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._buffers.append(buffer)
        return len(self._buffers) - 1


@pytest.fixture
def tflite_builder() -> Callable[[], TFLiteBuilder]:
    """Give the class that packs TFLite files."""
    pytest.importorskip("ai_edge_litert")
    return TFLiteBuilder


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _field(number: int, value: int | float | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


class Onnx:
    """Writes the few ONNX messages the tests need, as ``onnx.proto3`` numbers them."""

    FLOAT, UINT8, INT8, STRING = 1, 2, 3, 8

    @staticmethod
    def value(name: str, shape: Sequence[int | str], element: int = 1) -> bytes:
        dims = b"".join(
            _field(1, _field(2, size) if isinstance(size, str) else _field(1, size))
            for size in shape
        )
        tensor = _field(1, element) + _field(2, dims)
        return _field(1, name) + _field(2, _field(1, tensor))

    @staticmethod
    def constant(name: str, values: np.ndarray, element: int = 1, extra: bytes = b"") -> bytes:
        dims = b"".join(_field(1, size) for size in values.shape)
        return dims + _field(2, element) + _field(8, name) + _field(9, values.tobytes()) + extra

    @staticmethod
    def node(operator: str, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
        names = [_field(1, name) for name in inputs] + [_field(2, name) for name in outputs]
        return b"".join(names) + _field(4, operator)

    @staticmethod
    def model(
        nodes: Sequence[bytes],
        inputs: Sequence[bytes],
        outputs: Sequence[bytes],
        constants: Sequence[bytes] = (),
        opset: int = 17,
    ) -> bytes:
        graph = b"".join(
            [
                *(_field(1, node) for node in nodes),
                _field(2, "main"),
                *(_field(5, constant) for constant in constants),
                *(_field(11, value) for value in inputs),
                *(_field(12, value) for value in outputs),
            ]
        )
        return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, opset))

    field = staticmethod(_field)


@pytest.fixture
def onnx() -> type[Onnx]:
    """Give the writer of ONNX messages."""
    pytest.importorskip("onnxruntime")
    return Onnx


@pytest.fixture
def probe_onnx(onnx: type[Onnx]) -> bytes:
    """Make y = 2 x_0 - x_1 + 0.5, the model that stands in the package."""
    return onnx.model(
        [onnx.node("Gemm", ["x", "w", "b"], ["y"])],
        [onnx.value("x", ["n", 2])],
        [onnx.value("y", ["n", 1])],
        [
            onnx.constant("w", np.array([[2], [-1]], np.float32)),
            onnx.constant("b", np.array([0.5], np.float32)),
        ],
    )


@pytest.fixture
def probe_tflite(tflite_builder: Callable[[], TFLiteBuilder]) -> bytes:
    """Make y = 2 x_0 - x_1 + 0.5, the model that stands in the package."""
    builder = tflite_builder()
    x = builder.tensor("x", [1, 2], is_free=True)
    w = builder.tensor("w", [1, 2], np.array([[2, -1]], np.float32))
    b = builder.tensor("b", [1], np.array([0.5], np.float32))
    y = builder.tensor("y", [1, 1], is_free=True)
    builder.operator("FULLY_CONNECTED", [x, w, b], [y], builder.schema.FullyConnectedOptionsT())
    return builder.pack([x], [y])


@pytest.fixture
def accumulator(tflite_builder: Callable[[], TFLiteBuilder]) -> bytes:
    """Make a filter over the last three steps whose memory is a variable tensor."""
    builder = tflite_builder()
    x = builder.tensor("x", [1, 2])
    feature = builder.tensor("feature", [1, 2], np.array([[1, 0.5]], np.float32))
    time = builder.tensor("time", [1, 3], np.array([[0.25, 0.5, 1]], np.float32))
    bias = builder.tensor("bias", [1], np.array([0.125], np.float32))
    state = builder.tensor("state", [1, 3], is_variable=True)
    y = builder.tensor("y", [1, 1])
    options = builder.schema.SVDFOptionsT()
    options.rank = 1
    builder.operator("SVDF", [x, feature, time, bias, state], [y], options)
    return builder.pack([x], [y])


@pytest.fixture(scope="session")
def lstm() -> Callable[[np.random.Generator, int, int], tuple[bytes, Lstm]]:
    """Give what makes an LSTM as a TFLite file, and the same in numpy."""
    pytest.importorskip("ai_edge_litert")

    def make(random: np.random.Generator, inputs: int, cells: int) -> tuple[bytes, Lstm]:
        numbers = Lstm(random, inputs, cells)
        return numbers.pack(), numbers

    return make


class Lstm:
    """One LSTM layer, one step a call; its memory is two variable tensors of the file.

    Source: Hochreiter and Schmidhuber 1997, with forget gate: gates i, f, g, o.
    """

    def __init__(self, random: np.random.Generator, inputs: int, cells: int) -> None:
        self._inputs, self._cells = inputs, cells
        self._w = random.normal(0, 0.5, (4, cells, inputs)).astype(np.float32)
        self._r = random.normal(0, 0.5, (4, cells, cells)).astype(np.float32)
        self._b = random.normal(0, 0.5, (4, cells)).astype(np.float32)
        self.reset()

    def reset(self) -> None:
        self._h, self._c = np.zeros((2, self._cells), np.float32)

    def step(self, x: np.ndarray) -> np.ndarray:
        i, f, g, o = self._w @ x + self._r @ self._h + self._b
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        self._c = f * self._c + i * np.tanh(g)
        self._h = o * np.tanh(self._c)
        return self._h

    def pack(self) -> bytes:
        builder = TFLiteBuilder()
        x = builder.tensor("x", [1, 1, self._inputs])
        gates = "ifgo"
        w = [builder.tensor(f"w{n}", m.shape, m) for n, m in zip(gates, self._w, strict=True)]
        r = [builder.tensor(f"r{n}", m.shape, m) for n, m in zip(gates, self._r, strict=True)]
        b = [builder.tensor(f"b{n}", m.shape, m) for n, m in zip(gates, self._b, strict=True)]
        h, c = (builder.tensor(n, [1, self._cells], is_variable=True) for n in "hc")
        y = builder.tensor("y", [1, 1, self._cells])
        options = builder.schema.UnidirectionalSequenceLSTMOptionsT()
        options.fusedActivationFunction = builder.schema.ActivationFunctionType.TANH
        absent = -1
        inputs = [x, *w, *r, *3 * [absent], *b, absent, absent, h, c, *4 * [absent]]
        builder.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [y], options)
        return builder.pack([x], [y])
