"""ONNX Runtime, for ``.onnx`` files.

Its defaults suit servers: a pool that spins between calls takes a whole core
for a small model at 50 Hz. Here: threads as asked for, no spinning, no arena.
"""

from __future__ import annotations

import functools
import logging
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_runtime.backends.accelerators import open_onnx
from edge_runtime.backends.blocks import BLOCK_ROWS, Answer, RowsAtOnce, in_blocks, no_rows
from edge_runtime.backends.faults import (
    cannot_load,
    cannot_run,
    check_batch,
    check_tensor,
    closed,
    does_not_work,
    import_runtime,
    only_one_input,
    open_axes,
)
from edge_runtime.backends.onnx_constants import with_constants
from edge_runtime.backends.onnx_graph import OnnxGraph, Quantisation, read_graph
from edge_runtime.backends.onnx_state import Carried
from edge_runtime.backends.onnx_zero_points import unshared
from edge_runtime.errors import EdgeError, ModelError
from edge_runtime.ports import SessionOptions
from edge_runtime.spec import StateSpec
from edge_runtime.types import StateKind, TensorSpec

__all__ = ["OnnxModel", "OnnxRuntime", "OnnxSession"]

log = logging.getLogger(__name__)

_PACKAGE = "onnxruntime"
_SHARED = "replace the existing tensor"
_SILENT = 4  # only fatal errors reach stderr; the others are exceptions as well

_DTYPES = {
    "bool": "bool",
    "double": "float64",
    "float": "float32",
    "float16": "float16",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "int8": "int8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "uint8": "uint8",
}


class OnnxRuntime:
    """Runs ``.onnx`` models with onnxruntime, on the CPU or an execution provider."""

    name = "onnx"

    def probe(self) -> str:
        """Run a tiny model, once per process, and return the version.

        Raises:
            MissingExtra: onnxruntime is not installed.
            ModelError: It is installed but does not work here.
        """
        return _probe()

    def load(self, model: bytes, options: SessionOptions) -> OnnxSession:
        """Open a model from verified bytes.

        Raises:
            MissingExtra: onnxruntime is not installed.
            ModelError: It does not work here, or the bytes are no model it can run.
        """
        self.probe()
        return OnnxSession(OnnxModel(model, options))


