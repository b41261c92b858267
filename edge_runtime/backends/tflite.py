"""What LiteRT and tflite-runtime share: one adapter around their Interpreter.

Models are loaded from bytes, never from a path: that closes the gap between
check and use, and a file that shrinks under a mapping cannot kill the process.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_runtime.backends.accelerators import open_interpreter
from edge_runtime.backends.blocks import BLOCK_ROWS, RowsAtOnce, in_blocks, no_rows
from edge_runtime.backends.faults import (
    cannot_load,
    cannot_restore,
    cannot_run,
    check_batch,
    check_tensor,
    closed,
    does_not_work,
    import_runtime,
    only_one_input,
)
from edge_runtime.backends.tflite_state import TFLiteState, read_state
from edge_runtime.distributions import installed_version
from edge_runtime.errors import EdgeError
from edge_runtime.ports import SessionOptions
from edge_runtime.types import TensorSpec

__all__ = ["Runtime", "TFLiteSession", "load", "probe"]


class Runtime(msgspec.Struct, frozen=True):
    """A package that has the TFLite Interpreter.

    Attributes:
        backend: Name of the backend.
        module: Where ``Interpreter`` is.
        package: What to install.
        extra: The extra of edge-runtime that installs it.
        remedy: What to do where it is installed and fails.
    """

    backend: str
    module: str
    package: str
    extra: str
    remedy: str

    @property
    def interpreter(self) -> Any:
        """The package's ``Interpreter`` class, imported on first use."""
        return import_runtime(self.backend, self.module, self.package, self.extra).Interpreter


@functools.cache
def probe(runtime: Runtime) -> str:
    """Run the built-in test model once per process and return the version.

    The model is y = 2 x_0 - x_1 + 0.5. An import would say little:
    tflite-runtime imports under NumPy 2 and fails only here.

    Raises:
        MissingExtra: The package is not installed.
        ModelError: It is installed but does not work here.
    """
    interpreter = runtime.interpreter
    model = Path(__file__).with_name("probe.tflite").read_bytes()
    try:
        with _without_stderr():
            session = TFLiteSession(runtime.backend, interpreter, model, SessionOptions())
            answer = session.run(np.array([[3, 4]], np.float32)).tolist()
    except Exception as error:
        raise does_not_work(runtime.backend, runtime.package, error, runtime.remedy) from error
    if answer != [[2.5]]:
        what = f"the test model answered {answer} instead of [[2.5]]"
        raise does_not_work(runtime.backend, runtime.package, what, runtime.remedy)
    return installed_version(runtime.package) or "unknown"


