"""A source that follows a script, crashes included."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec
import numpy as np

from edge_runtime.errors import SourceError
from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame

__all__ = ["Abort", "End", "Quiet", "Samples", "ScriptedSource", "Step"]


class Samples(msgspec.Struct, frozen=True, eq=False):
    """A block of consecutive samples.

    Attributes:
        values: Shape (n, channels), any real dtype.
        time_ns: Event times, shape (n,), int64; None continues at the stream's rate.
        quality: What is suspect about each, as in a `Frame`.
    """

    values: np.ndarray
    time_ns: np.ndarray | None = None
    quality: np.ndarray | None = None


class Quiet(msgspec.Struct, frozen=True):
    """One read that brings nothing."""


class Abort(msgspec.Struct, frozen=True):
    """The source fails here, once; opened again it goes on."""

    reason: str = "scripted failure"


class End(msgspec.Struct, frozen=True):
    """The recording ends here; a script without it is a live sensor."""


Step = Samples | Quiet | Abort | End


class ScriptedSource:
    """Plays steps in order; samples can be replayed, `Quiet` and `Abort` happen once.

    Delivery: opened at index k it delivers exactly the samples from k on.
    A live script (without `End`) reads None once it has run out.

    Args:
        steps: What happens.
        start_ns: Time of the first sample that has none of its own.

    Attributes:
        opened: Index of every open so far.
    """

    def __init__(self, steps: Sequence[Step], *, start_ns: int = 0) -> None:
        self.opened: list[int] = []
        self._steps = list(steps)
        self._start_ns = start_ns
        self._done: set[int] = set()
        self._closed = threading.Event()
        self._stream = ""
        self._period_ns = 0
        self._step = 0
        self._first = 0
        self._position = 0
        self._is_exhausted = False

    @property
    def is_exhausted(self) -> bool:
        """Whether `End` was reached."""
        return self._is_exhausted

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """Start over and pass over the samples before ``index``."""
        self.opened.append(index)
        self._closed.clear()
        self._stream, self._period_ns = stream, need.period_ns
        self._step, self._first, self._position = 0, 0, index
        self._is_exhausted = False

    def read(self, timeout_s: float) -> Frame | None:  # noqa: ARG002
        """Play on to the next block of samples or the next quiet moment, without waiting.

        Raises:
            SourceError: The script says `Abort`.
        """
        while not self._closed.is_set() and self._step < len(self._steps):
            step = self._steps[self._step]
            if isinstance(step, End):
                self._is_exhausted = True
                return None
            self._step += 1
            if isinstance(step, Samples):
                frame = self._frame(step)
                if frame is not None:
                    return frame
            elif self._step not in self._done:
                self._done.add(self._step)
                self._fail_at(step)
                return None
        return None

    def close(self) -> None:
        """Stop; safe to call twice and from any thread."""
        self._closed.set()

    def _fail_at(self, step: Quiet | Abort) -> None:
        if isinstance(step, Abort):
            raise SourceError(step.reason, where=self._stream, remedy="Open the source again.")

    def _frame(self, step: Samples) -> Frame | None:
        first, last = self._first, self._first + len(step.values)
        self._first = last
        if last <= self._position:
            return None
        skip = max(0, self._position - first)
        times, step_ns = step.time_ns, None
        if times is None:
            step_ns = self._period_ns
            times = self._start_ns + np.arange(first, last, dtype=np.int64) * self._period_ns
        self._position = last
        return Frame(
            self._stream,
            first + skip,
            times[skip:],
            step.values[skip:],
            step_ns=step_ns,
            quality=None if step.quality is None else step.quality[skip:],
        )