class OnnxModel:
    """One loaded ONNX model: what all its sessions share.

    Args:
        model: A complete ``.onnx`` file.
        options: Threads inside one call, and what the model's other inputs are.

    Attributes:
        session: The runtime's own session; it may be used from several threads.
        inputs: The input tensor.
        outputs: All output tensors but those of state; the first is the answer.
        carried: Shape and dtype of every other input, by name.
        state: How these are filled; constants that became part of the graph are left out.
        rows: Rows that one call may answer.
        is_on_cpu: Whether arrays of this process are where the model runs.

    Raises:
        ModelError: The bytes are no model onnxruntime can run.
    """

    def __init__(self, model: bytes, options: SessionOptions) -> None:
        self.is_on_cpu = options.accelerator is None
        try:
            graph = read_graph(model)
            self.session: Any
            self.session, self.state = _open_settled(model, graph, options)
            entry, others = self._split(self.session.get_inputs())
            self.inputs = (_input(entry, graph, options.shape),)
            self.carried = {one.name: (_with_ones(one.shape), _dtype(one)) for one in others}
            self.outputs = self._outputs(graph)
        except EdgeError:
            raise
        except Exception as error:
            raise cannot_load(OnnxRuntime.name, "ONNX", error) from error
        is_free = not others and not isinstance(self.session.get_inputs()[0].shape[0], int)
        can_be_alike = not graph.scales_rows_together and (
            self.is_on_cpu or not graph.has_computed_product
        )
        self.rows = RowsAtOnce(BLOCK_ROWS if is_free and can_be_alike else 1)
        # Where only a look at what ONNX Runtime makes of the file can tell.
        is_open = self.rows.most > 1 and graph.has_computed_product
        self._unsettled = (model, options) if is_open else None

    @property
    def state_kind(self) -> StateKind:
        """Whether the model carries state from call to call."""
        return "explicit" if self.state.tensors else "stateless"

    def prove_rows(self, count: int, together: Answer, each: Answer) -> None:
        """Find out whether ``count`` rows at once answer like each alone; see `RowsAtOnce`.

        Wide integers are indices more often than values, and are not drawn: what the
        graph says has to do for them.
        """
        unsettled = self._unsettled
        if unsettled is not None:
            if not _has_integer_products(*unsettled):
                self.rows.most = 1
            self._unsettled = None
        dtype = np.dtype(self.inputs[0].dtype)
        is_drawable = dtype.kind == "f" or (dtype.kind in "iu" and dtype.itemsize <= 2)
        if is_drawable and count <= self.rows.most:
            self.rows.prove(self.inputs[0], count, together, each)

    def _split(self, entries: Sequence[Any]) -> tuple[Any, list[Any]]:
        """Part the window's input from those that state and constants fill."""
        filled = {one.input for one in self.state.tensors} | self.state.constants.keys()
        found = {entry.name for entry in entries}
        if not filled <= found:
            raise ValueError(f"it has no input {', '.join(sorted(filled - found))}")
        rest = [entry for entry in entries if entry.name not in filled]
        if len(rest) != 1:
            raise only_one_input(OnnxRuntime.name, [entry.name for entry in rest])
        return rest[0], [entry for entry in entries if entry.name in filled]

    def _outputs(self, graph: OnnxGraph) -> tuple[TensorSpec, ...]:
        of_state = {one.output for one in self.state.tensors}
        entries = [entry for entry in self.session.get_outputs() if entry.name not in of_state]
        shapes: list[Sequence[Any]] = [entry.shape for entry in entries]
        if not all(isinstance(size, int) for shape in shapes for size in shape[1:]):
            shapes = self._answered_shapes([entry.name for entry in entries])
        tensors = tuple(
            _tensor(entry, shape, graph.output_quantisation(entry.name))
            for entry, shape in zip(entries, shapes, strict=True)
        )
        check_tensor(OnnxRuntime.name, tensors[0])
        return tensors

    def _answered_shapes(self, names: list[str]) -> list[Sequence[Any]]:
        """Learn shapes that the file leaves open from the answer to a row of zeros."""
        feed = {self.inputs[0].name: np.zeros(self.inputs[0].shape, self.inputs[0].dtype)}
        feed |= {name: np.zeros(*kind) for name, kind in self.carried.items()}
        feed |= {
            name: np.full(self.carried[name][0], value, self.carried[name][1])
            for name, value in self.state.constants.items()
        }
        return [np.shape(answer) for answer in self.session.run(names, feed)]


