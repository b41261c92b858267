"""Admission of a bare model file: a ``.tflite`` or ``.onnx`` without a bundle around it.

There are no golden windows, so a child process finds out what it can: tensors,
state, quantisation, and whether the model answers finitely, repeats itself and
answers a batch like its rows. A file that may not serve is refused with a reason,
whose first word is one of those that `admission` lists.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np

from edge_runtime.backends import ARTEFACT_KINDS, backend_of
from edge_runtime.backends.onnx_graph import read_graph
from edge_runtime.backends.onnx_state import guess_state
from edge_runtime.backends.precision import Precision, precision_of
from edge_runtime.errors import BundleError, ModelError
from edge_runtime.pipeline import BATCH
from edge_runtime.ports import Session, SessionOptions
from edge_runtime.spec import StateSpec
from edge_runtime.types import StateKind, TensorSpec
from edge_runtime.update import child

__all__ = [
    "Findings",
    "ModelAdmission",
    "ModelQuestion",
    "admit_model",
    "admit_models",
    "refusal",
]

T = TypeVar("T")

_START_S = 10.0
_LARGEST_BYTES = 1 << 30
_SUFFIXES = {".tflite": "tflite", ".onnx": "onnx", ".npz": "reference"}
_SEQUENCE = 8
_TIMED_CALLS = 200
_TIMED_S = 0.3


class Findings(msgspec.Struct, frozen=True):
    """What a model file is and does.

    Attributes:
        backend: Model runtime that ran it.
        version: Of that runtime.
        size_bytes: Size of the file.
        digest: SHA-256 of the file, hex.
        inputs: The window's input; those of state and constants are in ``state``.
        outputs: Answers; the first is the one that is used.
        state_kind: What it keeps between calls.
        state: Explicit state, guessed by name, and the constants that were given.
        precision: How it is quantised; None where nobody can tell.
        batch: Whether 32 rows are answered like single ones, to the byte; a model
            with state is not asked.
        latency_us: Median time of one call, µs.
        peak_rss_mb: Largest resident memory of the process that asked, MiB.
    """

    backend: str
    version: str
    size_bytes: int
    digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state_kind: StateKind
    state: StateSpec
    precision: Precision | None
    batch: Literal["equal", "different", "not asked"]
    latency_us: float
    peak_rss_mb: float


class ModelAdmission(msgspec.Struct, frozen=True):
    """The verdict about one file.

    Attributes:
        is_admitted: Whether it may serve.
        reason: Why not; empty if it may.
        expected: What should have been there, where that is known.
        remedy: What to do about it, where that is known.
        findings: What was found; None if it was refused.
    """

    is_admitted: bool
    reason: str = ""
    expected: str = ""
    remedy: str = ""
    findings: Findings | None = None


class ModelQuestion(msgspec.Struct, frozen=True):
    """How files are judged.

    Attributes:
        backend: Model runtime; None for the default of the kind of file.
        constants: Values of further inputs, by name.
        shape: Shape of one window's features; free axes of the input take it.
        limit_mb: Address space a model may add to the loaded runtime, MiB.
        limit_s: Wall time, and CPU time, for one file.
    """

    backend: str | None = None
    constants: dict[str, float] = {}
    shape: tuple[int, ...] | None = None
    limit_mb: int = 1024
    limit_s: float = 30.0


_DEFAULT = ModelQuestion()
_EXPECTED = {
    "crash": "a model that leaves its process alive",
    "memory": f"at most {_DEFAULT.limit_mb} MiB, or what --limit-mb says",
    "time": f"an end within {_DEFAULT.limit_s:g} s, or what --limit-s says",
}
_REMEDY = "Do not use this file; fetch it again, or convert the model anew."


def refusal(path: Path, verdict: ModelAdmission) -> BundleError:
    """Return the error that says why a file was refused."""
    word = verdict.reason.partition(":")[0]
    expected = verdict.expected or _EXPECTED.get(word, "a model that this machine can run")
    return BundleError(
        verdict.reason, where=str(path), expected=expected, remedy=verdict.remedy or _REMEDY
    )


def admit_model(path: Path, question: ModelQuestion | None = None) -> ModelAdmission:
    """Judge a bare model file in a child process; never raises for anything it does.

    Blocks for about half a second, and for little more than the limit at most.
    """
    return admit_models([path], question)[0]


def admit_models(
    paths: Sequence[Path], question: ModelQuestion | None = None
) -> list[ModelAdmission]:
    """Judge many files, as many as possible in one child process.

    Where a child dies, its files are judged again in two halves, until the one
    that kills it is alone.
    """
    if not paths:
        return []
    question = question or ModelQuestion()
    answer = child.ask(
        __name__,
        [msgspec.json.encode(question).decode(), *map(str, paths)],
        limit_s=_START_S + question.limit_s * len(paths),
    )
    if not answer.death and len(answer.lines) == len(paths):
        return [msgspec.json.decode(line, type=ModelAdmission) for line in answer.lines]
    if len(paths) == 1:
        return [ModelAdmission(False, answer.death or "crash: it printed something else")]
    half = len(paths) // 2
    return admit_models(paths[:half], question) + admit_models(paths[half:], question)


# --- in the child -------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Judge files in this process, one line each; for `admit_models` alone."""
    question = msgspec.json.decode(arguments[0], type=ModelQuestion)
    child.limit_process()
    for path in arguments[1:]:
        child.tell(_judged(Path(path), question))
    return 0


