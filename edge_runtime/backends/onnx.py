"""ONNX Runtime, for ``.onnx`` files.

Its defaults suit servers: a pool that spins between calls takes a whole core
for a small model at 50 Hz. Here: threads as asked for, no spinning, no arena.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from edge_runtime.backends.blocks import BLOCK_ROWS, in_blocks, no_rows
from edge_runtime.backends.faults import (
    cannot_load,
    cannot_run,
    check_batch,
    check_tensor,
    closed,
    does_not_work,
    import_runtime,
    only_one_input,
)
from edge_runtime.backends.onnx_graph import OnnxGraph, Quantisation, read_graph
from edge_runtime.errors import ModelError
from edge_runtime.ports import SessionOptions
from edge_runtime.types import TensorSpec

__all__ = ["OnnxRuntime", "OnnxSession"]

_PACKAGE = "onnxruntime"
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
    """Runs ``.onnx`` models with onnxruntime on the CPU."""

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
        return OnnxSession(model, options)


class OnnxSession:
    """One loaded ONNX model; a `Session` for one worker.

    A batch is computed at once where the model's batch axis is free and every
    matrix product is known to round alike for one row and for many; else row
    by row. Both give the same bytes.

    Args:
        model: A complete ``.onnx`` file.
        options: Threads inside one call.

    Attributes:
        inputs: The input tensor.
        outputs: All output tensors; ``run`` returns the first.

    Raises:
        ModelError: The bytes are no model onnxruntime can run.
    """

    def __init__(self, model: bytes, options: SessionOptions) -> None:
        try:
            graph = read_graph(model)
            self._session: Any = _open(model, options)
            self.inputs = _inputs(self._session, graph)
            self.outputs = _outputs(self._session, graph)
        except ModelError:
            raise
        except Exception as error:
            raise cannot_load(OnnxRuntime.name, "ONNX", error) from error
        self._binding: Any = None
        self._row = self.inputs[0].shape
        self._dtype = np.dtype(self.inputs[0].dtype)
        self._most_rows = BLOCK_ROWS if _has_free_batch(self._session, graph) else 1
        self._bind()

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Answer ``batch``, shape (n, …), in the dtype of the input tensor.

        Returns:
            The first output, shape (n, …). The array belongs to the caller.

        Raises:
            ShapeError: Shape or dtype is not the model's.
            ModelError: The runtime failed.
        """
        if batch.shape != self._row or batch.dtype != self._dtype or self._session is None:
            return self._run_other(batch)
        np.copyto(self._bound_input, batch)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise cannot_run(OnnxRuntime.name, error) from error
        return self._bound_output.copy()

    def reset(self) -> None:
        """Forget state kept between calls: a model with one input has none.

        Raises:
            ModelError: The session is closed.
        """
        if self._session is None:
            raise closed(OnnxRuntime.name)

    def close(self) -> None:
        """Free the model; later calls raise `ModelError`."""
        self._session = self._binding = None

    def _bind(self) -> None:
        """Tie the arrays of a single row to the model once: 2 to 4 µs less per call."""
        source, target = self.inputs[0], self.outputs[0]
        self._bound_input = np.zeros(source.shape, source.dtype)
        self._bound_output = np.zeros(target.shape, target.dtype)
        self._binding = self._session.io_binding()
        self._binding.bind_input(source.name, "cpu", 0, *_memory(self._bound_input))
        self._binding.bind_output(target.name, "cpu", 0, *_memory(self._bound_output))

    def _run_other(self, batch: np.ndarray) -> np.ndarray:
        """Answer a batch of any length but one."""
        self.reset()
        check_batch(OnnxRuntime.name, batch, self.inputs[0])
        if not len(batch):
            return no_rows(self.outputs[0])
        if self._most_rows == 1:
            return in_blocks(self.run, batch, 1)
        return in_blocks(self._run_block, batch, self._most_rows)

    def _run_block(self, batch: np.ndarray) -> np.ndarray:
        if len(batch) == 1:
            return self.run(batch)
        try:
            answer = self._session.run([self.outputs[0].name], {self.inputs[0].name: batch})[0]
        except Exception as error:
            raise cannot_run(OnnxRuntime.name, error) from error
        if len(answer) != len(batch):
            raise cannot_run(OnnxRuntime.name, f"{len(batch)} rows gave {len(answer)} answers")
        return np.asarray(answer)


@functools.cache
def _probe() -> str:
    """Run y = 2 x_0 - x_1 + 0.5 on (3, 4)."""
    runtime = import_runtime(OnnxRuntime.name, _PACKAGE, _PACKAGE, "onnx")
    model = files("edge_runtime.backends").joinpath("probe.onnx").read_bytes()
    try:
        answer = OnnxSession(model, SessionOptions()).run(np.array([[3, 4]], np.float32)).tolist()
    except Exception as error:
        raise does_not_work(OnnxRuntime.name, _PACKAGE, error) from error
    if answer != [[2.5]]:
        what = f"the test model answered {answer} instead of [[2.5]]"
        raise does_not_work(OnnxRuntime.name, _PACKAGE, what)
    return str(runtime.__version__)


def _open(model: bytes, options: SessionOptions) -> Any:
    runtime = import_runtime(OnnxRuntime.name, _PACKAGE, _PACKAGE, "onnx")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    settings.enable_cpu_mem_arena = False
    settings.enable_mem_pattern = False
    settings.log_severity_level = _SILENT
    # With its fallback on, a damaged model makes it print to standard output.
    return runtime.InferenceSession(
        model, settings, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def _inputs(session: Any, graph: OnnxGraph) -> tuple[TensorSpec, ...]:
    found = session.get_inputs()
    if len(found) != 1:
        raise only_one_input(OnnxRuntime.name, [entry.name for entry in found])
    entry = found[0]
    if not all(isinstance(size, int) for size in entry.shape[1:]):
        raise ValueError(
            f"input {entry.name!r} has the shape {entry.shape}; only the first axis may be free"
        )
    tensor = _tensor(entry, entry.shape, graph.input_quantisation(entry.name))
    check_tensor(OnnxRuntime.name, tensor)
    return (tensor,)


def _outputs(session: Any, graph: OnnxGraph) -> tuple[TensorSpec, ...]:
    entries = session.get_outputs()
    shapes = [entry.shape for entry in entries]
    if not all(isinstance(size, int) for shape in shapes for size in shape[1:]):
        shapes = _answered_shapes(session)
    tensors = tuple(
        _tensor(entry, shape, graph.output_quantisation(entry.name))
        for entry, shape in zip(entries, shapes, strict=True)
    )
    check_tensor(OnnxRuntime.name, tensors[0])
    return tensors


def _answered_shapes(session: Any) -> list[Sequence[int]]:
    """Learn shapes that the file leaves open from the answer to a row of zeros."""
    entry = session.get_inputs()[0]
    row = np.zeros((1, *entry.shape[1:]), _dtype(entry))
    return [np.shape(answer) for answer in session.run(None, {entry.name: row})]


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


def _has_free_batch(session: Any, graph: OnnxGraph) -> bool:
    is_free = not isinstance(session.get_inputs()[0].shape[0], int)
    return is_free and not graph.has_computed_product


def _memory(array: np.ndarray) -> tuple[np.dtype, tuple[int, ...], int]:
    return array.dtype, array.shape, array.ctypes.data
