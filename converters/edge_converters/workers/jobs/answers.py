"""Asks a model file questions on one of this environment's runtimes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_converters.outputs import state_of
from edge_runtime.backends import backend_of
from edge_runtime.errors import EdgeError
from edge_runtime.pipeline.quantise import dequantise, quantise
from edge_runtime.ports import Session, SessionOptions
from edge_runtime.timing import steady, take_sample

__all__ = ["answer", "answer_each"]

_TIMED_CALLS = 300
_BACKENDS = {"tflite": "litert", "onnx": "onnx"}


def answer(
    model: str,
    kind: str,
    backend: str,
    inputs: str,
    outputs: str,
    is_timed: bool,
    constants: dict[str, float],
) -> dict[str, object]:
    """Answer windows one by one, as a device does, and write real values.

    A window that holds several of what a model with explicit state takes is a sequence:
    its steps are answered one after the other.

    Args:
        model: The file.
        kind: ``tflite`` or ``onnx``.
        backend: Runtime that is asked.
        inputs: ``.npy``, shape (n, …), real values or the model's own dtype.
        outputs: Where the answers go, ``.npy``, float32, shape (n, …), a row for each step.
        is_timed: Whether calls are timed too.
        constants: Values of further inputs.
    """
    runtime = backend_of(backend, kind)
    version = runtime.probe()
    windows = np.load(inputs, allow_pickle=False)
    content = Path(model).read_bytes()
    state = state_of(kind, content, constants)
    # The second axis of sequences is their steps.
    shape = windows.shape[2:] if state.tensors and windows.ndim > 2 else windows.shape[1:]
    options = SessionOptions(state=state, shape=shape)
    session = runtime.load(content, options)
    try:
        np.save(outputs, _answers(session, windows))
        taken = _timed(session, windows[:1]) if is_timed else []
        shape = [abs(axis) for axis in session.inputs[0].shape[1:]]
    finally:
        session.close()
    return {"runtime": f"{runtime.name} {version}", "us": taken, "shape": shape}


def answer_each(
    models: Sequence[str], kind: str, inputs: str, constants: dict[str, float]
) -> dict[str, object]:
    """Answer the same windows with several files, each beside its own ``.npy``.

    Returns:
        ``found``: for each file the answers' place, or None where the runtime refuses it.
    """
    found: list[str | None] = []
    for model in models:
        outputs = f"{model}.npy"
        try:
            answer(model, kind, _BACKENDS[kind], inputs, outputs, False, constants)
        except EdgeError:
            found.append(None)
        else:
            found.append(outputs)
    return {"found": found}


def _answers(session: Session, windows: np.ndarray) -> np.ndarray:
    """Return real values, each window or sequence asked from fresh state."""
    rows = []
    for steps in _tensors(session, windows):
        session.reset()
        rows += [session.run(step[None]) for step in steps]
    answers = np.concatenate(rows)
    target = session.outputs[0]
    return np.asarray(dequantise(answers, target), np.float32)


def _tensors(session: Session, windows: np.ndarray) -> np.ndarray:
    """Return windows as the model takes them, shape (n, steps, …)."""
    source = session.inputs[0]
    shape = [abs(axis) for axis in source.shape[1:]]
    is_told = session.state_kind == "explicit"
    steps = max(1, windows[0].size // math.prod(shape)) if is_told else 1
    rows = windows.reshape(len(windows) * steps, *shape)
    if rows.dtype != source.dtype:
        rows = quantise(rows, source) if source.is_quantised else rows.astype(source.dtype)
    return np.asarray(rows).reshape(len(windows), steps, *shape)


def _timed(session: Session, window: np.ndarray) -> list[float]:
    row = _tensors(session, window)[0, :1]
    samples = [take_sample(lambda: session.run(row)) for _ in range(_TIMED_CALLS)]
    us = steady(samples[_TIMED_CALLS // 10 :])
    quantiles = statistics.quantiles(us, n=20)
    return [statistics.median(us), quantiles[-1]]
