"""Loaded models: one for all streams that run it, and how long their answers take."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle
from edge_runtime.metrics import Histogram
from edge_runtime.ports import Choice, Session
from edge_runtime.spec import MAIN, ModelSpec
from edge_runtime.types import StateKind

__all__ = ["SharedModels", "TimedSession", "stage_times"]


class TimedSession:
    """A session that notes how long each call takes; else it is the one it is given.

    Args:
        session: To be timed.
        answers: Takes the durations.
        of_stages: Take those of the stages of a cascade; None for new ones.

    Attributes:
        answers: Durations of `run`.
        stages: Those of a cascade, timed too; else none.
    """

    def __init__(
        self, session: Session, answers: Histogram, of_stages: Sequence[Histogram] | None = None
    ) -> None:
        self._session = session
        self._run = session.run
        self.answers = answers
        stages: Sequence[Session] = getattr(session, "stages", ())
        times = of_stages or [Histogram() for _ in stages]
        self.stages = tuple(map(TimedSession, stages, times))
        self.inputs, self.outputs = session.inputs, session.outputs
        self.state_kind: StateKind = session.state_kind

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Answer a batch, see `Session.run`."""
        start_ns = time.perf_counter_ns()
        answer = self._run(batch)
        self.answers.note(time.perf_counter_ns() - start_ns)
        return answer

    def reset(self) -> None:
        """Forget state kept between calls."""
        self._session.reset()

    def fork(self) -> TimedSession:
        """Return a session with state of its own; all forks note into one histogram."""
        if self.state_kind == "stateless":
            return self
        of_stages = [stage.answers for stage in self.stages]
        return TimedSession(self._session.fork(), self.answers, of_stages)

    def state(self) -> bytes | None:
        """Return the state kept between calls."""
        return self._session.state()

    def restore(self, state: bytes) -> None:
        """Go on from `state`'s bytes."""
        self._session.restore(state)

    def close(self) -> None:
        """Free the model."""
        self._session.close()

    def __getattr__(self, name: str) -> Any:
        """Give access to what only some runtimes can do, such as ``interrupt``."""
        return getattr(self._session, name)


def stage_times(spec: ModelSpec, session: TimedSession) -> dict[str, Histogram]:
    """Return the durations of calls by stage of a cascade; none without one."""
    stages = zip(spec.cascade, session.stages, strict=True)
    found = {stage.name: one.answers for stage, one in stages if stage.artefacts}
    return found | ({MAIN: session.answers} if spec.cascade else {})


class SharedModels:
    """Opens a model once for all streams of one worker that run it.

    Streams whose model keeps no state share one session, all others get a fork.
    A model is freed when the last stream lets go of it. Callable from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: WeakValueDictionary[tuple[str, Choice], TimedSession] = WeakValueDictionary()

    def open(self, bundle: Bundle, choice: Choice, *, is_new: bool = False) -> TimedSession:
        """Return a session for one stream.

        Args:
            bundle: What to run.
            choice: How.
            is_new: Whether to load it again, whatever others use: theirs has failed.

        Raises:
            EdgeError: The model does not open.
        """
        key = (bundle.digest, choice)
        with self._lock:
            known = None if is_new else self._open.get(key)
            if known is not None:
                return known.fork()
            session = TimedSession(open_session(bundle, choice), Histogram())
            self._open[key] = session
            return session
