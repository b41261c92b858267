"""One candidate in a process of its own: a native crash, a hang or a leak stays in it.

Started as ``python -m edge_runtime.tune.child BUNDLE CANDIDATE``. It says first
how it opened, then answers one `Ask` a line until its input ends.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle, Golden, load_bundle
from edge_runtime.child import replies
from edge_runtime.errors import EdgeError, MissingExtra
from edge_runtime.machine import rss_mb
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Choice, Session
from edge_runtime.timing import take_sample
from edge_runtime.tune.candidates import Candidate
from edge_runtime.tune.wire import Ask, Failed, Opened, Reply, Took
from edge_runtime.types import StateKind, Windows
from edge_runtime.update.proof import golden_windows

__all__ = ["Subject", "main"]

_FIRST_LOOK_S = 0.02
_GOLDEN_S = 0.5
_LEAST_GOLDEN, _MOST_GOLDEN = 2, 64


class Subject:
    """One candidate, opened: what can be asked of it.

    Args:
        bundle: What to run.
        candidate: How.

    Raises:
        EdgeError: It does not open.
    """

    def __init__(self, bundle: Bundle, candidate: Candidate) -> None:
        golden = bundle.golden()
        self._spec, self._base = bundle.spec, bundle.digest
        before_mb = rss_mb()
        self._session = open_session(bundle, _choice(candidate))
        self._pipelines: dict[int, Pipeline] = {}
        count = self._affordable(golden_windows(golden.inputs[:1]))
        self._golden = Golden(golden.inputs[:count], golden.outputs[:count])
        self._is_stateless = self._session.state_kind == "stateless"
        self._singles = [golden_windows(one[None]) for one in self._golden.inputs]
        self._answers = self._answered()
        self._added_mb = rss_mb() - before_mb
        self._next = 0

    def opened(self) -> Opened:
        """Compare the answers with the golden ones, and take a first look at the time."""
        is_alike = self._answered().tobytes() == self._answers.tobytes()
        distance = np.abs(self._answers - self._golden.outputs).max(axis=1)
        # A distance that is not a number agrees with nothing.
        agreeing = int((distance <= self._spec.tolerance).sum()) if is_alike else 0
        worst = float(distance.max())
        look = self.take(Ask("engine", 1, _FIRST_LOOK_S))
        return Opened(
            golden=len(self._golden),
            agreeing=agreeing,
            worst=worst if np.isfinite(worst) else None,
            engine_us=float(np.median([sample.us for sample in look.samples])),
            rss_mb=self._added_mb,
            is_stateless=self._is_stateless,
        )

    def take(self, ask: Ask) -> Took:
        """Take samples until the time is up; the first counts only if it takes all of it."""
        if ask.what == "block" and not self._is_equal(ask.rows):
            return Took((), 0.0, is_equal=False)
        call = self._call(ask.what, ask.rows)
        start_s = time.perf_counter()
        first = take_sample(call)
        samples = [first] if first.us >= ask.seconds * 1e6 else []
        while not samples or time.perf_counter() - start_s < ask.seconds:
            samples.append(take_sample(call))
        cpu_us = _cpu_us(call, 1 + len(samples) // 2) if ask.what == "window" else 0.0
        return Took(tuple(samples), cpu_us)

    def _affordable(self, window: Windows) -> int:
        """Return how many golden windows a slow model has the time for."""
        self._pipeline(1).score_windows(window)
        us = take_sample(lambda: self._pipeline(1).score_windows(window)).us
        return max(_LEAST_GOLDEN, min(_MOST_GOLDEN, int(_GOLDEN_S * 1e6 / us)))

    def _answered(self) -> np.ndarray:
        """Answer the golden windows one by one, in order, from a fresh start."""
        self._session.reset()
        return self._pipeline(1).score_windows(golden_windows(self._golden.inputs)).score

    @functools.cache  # noqa: B019 - lives as long as its process
    def _is_equal(self, rows: int) -> bool:
        answers = self._pipeline(rows).score_windows(self._block(rows)).score
        expected = np.resize(self._answers, answers.shape)
        return answers.tobytes() == expected.tobytes()

    @functools.cache  # noqa: B019 - lives as long as its process
    def _block(self, rows: int) -> Windows:
        inputs = self._golden.inputs
        return golden_windows(np.resize(inputs, (rows, *inputs.shape[1:])))

    @functools.cache  # noqa: B019 - lives as long as its process
    def _call(self, what: str, rows: int) -> Callable[[], object]:
        # Scoring a window out of its order would load a model with state anew each time.
        if what == "window" and self._is_stateless:
            return self._one_window
        if what == "block":
            pipeline, windows = self._pipeline(rows), self._block(rows)
            return lambda: pipeline.score_windows(windows)
        session, tensor = self._session, self._tensor(rows)
        return lambda: session.run(tensor)

    def _one_window(self) -> None:
        self._next = (self._next + 1) % len(self._singles)
        self._pipeline(1).score_windows(self._singles[self._next])

    def _pipeline(self, rows: int) -> Pipeline:
        if rows not in self._pipelines:
            self._pipelines[rows] = Pipeline(self._spec, self._session, base=self._base, block=rows)
        return self._pipelines[rows]

    def _tensor(self, rows: int) -> np.ndarray:
        """Return what the pipeline gives the session for a golden window, ``rows`` times."""
        tap = _Tap(self._session)
        # Of a cascade the bundle's own model, whose file is what the candidates differ in.
        spec = msgspec.structs.replace(self._spec, cascade=())
        Pipeline(spec, tap, base=self._base, block=1).score_windows(self._singles[0])
        return np.repeat(tap.seen, rows, axis=0)


class _Tap:
    """A session that remembers its last input."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.inputs, self.outputs = session.inputs, session.outputs
        self.state_kind: StateKind = session.state_kind
        self.seen = np.empty(0)
        self.reset, self.state = session.reset, session.state
        self.restore, self.close = session.restore, session.close

    def fork(self) -> Session:
        return self

    def run(self, batch: np.ndarray) -> np.ndarray:
        self.seen = batch.copy()
        return self._session.run(batch)


def main(arguments: list[str]) -> int:
    """Open one candidate and answer what is asked on standard input."""
    out = replies()
    subject = _open(out, *arguments)
    if subject is None:
        return 0
    for line in sys.stdin.buffer:
        try:
            _say(out, subject.take(msgspec.json.decode(line, type=Ask)))
        except EdgeError as error:
            _say(out, _failed(error))
            return 0
    return 0


def _open(out: BinaryIO, path: str, candidate: str) -> Subject | None:
    try:
        subject = Subject(load_bundle(Path(path)), msgspec.json.decode(candidate, type=Candidate))
        _say(out, subject.opened())
    except EdgeError as error:
        _say(out, _failed(error))
        return None
    return subject


def _cpu_us(call: Callable[[], object], calls: int) -> float:
    """Return the processor time of one call, over all threads of this process."""
    start_ns = time.process_time_ns()
    for _ in range(calls):
        call()
    return (time.process_time_ns() - start_ns) / 1e3 / calls


def _choice(candidate: Candidate) -> Choice:
    return Choice(
        backend=candidate.backend,
        artefact=candidate.artefact,
        threads=candidate.threads,
        accelerator=candidate.accelerator,
    )


def _failed(error: EdgeError) -> Failed:
    return Failed(error.what, error.remedy, isinstance(error, MissingExtra))


def _say(out: BinaryIO, reply: Reply) -> None:
    out.write(msgspec.json.encode(reply) + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