def load(runtime: Runtime, model: bytes, options: SessionOptions) -> TFLiteSession:
    """Open a model from verified bytes with a runtime that has proved itself.

    Raises:
        MissingExtra: The package is not installed.
        ModelError: It does not work here, or the bytes are no model it can run.
    """
    probe(runtime)
    return TFLiteSession(runtime.backend, runtime.interpreter, model, options)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Point file descriptor 2 at the null device.

    The runtimes' C++ code writes a line there when the first model of a
    process is prepared; no setting and no Python-level redirection stops it.
    """
    try:
        kept = os.dup(2)
    except OSError:
        # A daemon without a standard error has nothing to silence.
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


class TFLiteSession:
    """One loaded TFLite model; a `Session` for one worker.

    A batch is computed at once where the model's batch axis is free, it keeps no
    state, and so many rows have proved to answer as each does alone; else row by
    row. Both give the same bytes.

    Args:
        backend: Name for messages.
        interpreter_type: The runtime's ``Interpreter`` class.
        model: A complete ``.tflite`` file.
        options: Threads inside one call.

    Attributes:
        inputs: The input tensor.
        outputs: All output tensors; ``run`` returns the first.
        state_kind: What the model keeps between calls, and how it is reset.

    Raises:
        ModelError: The bytes are no model this runtime can run.
    """

    _interpreter: Any
    _set: Any
    _invoke: Any
    _get: Any
    _shape: tuple[int, ...]

    def __init__(
        self,
        backend: str,
        interpreter_type: Callable[..., Any],
        model: bytes,
        options: SessionOptions,
    ) -> None:
        self._backend = backend
        self._type = interpreter_type
        self._model = model
        self._options = options
        # Before the interpreter sees the bytes: tflite-runtime verifies nothing.
        self._state = self._read_state()
        self.state_kind = self._state.kind
        self._start()
        self.inputs = self._tensors(self._interpreter.get_input_details())
        self.outputs = self._tensors(self._interpreter.get_output_details())
        self._check_tensors()
        self._rows = RowsAtOnce(BLOCK_ROWS if self._has_free_batch() else 1)
        self._dtype = np.dtype(self.inputs[0].dtype)

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Answer ``batch``, shape (n, …), in the dtype of the input tensor.

        Rows are answered in order; a model with state carries it from row to row.

        Returns:
            The first output, shape (n, …). The array belongs to the caller.

        Raises:
            ShapeError: Shape or dtype is not the model's.
            ModelError: The runtime failed.
        """
        if batch.shape != self._shape or batch.dtype != self._dtype:
            return self._run_other(batch)
        try:
            self._set(self._input, batch)
            self._invoke()
            answer: np.ndarray = self._get(self._output)
        except (RuntimeError, ValueError) as error:
            raise cannot_run(self._backend, error) from error
        return answer

    def reset(self) -> None:
        """Forget state kept between calls.

        Raises:
            ModelError: The session is closed.
        """
        self._check_open()
        if self.state_kind == "resources":
            # Resource variables outlive reset_all_variables(): only a new
            # interpreter starts without them.
            self._start()
        elif self.state_kind == "variables":
            self._interpreter.reset_all_variables()

    def fork(self) -> TFLiteSession:
        """Return a session with state of its own; the bytes of the model are shared."""
        self._check_open()
        if self.state_kind == "stateless":
            return self
        return TFLiteSession(self._backend, self._type, self._model, self._options)

    def state(self) -> bytes | None:
        """Return all variable tensors; None for resource variables, which nobody can read.

        Raises:
            ModelError: The session is closed.
        """
        self._check_open()
        if self.state_kind == "resources":
            return None
        return b"".join(self._get(index).tobytes() for index in self._state.variables)

    def restore(self, state: bytes) -> None:
        """Go on from `state`'s bytes.

        Raises:
            ModelError: They are not this model's state, or the session is closed.
        """
        self._check_open()
        values = [self._get(index) for index in self._state.variables]
        if len(state) != sum(value.nbytes for value in values):
            raise cannot_restore(self._backend, len(state), sum(value.nbytes for value in values))
        for index, value in zip(self._state.variables, values, strict=True):
            part, state = state[: value.nbytes], state[value.nbytes :]
            self._set(index, np.frombuffer(part, value.dtype).reshape(value.shape))

    def close(self) -> None:
        """Free the model; later calls raise `ModelError`."""
        self._interpreter = self._set = self._invoke = self._get = None
        self._shape = ()

    def _start(self) -> None:
        try:
            self._interpreter = open_interpreter(
                self._backend, self._type, self._model, self._options
            )
            self._interpreter.allocate_tensors()
        except EdgeError:
            raise
        except Exception as error:
            raise cannot_load(self._backend, "TFLite", error) from error
        # Bound once: looking them up costs as much as a tenth of a small model.
        self._set = self._interpreter.set_tensor
        self._invoke = self._interpreter.invoke
        self._get = self._interpreter.get_tensor
        self._find_tensors()

    def _find_tensors(self) -> None:
        inputs = self._interpreter.get_input_details()
        if len(inputs) != 1:
            raise only_one_input(self._backend, [entry["name"] for entry in inputs])
        self._input = inputs[0]["index"]
        self._shape = tuple(inputs[0]["shape"].tolist())
        self._output = self._interpreter.get_output_details()[0]["index"]

    def _run_other(self, batch: np.ndarray) -> np.ndarray:
        """Answer a batch of another length than the last one."""
        self._check_open()
        check_batch(self._backend, batch, self.inputs[0])
        if not len(batch):
            return no_rows(self.outputs[0])
        if len(batch) > self._rows.most:
            return in_blocks(self.run, batch, self._rows.most)
        try:
            if not self._rows.is_proven(len(batch)):
                self._rows.prove(self.inputs[0], len(batch), self._together, self._each)
            self._resize((min(len(batch), self._rows.most), *batch.shape[1:]))
        except (RuntimeError, ValueError) as error:
            if len(batch) == 1:
                raise cannot_run(self._backend, error) from error
            # The batch axis is free in name only: a constant inside fixes it.
            self._rows.most = 1
        return self.run(batch)

    def _together(self, rows: np.ndarray) -> np.ndarray:
        self._resize(rows.shape)
        return self.run(rows)

    def _each(self, rows: np.ndarray) -> np.ndarray:
        self._resize((1, *rows.shape[1:]))
        return np.concatenate([self.run(rows[row : row + 1]) for row in range(len(rows))])

    def _resize(self, shape: tuple[int, ...]) -> None:
        self._shape = ()
        self._interpreter.resize_tensor_input(self._input, shape, strict=True)
        self._interpreter.allocate_tensors()
        answered = self._interpreter.get_output_details()[0]["shape"][0]
        if answered != shape[0]:
            raise ValueError(f"{shape[0]} rows give {answered} answers")
        self._shape = shape

    def _check_open(self) -> None:
        if self._interpreter is None:
            raise closed(self._backend)

    def _check_tensors(self) -> None:
        for tensor in (self.inputs[0], self.outputs[0]):
            check_tensor(self._backend, tensor)

    def _tensors(self, details: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(_tensor(entry) for entry in details)

    def _read_state(self) -> TFLiteState:
        try:
            return read_state(self._model)
        except ValueError as error:
            raise cannot_load(self._backend, "TFLite", error) from error

    def _has_free_batch(self) -> bool:
        # Rows of a model with state depend on each other.
        signature = self._interpreter.get_input_details()[0]["shape_signature"]
        return self.state_kind == "stateless" and signature[0] == -1


def _tensor(details: dict[str, Any]) -> TensorSpec:
    parameters = details["quantization_parameters"]
    is_quantised = len(parameters["scales"]) > 0
    return TensorSpec(
        name=details["name"],
        shape=tuple(details["shape"].tolist()),
        dtype=np.dtype(details["dtype"]).name,
        scale=float(parameters["scales"][0]) if is_quantised else None,
        zero_point=int(parameters["zero_points"][0]) if is_quantised else None,
    )
