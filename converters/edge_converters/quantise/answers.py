"""Ask model files as a device would: by its own sessions, quantising and back included."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from statistics import median

import msgspec
import numpy as np

from edge_converters.outputs import further_outputs, led_by
from edge_converters.quantise.contracts import Format
from edge_runtime.backends import load_session
from edge_runtime.backends.blocks import in_blocks
from edge_runtime.errors import ShapeError
from edge_runtime.pipeline.quantise import dequantise, quantise
from edge_runtime.ports import Session, SessionOptions

__all__ = ["answer", "answer_all", "check_windows", "latency_s"]


# A session of LiteRT proves at first that a batch answers like its rows, which takes longer
# than the few windows of a trial.
_ROWS: dict[Format, int] = {"tflite": 1}


def check_windows(windows: np.ndarray, name: str, shape: Sequence[int | None]) -> None:
    """Look at calibration windows before a model sees them.

    Args:
        windows: Shape (n, …), float32; n at least 1.
        name: Of the model's input.
        shape: Of one window there; None for an axis of any size.

    Raises:
        ShapeError: They do not fit, or there are none.
    """
    fits = windows.ndim == len(shape) + 1 and all(
        wanted in {None, size} for size, wanted in zip(windows.shape[1:], shape, strict=True)
    )
    if fits and len(windows) and windows.dtype == np.float32:
        return
    raise ShapeError(
        f"windows have shape {windows.shape} and dtype {windows.dtype}",
        where=f"input {name!r}",
        expected=f"(n, {', '.join(str(size or '?') for size in shape)}) of float32, n above 0",
        remedy="Give calibration data in the shape of the model's input.",
    )


def answer(
    kind: Format, model: bytes, windows: np.ndarray, options: SessionOptions | None = None
) -> np.ndarray:
    """Return the first output for each window, real values, float64.

    Args:
        kind: Of the file.
        model: The file.
        windows: Shape (n, …), or (n, steps, …) for a model with explicit state, which
            begins each of the n sequences without and carries it from step to step; float32.
        options: How it is fed; None for a model with one input.

    Returns:
        Shape (n, …), or (n, steps, …).

    Raises:
        ShapeError: ``windows`` does not fit the model.
        ModelError: The runtime cannot open or run it.
    """
    has_state = options is not None and bool(options.state.tensors)
    sequences = windows if has_state else windows[np.newaxis]
    with closing(_open(kind, model, sequences[0], options)) as session:
        answers = np.stack([_answered(kind, session, one) for one in sequences])
    return answers if has_state else np.asarray(answers[0])


def answer_all(
    kind: Format, model: bytes, windows: np.ndarray, options: SessionOptions | None = None
) -> tuple[np.ndarray, ...]:
    """Return what every output says, state apart; the first is the one that decides."""
    state = (options or SessionOptions()).state
    places = further_outputs(kind, model, state).values()
    files = (model, *(led_by(kind, model, one) for one in places))
    return tuple(answer(kind, one, windows, options) for one in files)


def latency_s(
    kind: Format,
    model: bytes,
    windows: np.ndarray,
    options: SessionOptions | None = None,
    *,
    calls: int = 50,
) -> float:
    """Return the median time of a call with one window, best of three rounds.

    The best round is the one that other programs disturbed least.
    """
    with closing(_open(kind, model, windows, options)) as session:
        rows = quantise(windows, session.inputs[0])

        def ask(number: int) -> float:
            one = rows[number % len(rows) : number % len(rows) + 1]
            start = time.perf_counter()
            session.run(one)
            return time.perf_counter() - start

        return min(_median(ask, calls) for _ in range(3))


def _answered(kind: Format, session: Session, windows: np.ndarray) -> np.ndarray:
    """Return the first output for windows that follow each other, from no state."""
    session.reset()
    integers = quantise(windows, session.inputs[0])
    rows = _ROWS.get(kind, max(1, len(windows)))
    return dequantise(in_blocks(session.run, integers, rows), session.outputs[0])


def _median(ask: Callable[[int], float], calls: int) -> float:
    return median(ask(number) for number in range(calls))


def _open(
    kind: Format, model: bytes, windows: np.ndarray, options: SessionOptions | None
) -> Session:
    options = options or SessionOptions()
    return load_session(
        None, kind, model, msgspec.structs.replace(options, shape=windows.shape[1:])
    )