def _judged(path: Path, question: ModelQuestion) -> ModelAdmission:
    file = _File(path, question)
    child.forget_peak()
    fault = child.limited(file.prepare, limit_mb=1 << 20, limit_s=question.limit_s)
    if fault is None:
        fault = child.limited(file.examine, limit_mb=question.limit_mb, limit_s=question.limit_s)
    if fault is not None:
        return ModelAdmission(False, child.reason_of(fault), fault.expected, fault.remedy)
    return ModelAdmission(True, findings=file.findings)


class _File:
    """One file, and what is found out about it."""

    findings: Findings

    def __init__(self, path: Path, question: ModelQuestion) -> None:
        self._path = path
        self._question = question

    def prepare(self) -> None:
        """Read it, and bring its runtime up before the limit on memory."""
        self._kind = _kind_of(self._path, self._question.backend)
        self._model = _read(self._path)
        self._runtime = backend_of(self._question.backend, self._kind)
        self._version = self._runtime.probe()

    def examine(self) -> None:
        """Load it and ask it."""
        state = self._state()
        options = SessionOptions(state=state, shape=self._question.shape)
        session = self._runtime.load(self._model, options)
        try:
            self.findings = Findings(
                backend=self._runtime.name,
                version=self._version,
                size_bytes=len(self._model),
                digest=hashlib.sha256(self._model).hexdigest(),
                inputs=session.inputs,
                outputs=session.outputs,
                state_kind=session.state_kind,
                state=state,
                precision=_told(precision_of, self._kind, self._model),
                batch=_asked(session),
                latency_us=_latency_us(session),
                peak_rss_mb=child.peak_rss_mb(),
            )
        finally:
            session.close()

    def _state(self) -> StateSpec:
        """Pair inputs with outputs that become them; the rest must be constants."""
        if self._kind != "onnx":
            return StateSpec(constants=self._question.constants)
        graph = _told(read_graph, self._model)
        given = self._question.constants
        others = [(one.name, one.shape) for one in graph.inputs[1:] if one.name not in given]
        tensors = guess_state(others, [(one.name, one.shape) for one in graph.outputs[1:]])
        filled = {one.input for one in tensors}
        for name, shape in others:
            if name not in filled:
                raise _without_value(name, shape)
        return StateSpec(tensors=tensors, constants=given)


