"""Stream: how far a quantised cell is from the float one after many steps without a reset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_converters.contracts import Candidate, Drift, Parity, Request, Verified
from edge_converters.metrics import GARBAGE_DB
from edge_converters.stages.float_file import FloatFile
from edge_converters.workers.ask import ask, here
from edge_runtime.errors import EdgeError

__all__ = ["drifted"]

_LEAST_STEPS = 1000
_MOST_STEPS = 4000


def drifted(
    candidates: Sequence[Candidate], float_: FloatFile, sequences: np.ndarray, request: Request
) -> list[Candidate]:
    """Step every quantised candidate beside the float one along one stream.

    Args:
        candidates: All of one format.
        float_: What they are compared with; a cell with explicit state.
        sequences: Shape (n, steps, …); they follow each other, again and again until
            there are 1,000 steps, and 4,000 at most.
        request: Its limits and constants count.

    Returns:
        The candidates with their drift; one whose answers are garbage at the end of the
        stream is not sound.
    """
    stream = float_.file.with_name("stream.npy")
    np.save(stream, _stream_of(sequences))
    return [
        one if one.precision == float_.precision else _stepped(one, float_, stream, request)
        for one in candidates
    ]


def _stream_of(sequences: np.ndarray) -> np.ndarray:
    steps = sequences.reshape(-1, *sequences.shape[2:])[:_MOST_STEPS]
    return np.concatenate([steps] * -(-_LEAST_STEPS // len(steps)))


def _stepped(one: Candidate, float_: FloatFile, stream: Path, request: Request) -> Candidate:
    arguments: dict[str, object] = {
        "models": [str(float_.file), str(one.file)],
        "kind": one.format,
        "inputs": str(stream),
        "constants": request.constants,
    }
    try:
        told = ask(here(), "streams.compare", arguments, request.limits, where=one.file.name).result
    except EdgeError as error:
        seen = Verified("one stream", False, error.what.split(chr(10))[0])
        return msgspec.structs.replace(one, verified=(*one.verified, seen))
    drift = msgspec.convert(told["drift"], tuple[Drift, ...])
    last = drift[-1]
    is_sound = last.output_db is None or last.output_db >= GARBAGE_DB
    reason = "" if is_sound else f"{last.output_db:.1f} dB, at least {GARBAGE_DB:g} dB expected"
    parity = Parity(last.output_db, last.largest, None, last.last - last.first + 1)
    seen = Verified(f"one stream, steps {last.first} to {last.last}", is_sound, reason, parity)
    return msgspec.structs.replace(one, verified=(*one.verified, seen), drift=drift)
