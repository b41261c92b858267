"""Admission: a new base must prove itself in a child process before it may serve.

The child loads the bundle, asks every golden question twice, in a batch and one
by one, and prints its verdict. A model with state gets its golden windows as one
sequence from fresh state. Every model of a cascade is asked by itself too, and the
golden windows must end at every one of them. Whatever else happens to the child is a refusal with
a reason, never an exception here.

The first word of a reason is one of ``bundle``, ``missing``, ``load``, ``nan``,
``repeat``, ``batch``, ``path``, ``golden``, ``memory``, ``time``, ``crash`` or ``spawn``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.backends import artefacts_of, backend_of, open_session
from edge_runtime.bundle import Bundle, Golden, load_bundle
from edge_runtime.errors import ModelError
from edge_runtime.pipeline import BATCH, Pipeline, models_of
from edge_runtime.ports import Choice, Session
from edge_runtime.update import child
from edge_runtime.update.proof import golden_windows

__all__ = ["Admission", "admit"]

_SINGLES = 64
# The child first brings the interpreter and the runtime up.
_START_S = 10.0


class Admission(msgspec.Struct, frozen=True):
    """The verdict about one bundle.

    Attributes:
        is_admitted: Whether it may serve.
        reason: Why not; empty if it may.
        seconds: Wall time of the child.
        peak_rss_mb: Its largest resident memory, MiB.
        worst_difference: Largest distance to a golden output, in reported units.
    """

    is_admitted: bool
    reason: str = ""
    seconds: float = 0.0
    peak_rss_mb: float = 0.0
    worst_difference: float = 0.0


def admit(
    bundle_path: Path,
    choice: Choice | None = None,
    *,
    limit_mb: int = 1024,
    limit_s: float = 30.0,
) -> Admission:
    """Prove a bundle in a child process.

    Blocks for about half a second, and for little more than ``limit_s`` at most;
    call it off the threads that must not wait. Never raises for anything the
    bundle does.

    Args:
        bundle_path: Archive or folder whose hash has been verified.
        choice: How this machine runs it; None for the bundle's preference.
        limit_mb: Address space the model may add to the loaded runtime, MiB.
        limit_s: Wall time, and CPU time, of the proof.
    """
    start = time.monotonic()
    how = msgspec.json.encode(choice or Choice()).decode()
    arguments = [str(bundle_path), how, str(limit_mb), str(limit_s)]
    answer = child.ask(__name__, arguments, limit_s=limit_s + _START_S)
    return msgspec.structs.replace(_verdict(answer), seconds=time.monotonic() - start)


def _verdict(answer: child.Answer) -> Admission:
    if answer.death:
        return Admission(False, answer.death)
    try:
        return msgspec.json.decode(answer.lines[-1], type=Admission)
    except msgspec.DecodeError:
        return Admission(False, f"crash: it printed {answer.lines[-1][:200]!r}")


# --- in the child -------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Judge one bundle in this process and print the verdict; for `admit` alone."""
    path, how, limit_mb, limit_s = arguments
    child.limit_process()
    proof = _Proof(Path(path), msgspec.json.decode(how, type=Choice))
    # Loaded before the limit on memory: what the runtime reserves is not the model's.
    fault = child.limited(proof.prepare, limit_mb=1 << 20, limit_s=float(limit_s))
    if fault is None:
        fault = child.limited(proof.prove, limit_mb=int(limit_mb), limit_s=float(limit_s))
    child.tell(
        Admission(
            fault is None,
            child.reason_of(fault),
            peak_rss_mb=child.peak_rss_mb(),
            worst_difference=0.0 if fault else proof.worst,
        )
    )
    return 0


class _Proof:
    """One bundle, and how far its answers are from the golden ones."""

    def __init__(self, path: Path, choice: Choice) -> None:
        self._path = path
        # This process is the model's own already.
        self._choice = msgspec.structs.replace(choice, isolation="thread")
        self.worst = 0.0

    def prepare(self) -> None:
        self._bundle = load_bundle(self._path)
        for artefact, choice in artefacts_of(self._bundle, self._choice):
            backend_of(choice.backend, artefact.backend).probe()

    def prove(self) -> None:
        session = open_session(self._bundle, self._choice)
        try:
            self.worst = _replay(self._bundle, session, self._choice.block)
        finally:
            session.close()


def _replay(bundle: Bundle, session: Session, block: int) -> float:
    """Ask every golden question three ways; return the largest distance to its answer."""
    golden = bundle.golden()
    pipeline = Pipeline(bundle.spec, session, base=bundle.digest, block=block)
    found = _repeated(pipeline, golden)
    if bundle.spec.cascade:
        _check_ways(pipeline, golden)
        for spec, one in models_of(bundle.spec, session):
            _repeated(Pipeline(spec, one, base=bundle.digest), golden, is_part=True)
    return _distance(found, golden, bundle.spec.tolerance)


def _check_ways(pipeline: Pipeline, golden: Golden) -> None:
    """Refuse golden windows that leave a way through the cascade untried."""
    stage = pipeline.score_windows(golden_windows(golden.inputs)).stage
    ends = set() if stage is None else set(stage.tolist())
    untried = [name for number, name in enumerate(pipeline.spec.stages) if number not in ends]
    if untried:
        raise ModelError(f"path: no golden window is answered by {' and none by '.join(untried)}")


def _repeated(pipeline: Pipeline, golden: Golden, *, is_part: bool = False) -> np.ndarray:
    """Return the answers to golden windows, which are the same however they are asked.

    Args:
        pipeline: Asked three ways.
        golden: The windows.
        is_part: Of a cascade: it may be asked here what it is never asked in the field.
    """
    session = pipeline.scorer.session

    def answers(inputs: np.ndarray) -> np.ndarray:
        session.reset()
        return pipeline.score_windows(golden_windows(inputs)).score

    # Whole batches, so that the batched shape is asked even with few golden windows.
    repeats = -(-len(golden) // BATCH) * BATCH
    inputs = np.resize(golden.inputs, (repeats, *golden.inputs.shape[1:]))
    first, second = answers(inputs), answers(inputs)
    if not is_part and not np.isfinite(first).all():
        raise ModelError("nan: an answer to a golden window is not finite")
    if first.tobytes() != second.tobytes():
        raise ModelError("repeat: the same question got two answers; the model keeps state")
    count = min(len(golden), _SINGLES)
    if session.state_kind == "stateless":
        parts = [answers(inputs[i : i + 1]) for i in range(count)]
    else:
        # An answer depends on all windows before it, but not on those that come with it.
        parts = [answers(inputs[: i + 1])[-1:] for i in range(count)]
    if np.concatenate(parts).tobytes() != first[:count].tobytes():
        raise ModelError("batch: a window alone and in a batch got two answers")
    return first[: len(golden)]


def _distance(answers: np.ndarray, golden: Golden, tolerance: float) -> float:
    if answers.shape != golden.outputs.shape:
        raise ModelError(
            f"golden: answers have shape {answers.shape}, outputs {golden.outputs.shape}"
        )
    worst = float(np.abs(answers - golden.outputs).max())
    if worst > tolerance:
        raise ModelError(f"golden: an answer differs by {worst:g} > {tolerance:g}")
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