def _kind_of(path: Path, backend: str | None) -> str:
    if backend is not None:
        return ARTEFACT_KINDS.get(backend, backend)
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise BundleError(
            f"bundle: the file is named {path.name!r}",
            expected=f"a name that ends in {', '.join(_SUFFIXES)}",
            remedy="Rename it, or name the runtime with --backend.",
        )
    return kind


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise BundleError(
                f"bundle: the file has {path.stat().st_size} bytes",
                expected=f"at most {_LARGEST_BYTES}",
                remedy="A device cannot hold it; choose a smaller model.",
            )
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"bundle: {error.strerror or error}",
            expected="a model file",
            remedy="Correct the path.",
        ) from error


def _told(reader: Callable[..., T], *arguments: object) -> T:
    """Read something from the file itself."""
    try:
        return reader(*arguments)
    except (ValueError, IndexError, OverflowError) as error:
        raise ModelError(
            f"load: the file cannot be read: {error}",
            expected="a complete model",
            remedy="Compare the file's digest with its origin's; convert the model again.",
        ) from error


def _without_value(name: str, shape: tuple[int | str, ...]) -> ModelError:
    return ModelError(
        f"load: input {name!r} of shape {list(shape)} is filled by nobody",
        expected="one window, and state or a constant for every other input",
        remedy=f"Give it a value: --constant {name}=VALUE.",
    )


def _asked(session: Session) -> Literal["equal", "different", "not asked"]:
    """Ask until the model shows that it answers finitely and repeats itself."""
    dice = np.random.default_rng(0)
    rows = np.concatenate([_zeros(session), *(_row(session, dice) for _ in range(_SEQUENCE - 1))])
    if session.state_kind != "stateless":
        _expect_same(_sequence(session, rows), _sequence(session, rows), "its file declares state")
        return "not asked"
    first = _each(session, rows)
    _expect_same(first, _each(session, rows), "its file declares no state")
    session.reset()
    _expect_same(first, _each(session, rows[:1]), "it was reset")
    many = np.resize(rows, (BATCH, *rows.shape[1:]))
    return "equal" if session.run(many)[: len(rows)].tobytes() == first.tobytes() else "different"


def _sequence(session: Session, rows: np.ndarray) -> np.ndarray:
    session.reset()
    return _each(session, rows)


def _each(session: Session, rows: np.ndarray) -> np.ndarray:
    answers = np.concatenate([session.run(rows[i : i + 1]) for i in range(len(rows))])
    if answers.dtype.kind == "f" and not np.isfinite(answers).all():
        raise ModelError(
            "nan: an answer is not finite",
            expected="finite answers to zeros and to random values",
            remedy="Convert the model again; a weight may be damaged.",
        )
    return answers


def _expect_same(first: np.ndarray, second: np.ndarray, why: str) -> None:
    if first[: len(second)].tobytes() != second.tobytes():
        raise ModelError(
            f"repeat: the same question got two answers, though {why}",
            expected="the same answer, to the byte",
            remedy="Look for random numbers or hidden state in the model.",
        )


def _zeros(session: Session) -> np.ndarray:
    return np.zeros(session.inputs[0].shape, session.inputs[0].dtype)


def _row(session: Session, dice: np.random.Generator) -> np.ndarray:
    shape, dtype = session.inputs[0].shape, np.dtype(session.inputs[0].dtype)
    if dtype.kind == "f":
        return dice.normal(size=shape).astype(dtype)
    if dtype.itemsize > 2 or dtype.kind == "b":
        # Wide integers are indices more often than samples; 0 and 1 are valid ones.
        return dice.integers(0, 2, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return dice.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def _latency_us(session: Session) -> float:
    row, end = _zeros(session), time.perf_counter() + _TIMED_S
    taken: list[float] = []
    while len(taken) < _TIMED_CALLS and (not taken or time.perf_counter() < end):
        start = time.perf_counter()
        session.run(row)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
