"""What many tests share: writers of TFLite and ONNX files, odd backends, a cascade."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from edge_cloud.signing import SigningKey, sign_base
from edge_runtime import open_pipeline, registry
from edge_runtime.bundle import (
    Bundle,
    Golden,
    load_bundle,
    pack,
    save_bundle,
    write_arrays,
    write_golden,
)
from edge_runtime.clock import SystemClock
from edge_runtime.config import load_device
from edge_runtime.spec import (
    ArtefactSpec,
    AskNext,
    ChannelSpec,
    GridSpec,
    Limit,
    ModelSpec,
    OutputSpec,
    StageSpec,
    Statistics,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.sync.frames import decode_table
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.state import StateStore
from edge_runtime.update.proof import golden_windows
from edge_runtime.update.slots import Record

# A run gives the same answer everywhere: the examples are drawn alike each time, and how fast
# the machine is decides nothing. `--hypothesis-profile explore` draws new ones.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("explore"), derandomize=True)
settings.load_profile("repeatable")


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


@pytest.fixture(scope="session")
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
import ctypes, json, os, sys, threading
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
        self.told = threading.Event()
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
        elif self.do == "count_scribble":
            import gc
            for memory in [one for one in gc.get_objects() if type(one).__name__ == "Memory"]:
                memory.source[...], memory.target[...], memory.state[...] = 7, 7, 255
            os.abort()
        elif self.do == "hang":
            while True: pass
        elif self.do == "wait":
            self.told.wait(60)
            raise ModelError("the model failed: it was interrupted")
        elif self.do in ("fail", "count_fail"):
            raise ModelError("the model failed: it was told to")
        elif self.do == "wide":
            return np.concatenate([answer, answer], axis=1)
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

    def interrupt(self):
        self.told.set()

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


LENGTH = 5


class OddDevice:
    """A device on a recording whose stream ``odd`` has a model that goes wrong as told.

    ``calm`` is a second stream of the same recording with a model that does not.
    """

    def __init__(self, folder: Path, *, rows: int = 400) -> None:
        self.folder, self.rows = folder, rows
        self.samples = np.random.default_rng(7).normal(0, 1, (rows, 2)).round(3)
        lines = [f"{i},{a},{b}" for i, (a, b) in enumerate(self.samples.tolist())]
        (folder / "recording.csv").write_text("\n".join(["t,a,b", *lines, ""]))
        self.key = SigningKey.generate()
        (folder / "release.pub").write_text(self.key.public.hex())
        self.yaml = folder / "device.yaml"
        self.windows = rows - LENGTH + 1

    def base(self, version: str, **model: object) -> Bundle:
        """Make a bundle that sums a window, with a model that misbehaves as told."""
        spec = ModelSpec(
            name="sum",
            version=version,
            kind="regressor",
            stream=StreamSpec((ChannelSpec("a"), ChannelSpec("b")), rate_hz=1.0),
            window=WindowSpec(length=LENGTH, hop=1),
            artefacts=(ArtefactSpec("misbehaving", "model.json", "float32"),),
            labels=("total",),
            tolerance=1e-4,
        )
        inputs = self.samples[: 4 * LENGTH].reshape(4, LENGTH, 2)
        golden = Golden(inputs, inputs.sum(axis=(1, 2), keepdims=True)[:, :, 0])
        contents = {
            "model.json": json.dumps({"size": 2 * LENGTH, **model}).encode(),
            "golden.npz": write_golden(golden),
        }
        return save_bundle(self.folder / f"sum-{version}", spec, contents)

    def declare(self, odd: str = "", *, extra: str = "", source: str = "") -> Path:
        """Write the YAML; ``odd`` are options of the odd stream's model."""
        streams = [
            f"""\
  {name}:
    source: {{kind: csv, path: recording.csv, block: 8,
             time: {{column: t, format: unix_s}}{source}}}
    model: {{bundle: {bundle}, backend: misbehaving{options}}}
    upload: windows
"""
            for name, bundle, options in [("odd", "sum-1", odd), ("calm", "sum-calm", "")]
        ]
        self.base("calm", do="ok")
        self.yaml.write_text(
            "device: bench-1\nstate: state\noutbox: {commit_s: 0.001}\n"
            "sync: {host: 127.0.0.1, port: 9}\n"
            f"trust: {{release_keys: [release.pub]}}\nstreams:\n{''.join(streams)}{extra}\n"
        )
        return self.yaml

    def commit(self, bundle: Bundle) -> None:
        """Make a base active in stream ``odd`` as an update would, over its factory base."""
        factory = load_bundle(self.folder / "sum-1").digest
        slots = self.folder / "state/slots/odd"
        slots.mkdir(parents=True)
        (slots / f"{bundle.digest}.zip").write_bytes(pack(bundle))
        signed = sign_base(self.key, bundle, [self.key.public], 2)
        record = Record(
            factory=factory,
            active=bundle.digest,
            previous=factory,
            statements={bundle.digest: signed},
        )
        with closing(StateStore(self.folder / "state/state.db", SystemClock())) as state:
            state.set("update/odd", record)

    def record(self) -> Record:
        """Return what the odd stream remembers of its bases."""
        with closing(StateStore(self.folder / "state/state.db", SystemClock())) as state:
            record = state.get("update/odd", Record)
        assert record is not None
        return record

    def kept(self, stream: str) -> list[int]:
        """Return the index of every window in the outbox, sorted, as often as it is there."""
        config = load_device(self.yaml)
        outbox = Outbox.open(
            config.state / "outbox.db",
            epoch=10**6,
            incarnation=1,
            config=config.outbox,
            clock=SystemClock(),
        )
        with closing(outbox):
            blocks = outbox.pending(limit_bytes=10**9)
        tables = [
            decode_table(block.body).columns
            for block in blocks
            if (block.stream, block.kind) == (stream, "estimate")
        ]
        return sorted(index for table in tables for index in table["index"].tolist())

    @property
    def all_windows(self) -> list[int]:
        return list(range(LENGTH - 1, self.rows))