class OnnxSession:
    """One loaded ONNX model and the state of one stream; a `Session` for one worker.

    A batch is computed at once where the model's batch axis is free, every matrix
    product rounds alike for one row and for many, and so many rows have proved to
    answer as each does alone; else row by row. Both give the same bytes.

    Args:
        model: The loaded model.

    Attributes:
        inputs: The input tensor.
        outputs: All output tensors but those of state; ``run`` returns the first.
        state_kind: ``explicit`` if some tensors carry state.
    """

    def __init__(self, model: OnnxModel) -> None:
        self._model = model
        self._session: Any = model.session
        self.inputs, self.outputs = model.inputs, model.outputs
        self.state_kind = model.state_kind
        self._row = self.inputs[0].shape
        self._dtype = np.dtype(self.inputs[0].dtype)
        self._carried = Carried(OnnxRuntime.name, model.carried, model.state)
        self._has_state = self.state_kind == "explicit"
        self._names = [self.outputs[0].name, *self._carried.outputs]
        self._options: Any = _run_options()
        self._binding: Any = None
        self._bind()

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Answer ``batch``, shape (n, …), in the dtype of the input tensor.

        Returns:
            The first output, shape (n, …). The array belongs to the caller.

        Raises:
            ShapeError: Shape or dtype is not the model's.
            ModelError: The runtime failed, or `interrupt` was called.
        """
        if batch.shape != self._row or batch.dtype != self._dtype or self._binding is None:
            return self._run_other(batch)
        self._bound_input[...] = batch
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:
            raise self._failed(error) from error
        if self._has_state:
            self._carried.advance()
        return self._bound_output.copy()

    def interrupt(self) -> None:
        """Make the run in progress, or the next one, fail; callable from any thread."""
        self._options.terminate = True

    def reset(self) -> None:
        """Forget state kept between calls.

        Raises:
            ModelError: The session is closed.
        """
        self._check_open()
        self._carried.reset()

    def fork(self) -> OnnxSession:
        """Return a session with state of its own; the loaded model is shared."""
        self._check_open()
        return OnnxSession(self._model) if self._has_state else self

    def state(self) -> bytes:
        """Return the tensors that carry state.

        Raises:
            ModelError: The session is closed.
        """
        self._check_open()
        return self._carried.pack()

    def restore(self, state: bytes) -> None:
        """Go on from `state`'s bytes.

        Raises:
            ModelError: They are not this model's state, or the session is closed.
        """
        self._check_open()
        self._carried.unpack(state)

    def close(self) -> None:
        """Free the model; later calls raise `ModelError`."""
        self._session = self._binding = None

    def _check_open(self) -> None:
        if self._session is None:
            raise closed(OnnxRuntime.name)

    def _bind(self) -> None:
        """Tie the arrays of a single row to the model once: 2 to 4 µs less per call.

        An accelerator with memory of its own would take what they hold now, and
        answer that for ever.
        """
        if not self._model.is_on_cpu:
            return
        source, target = self.inputs[0], self.outputs[0]
        self._bound_input = np.zeros(source.shape, source.dtype)
        self._bound_output = np.zeros(target.shape, target.dtype)
        self._binding = self._session.io_binding()
        self._binding.bind_input(source.name, "cpu", 0, *_memory(self._bound_input))
        self._binding.bind_output(target.name, "cpu", 0, *_memory(self._bound_output))
        self._carried.bind(self._binding)

    def _run_other(self, batch: np.ndarray) -> np.ndarray:
        """Answer a batch of any length but one, or any at all on an accelerator."""
        self._check_open()
        check_batch(OnnxRuntime.name, batch, self.inputs[0])
        if not len(batch):
            return no_rows(self.outputs[0])
        rows, count = self._model.rows, min(len(batch), self._model.rows.most)
        # An accelerator answers a few bits apart, whatever it is asked.
        if self._model.is_on_cpu and not rows.is_proven(count):
            self._model.prove_rows(count, self._run_block, self._run_each)
        if len(batch) > rows.most:
            return in_blocks(self.run, batch, rows.most)
        return self._run_block(batch)

    def _run_each(self, rows: np.ndarray) -> np.ndarray:
        return np.concatenate([self.run(rows[row : row + 1]) for row in range(len(rows))])

    def _run_block(self, batch: np.ndarray) -> np.ndarray:
        if len(batch) == 1 and self._binding is not None:
            return self.run(batch)
        feed = {self.inputs[0].name: batch, **self._carried.feed()}
        try:
            answer, *after = self._session.run(self._names, feed, self._options)
        except Exception as error:
            raise self._failed(error) from error
        if self._has_state:
            self._carried.take(after)
        if len(answer) != len(batch):
            raise cannot_run(OnnxRuntime.name, f"{len(batch)} rows gave {len(answer)} answers")
        return np.asarray(answer)

    def _failed(self, error: Exception) -> ModelError:
        if self._options.terminate:
            self._options = _run_options()
        return cannot_run(OnnxRuntime.name, error)


@functools.cache
def _probe() -> str:
    """Run y = 2 x_0 - x_1 + 0.5 on (3, 4)."""
    runtime = import_runtime(OnnxRuntime.name, _PACKAGE, _PACKAGE, "onnx")
    model = Path(__file__).with_name("probe.onnx").read_bytes()
    try:
        session = OnnxSession(OnnxModel(model, SessionOptions()))
        answer = session.run(np.array([[3, 4]], np.float32)).tolist()
    except Exception as error:
        raise does_not_work(OnnxRuntime.name, _PACKAGE, error) from error
    if answer != [[2.5]]:
        what = f"the test model answered {answer} instead of [[2.5]]"
        raise does_not_work(OnnxRuntime.name, _PACKAGE, what)
    return str(runtime.__version__)


def _open_settled(model: bytes, graph: OnnxGraph, options: SessionOptions) -> tuple[Any, StateSpec]:
    """Open a model with its constant inputs computed into it, where ONNX Runtime can.

    It then leaves out the branches they never take: the same bytes in 0.8 of the time
    for a voice detector that asks for its sample rate. State keeps its free axes:
    ONNX Runtime 1.32 crashes where a known shape decides branches within branches.
    """
    state = options.state
    if not state.constants or not state.constants.keys() <= {port.name for port in graph.inputs}:
        return _open(model, options), state
    filled = {one.input for one in state.tensors} | state.constants.keys()
    windows = [port for port in graph.inputs if port.name not in filled]
    try:
        shapes = {port.name: _with_ones(_filled(port, options.shape)) for port in windows}
        settled = with_constants(model, state.constants, shapes)
        return _open(settled, options), msgspec.structs.replace(state, constants={})
    except Exception as error:  # what is wrong with the file itself is told below
        log.info("onnx.constants_stay_inputs", extra={"reason": str(error)})
        return _open(model, options), state


def _open(model: bytes, options: SessionOptions, optimised: Path | None = None) -> Any:
    """Return an ``InferenceSession`` whose 8-bit sums are exact, where ONNX Runtime can.

    On x86 without VNNI its quick sums of two products saturate, and answers are wrong.
    Its exact ones cannot take a model in which operators share a zero point: each gets
    one of its own first, because a session that fails costs as much as one that opens.

    Args:
        model: A complete ``.onnx`` file.
        options: As in `OnnxModel`.
        optimised: Where to write what it makes of the file.
    """
    runtime = import_runtime(OnnxRuntime.name, _PACKAGE, _PACKAGE, "onnx")
    settings = _settings(runtime, options, optimised)
    settings.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return open_onnx(runtime, _apart(model), settings, options)
    except Exception as error:
        if _SHARED not in str(error):
            raise
    log.info("onnx.sums_may_saturate", extra={"reason": "operators share constants"})
    return open_onnx(runtime, model, _settings(runtime, options, optimised), options)


def _apart(model: bytes) -> bytes:
    """Return the model without shared zero points; one that has none may be large."""
    return unshared(model) if b"DequantizeLinear" in model else model


def _settings(runtime: Any, options: SessionOptions, optimised: Path | None) -> Any:
    settings = runtime.SessionOptions()
    if optimised is not None:
        settings.optimized_model_filepath = str(optimised)
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    settings.enable_cpu_mem_arena = False
    settings.enable_mem_pattern = False
    settings.log_severity_level = _SILENT
    return settings


def _input(entry: Any, graph: OnnxGraph, features: tuple[int, ...] | None) -> TensorSpec:
    shape = _filled(entry, features)
    tensor = _tensor(entry, shape, graph.input_quantisation(entry.name))
    check_tensor(OnnxRuntime.name, tensor)
    return tensor


def _filled(entry: Any, features: tuple[int, ...] | None) -> Sequence[Any]:
    """Return the input's shape; one free axis besides the first takes what is left over."""
    shape = entry.shape
    free = [axis for axis, size in enumerate(shape) if axis > 0 and not isinstance(size, int)]
    if not free:
        return list(shape)
    known = math.prod(size for size in shape[1:] if isinstance(size, int))
    size = math.prod(features or ())
    if features is None or len(free) > 1 or size % known:
        raise open_axes(OnnxRuntime.name, entry.name, shape)
    return [size // known if axis in free else one for axis, one in enumerate(shape)]


def _with_ones(shape: Sequence[Any]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else 1 for size in shape)


def _run_options() -> Any:
    options = import_runtime(OnnxRuntime.name, _PACKAGE, _PACKAGE, "onnx").RunOptions()
    # Its default. Where it is not set the runtime's Python part looks for it at every
    # run and catches the exception: 55 µs.
    options.add_run_config_entry("gpu_graph_id", "0")
    return options


def _tensor(
    entry: Any, shape: Sequence[int | str | None], quantisation: Quantisation | None
) -> TensorSpec:
    sizes = [size for size in shape[1:] if isinstance(size, int)]
    first = [size if isinstance(size, int) else 1 for size in shape[:1]]
    return TensorSpec(
        name=entry.name,
        shape=(*first, *sizes),
        dtype=_dtype(entry),
        scale=None if quantisation is None else quantisation.scale,
        zero_point=None if quantisation is None else quantisation.zero_point,
    )


def _dtype(entry: Any) -> str:
    element = entry.type.removeprefix("tensor(").removesuffix(")")
    if element not in _DTYPES:
        raise ValueError(f"{entry.name!r} holds {entry.type}, which is no tensor of numbers")
    return _DTYPES[element]


def _has_integer_products(model: bytes, options: SessionOptions) -> bool:
    """Whether ONNX Runtime multiplies all dequantised weights as integers here.

    Their sums are exact in any order. It is seen in the graph that it makes of the file.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimised.onnx"
            _open(model, options, path)
            return not read_graph(path.read_bytes()).has_computed_product
    except Exception as error:
        log.info("onnx.rows_one_by_one", extra={"reason": str(error)})
        return False


def _memory(array: np.ndarray) -> tuple[np.dtype, tuple[int, ...], int]:
    return array.dtype, array.shape, array.ctypes.data
