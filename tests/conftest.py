"""What many tests share: writers of TFLite and ONNX files, and a backend that misbehaves."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import registry


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
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: Any = None,
        custom_code: str | None = None,
    ) -> None:
        code = self.schema.OperatorCodeT()
        number = getattr(self.schema.BuiltinOperator, name)
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        code.version, code.customCode = 1, custom_code
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
    def node(
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Sequence[bytes] = (),
    ) -> bytes:
        names = [_field(1, name) for name in inputs] + [_field(2, name) for name in outputs]
        return b"".join([*names, _field(4, operator), *(_field(5, one) for one in attributes)])

    @staticmethod
    def attribute(
        name: str, *, i: int | None = None, ints: Sequence[int] = (), graph: bytes | None = None
    ) -> bytes:
        if graph is not None:
            return _field(1, name) + _field(6, graph) + _field(20, 5)
        if i is not None:
            return _field(1, name) + _field(3, i) + _field(20, 2)
        return _field(1, name) + b"".join(_field(8, one) for one in ints) + _field(20, 7)

    @staticmethod
    def graph(
        nodes: Sequence[bytes],
        inputs: Sequence[bytes],
        outputs: Sequence[bytes],
        constants: Sequence[bytes] = (),
    ) -> bytes:
        return b"".join(
            [
                *(_field(1, node) for node in nodes),
                _field(2, "main"),
                *(_field(5, constant) for constant in constants),
                *(_field(11, value) for value in inputs),
                *(_field(12, value) for value in outputs),
            ]
        )

    @staticmethod
    def model(
        nodes: Sequence[bytes],
        inputs: Sequence[bytes],
        outputs: Sequence[bytes],
        constants: Sequence[bytes] = (),
        opset: int = 17,
    ) -> bytes:
        graph = Onnx.graph(nodes, inputs, outputs, constants)
        return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, opset))

    field = staticmethod(_field)


@pytest.fixture
def onnx() -> type[Onnx]:
    """Give the writer of ONNX messages."""
    pytest.importorskip("onnxruntime")
    return Onnx


PLUGIN = '''
import ctypes, json, os, sys, time
import numpy as np
from edge_runtime.errors import ModelError
from edge_runtime.types import TensorSpec

class Misbehaving:
    """A backend whose model file says how to go wrong, and after how many calls."""
    name = "misbehaving"

    def probe(self):
        return "1"

    def load(self, model, options):
        try:
            asked = json.loads(model)
            return Session(**asked)
        except (ValueError, TypeError) as error:
            raise ModelError(f"the model cannot be loaded: {error}") from error

class Session:
    """Answers the sum of its inputs; one that counts adds the sums before."""

    def __init__(self, do, after=0, size=2, once=None):
        self.asked = {"do": do, "after": after, "size": size, "once": once}
        self.do, self.after, self.once, self.calls, self.total = do, after, once, 0, 0.0
        self.inputs = (TensorSpec("x", (1, size), "float32"),)
        self.outputs = (TensorSpec("y", (1, 1), "float32"),)
        self.state_kind = "variables" if do.startswith("count") else "stateless"
        if do == "exit":
            sys.exit(7)
        if do == "tell":
            raise ModelError("told: " + " ".join(os.environ))
        if do == "hang_load":
            while True: pass

    def run(self, batch):
        if self.state_kind != "stateless" and len(batch) > 1:
            return np.concatenate([self.run(batch[i:i + 1]) for i in range(len(batch))])
        self.calls += 1
        answer = batch.sum(axis=1, keepdims=True)
        if self.do.startswith("count"):
            self.total += float(answer[0, 0])
            answer = answer * 0 + self.total
        if self.calls > self.after and not self.is_done():
            answer = self.misbehave(batch, answer)
        return answer.astype(np.float32)

    def is_done(self):
        """Whether a file says that it went wrong before: once is enough."""
        if self.once is None:
            return False
        if os.path.exists(self.once):
            return True
        open(self.once, "w").close()
        return False

    def misbehave(self, batch, answer):
        if self.do in ("crash", "count_crash"):
            ctypes.string_at(0)
        elif self.do == "abort":
            os.abort()
        elif self.do == "corrupt":
            libc = ctypes.CDLL(None)
            libc.malloc.restype = ctypes.c_void_p
            blocks = [libc.malloc(32) for _ in range(64)]
            for block in blocks:
                ctypes.memset(ctypes.c_void_p(block), 0x41, 4096)
            for block in blocks:
                libc.free(ctypes.c_void_p(block))
        elif self.do == "hang":
            while True: pass
        elif self.do == "fail":
            raise ModelError("the model failed: it was told to")
        elif self.do == "nan":
            return answer * np.nan
        elif self.do == "memory":
            return answer + np.ones(2**30 // 8 * 4).sum() * 0
        elif self.do == "stateful":
            return answer + self.calls
        elif self.do == "batchy":
            return answer + (len(batch) > 1)
        elif self.do == "flood":
            os.write(1, b"x" * 2**20)
        elif self.do == "files":
            self.kept = [open("/dev/null") for _ in range(200)]
        return answer

    def reset(self):
        self.total = 0.0

    def fork(self):
        return Session(**self.asked)

    def state(self):
        return np.float64(self.total).tobytes() if self.state_kind == "variables" else b""

    def restore(self, state):
        if state:
            self.total = float(np.frombuffer(state)[0])

    def close(self):
        if self.do == "die_late":
            import atexit
            atexit.register(ctypes.string_at, 0)
'''


@pytest.fixture
def misbehaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install a backend for child processes; return its name."""
    site = tmp_path / "site"
    facts = site / "misbehaving-1.dist-info"
    facts.mkdir(parents=True)
    (site / "misbehaving.py").write_text(PLUGIN)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: misbehaving\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(
        "[edge_runtime.backends]\nmisbehaving = misbehaving:Misbehaving\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return "misbehaving"


@pytest.fixture
def misbehaving_here(misbehaving: str) -> Iterator[str]:
    """Install that backend for this process too; return its name."""
    registry._entries.cache_clear()
    yield misbehaving
    registry._entries.cache_clear()