@pytest.fixture
def odd_device(tmp_path: Path, misbehaving: str) -> OddDevice:
    """A device whose model goes wrong as told; nothing is declared yet."""
    return OddDevice(tmp_path)


GATE = StageSpec(
    "gate",
    AskNext(0.8, label="level"),
    labels=("level", "other"),
    features=(Statistics(("rms",)),),
    idle=(1.0, 0.0),
)
SMALL = StageSpec(
    "small",
    AskNext(below=0.75),
    artefacts=(ArtefactSpec("reference", "small.npz", "float32"),),
    features=(Statistics(("mean", "std")),),
    output=OutputSpec(activation="softmax"),
)


def network(inputs: int, seed: int) -> bytes:
    """Draw a dense network with two answers."""
    random = np.random.default_rng(seed)
    return write_arrays(
        {
            "w0": random.normal(size=(inputs, 2)).astype(np.float32),
            "b0": random.normal(size=2).astype(np.float32),
        }
    )


SaveProven = Callable[[Path, ModelSpec, dict[str, bytes], np.ndarray], Path]


@pytest.fixture
def save_proven() -> SaveProven:
    """Write a bundle whose golden answers to these windows are its own."""

    def save(folder: Path, spec: ModelSpec, files: dict[str, bytes], inputs: np.ndarray) -> Path:
        nothing = write_golden(Golden(inputs, np.zeros((len(inputs), len(spec.labels)))))
        bundle = save_bundle(folder, spec, {**files, spec.golden: nothing})
        answers = open_pipeline(bundle).score_windows(golden_windows(inputs)).score
        golden = write_golden(Golden(inputs, answers))
        save_bundle(folder, spec, {**files, spec.golden: golden})
        return folder

    return save


@pytest.fixture
def cascade_bundle(tmp_path: Path, save_proven: SaveProven) -> Callable[..., Path]:
    """Write a bundle with a gate, a small model and a large one, and its golden vectors."""

    def write(name: str = "pump", *, has_grid: bool = False, **more: object) -> Path:
        channels = (ChannelSpec("a"), ChannelSpec("b"))
        fields: dict[str, object] = {
            "name": name,
            "version": "1",
            "kind": "classifier",
            "stream": StreamSpec(channels, 1.0, grid=GridSpec() if has_grid else None),
            "window": WindowSpec(5, 1),
            "artefacts": (ArtefactSpec("reference", "large.npz", "float32"),),
            "labels": ("ok", "worn"),
            "output": OutputSpec(activation="softmax"),
            "link": "log_odds",
            "limits": (Limit("worn", 0.8, 0.5),),
            "cascade": (GATE, SMALL),
        }
        spec = ModelSpec(**(fields | more))  # type: ignore[arg-type]
        inputs = np.random.default_rng(3).normal(size=(64, 5, 2)).round(3)
        files = {"large.npz": network(10, 1), "small.npz": network(4, 2)}
        return save_proven(tmp_path / name, spec, files, inputs)

    return write
