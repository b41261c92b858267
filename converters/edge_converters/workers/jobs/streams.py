"""Steps two files with state along one stream, and says how far apart they are."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from edge_converters.metrics import snr_db
from edge_converters.outputs import state_of
from edge_runtime.backends import load_session
from edge_runtime.pipeline.quantise import dequantise, quantise
from edge_runtime.ports import SessionOptions

__all__ = ["compare"]

_FIRST_SPAN = 10


def compare(
    models: list[str], kind: str, inputs: str, constants: dict[str, float]
) -> dict[str, object]:
    """Step both along a stream, each from its own state, which is never reset.

    Args:
        models: The float file, and the one that is compared with it.
        kind: Of both.
        inputs: ``.npy`` of steps, shape (n, …), float32.
        constants: Values of further inputs.

    Returns:
        ``drift``: for steps 1 to 10, 11 to 100 and so on, the SNR of output and state in
        dB, None where they are equal, and the largest difference of the output.
    """
    steps = np.load(inputs, allow_pickle=False)
    wanted, found = (_stepped(Path(one).read_bytes(), kind, steps, constants) for one in models)
    spans = _spans(len(steps))
    return {"drift": [_compared(wanted, found, first, last) for first, last in spans]}


def _stepped(
    model: bytes, kind: str, steps: np.ndarray, constants: dict[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return outputs and states after each step, shape (n, values) each."""
    options = SessionOptions(state=state_of(kind, model, constants), shape=steps.shape[1:])
    with closing(load_session(None, kind, model, options)) as session:
        integers = quantise(steps, session.inputs[0])
        outputs, states = [], []
        for step in integers.reshape(len(steps), *map(abs, session.inputs[0].shape)):
            outputs.append(dequantise(session.run(step), session.outputs[0]).ravel())
            states.append(np.frombuffer(session.state() or b"", np.float32))
    return np.stack(outputs), np.stack(states)


def _spans(count: int) -> list[tuple[int, int]]:
    spans, first = [], 1
    while first <= count:
        last = min(count, first * _FIRST_SPAN if first == 1 else (first - 1) * _FIRST_SPAN)
        spans.append((first, last))
        first = last + 1
    return spans


def _compared(
    wanted: tuple[np.ndarray, np.ndarray],
    found: tuple[np.ndarray, np.ndarray],
    first: int,
    last: int,
) -> dict[str, object]:
    span = slice(first - 1, last)
    output_db, state_db = (
        snr_db(one[span], other[span]) for one, other in zip(wanted, found, strict=True)
    )
    return {
        "first": first,
        "last": last,
        "output_db": output_db if np.isfinite(output_db) else None,
        "state_db": state_db if np.isfinite(state_db) else None,
        "largest": float(np.abs(wanted[0][span] - found[0][span]).max()),
    }
