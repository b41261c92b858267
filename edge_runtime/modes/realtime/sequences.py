"""Streams that are kept between requests: each is a pipeline of its own, with its state.

Source: Triton's sequence extension: ``sequence_id``, ``sequence_start``, ``sequence_end``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np

from edge_runtime.errors import RequestError
from edge_runtime.pipeline import AnyPipeline, TimedPipeline
from edge_runtime.ports import Clock
from edge_runtime.types import Frame, Output

__all__ = ["Sequence", "SequenceKey", "Sequences", "Streams"]

SequenceKey = tuple[str, int | str]
"""The base's digest and the id that the client chose."""

Ending = Literal["ended", "expired", "restarted", "unloaded"]


class Streams(Protocol):
    """What has pipelines for sequences: a served model."""

    def open_stream(self, sequence: str | int | None = None) -> AnyPipeline:
        """Return a pipeline with state of its own; called where the model runs."""
        ...

    def close_stream(self, opened: Callable[[], AnyPipeline | None]) -> None:
        """Let go of what ``opened`` returns once nothing waits for the model any more."""
        ...


class Sequence:
    """One stream, from its start to its end; its requests are answered in order.

    Args:
        key: Which.
        streams: Makes and closes its pipeline.

    Attributes:
        key: As given.
        used_ns: When it was last asked, monotonic.
        discarded: What its pipeline could not use of the last samples, by reason.
    """

    def __init__(self, key: SequenceKey, streams: Streams) -> None:
        self.key = key
        self.used_ns = 0
        self.discarded: Counter[str] = Counter()
        self._streams = streams
        self._pipeline: AnyPipeline | None = None
        self._index = 0
        self._is_timed: bool | None = None

    def push(
        self, samples: np.ndarray, time_ns: np.ndarray | None, *, is_end: bool = False
    ) -> Output:
        """Take the next samples and return what they complete.

        Args:
            samples: Shape (n, channels).
            time_ns: Shape (n,), int64; None counts them by the model's rate, from 0.
            is_end: Whether none come after them: what waits on a grid is answered too.

        Raises:
            RequestError: Times come in some requests and not in others.
            ShapeError: Samples are of another dtype than before.
        """
        if self._pipeline is None:
            self._pipeline = self._streams.open_stream(self.key[1])
        pipeline = self._pipeline
        self._check_timed(time_ns is not None)
        if time_ns is None:
            time_ns = self._counted(len(samples), pipeline.spec.stream.period_ns)
        before = pipeline.discarded
        frame = Frame(pipeline.stream, self._index, time_ns, samples)
        is_waiting = is_end and isinstance(pipeline, TimedPipeline)
        output = pipeline.run_many([frame]) if is_waiting else pipeline.push(frame)
        self._index += len(samples)
        self.discarded = Counter(pipeline.discarded)
        self.discarded.subtract(before)
        return output

    def close(self) -> None:
        """Let go of the pipeline, behind what waits for the model."""
        self._streams.close_stream(lambda: self._pipeline)

    def _counted(self, count: int, period_ns: int) -> np.ndarray:
        return np.arange(self._index, self._index + count, dtype=np.int64) * period_ns

    def _check_timed(self, is_timed: bool) -> None:
        if self._is_timed is None:
            self._is_timed = is_timed
        if self._is_timed is not is_timed:
            raise RequestError(
                f"time_ns {'comes now' if is_timed else 'is missing now'}",
                where=f"sequence {self.key[1]!r}",
                expected="time_ns in all requests of a sequence, or in none",
                remedy="Without it, samples are counted by the model's rate.",
            )


class Sequences:
    """All sequences of a server: bounded, and forgotten when nobody asks; event loop only.

    Args:
        limit: Most at once; another one is refused (``drop_newest``).
        idle_s: Forgotten after so long without a request.
        clock: Tells that time.

    Attributes:
        counts: ``started``, ``refused``, and how they ended: ``ended``, ``expired``,
            ``restarted``, ``unloaded``.
    """

    def __init__(self, *, limit: int, idle_s: float, clock: Clock) -> None:
        self._limit = limit
        self._idle_ns = round(idle_s * 1e9)
        self._clock = clock
        # In the order of their last use, so that the idle ones come first.
        self._open: dict[SequenceKey, Sequence] = {}
        self.counts = dict.fromkeys(
            ("started", "refused", "ended", "expired", "restarted", "unloaded"), 0
        )

    def __len__(self) -> int:
        return len(self._open)

    def start(self, key: SequenceKey, streams: Streams) -> Sequence:
        """Begin a sequence; one of the same id that is open is forgotten.

        Raises:
            RequestError: There are as many as there may be.
        """
        self.expire()
        if key in self._open:
            self._end(key, "restarted")
        if len(self._open) >= self._limit:
            self.counts["refused"] += 1
            raise RequestError(
                f"{len(self._open)} sequences are open",
                kind="busy",
                where=f"sequence {key[1]!r}",
                expected=f"at most {self._limit}",
                remedy="End sequences with sequence_end, or raise limits.sequences.",
            )
        self.counts["started"] += 1
        return self._touched(Sequence(key, streams))

    def find(self, key: SequenceKey) -> Sequence:
        """Return a sequence that was started.

        Raises:
            RequestError: It was not, or it has ended or expired.
        """
        self.expire()
        if key not in self._open:
            raise RequestError(
                "it is not open: never started, ended, or expired",
                kind="unknown",
                where=f"sequence {key[1]!r}",
                expected="sequence_start in its first request",
                remedy=f"Start it anew; it is forgotten after {self._idle_ns / 1e9:g} s.",
            )
        return self._touched(self._open[key])

    def end(self, sequence: Sequence) -> None:
        """Forget a sequence that has come to its end."""
        if self._open.get(sequence.key) is sequence:
            self._end(sequence.key, "ended")

    def unload(self, digest: str) -> None:
        """Forget all sequences of a base that is not served any more."""
        for key in [key for key in self._open if key[0] == digest]:
            self._end(key, "unloaded")

    def expire(self) -> None:
        """Forget those that nobody has asked for too long."""
        now_ns = self._clock.monotonic_ns()
        while self._open:
            oldest = next(iter(self._open.values()))
            if now_ns - oldest.used_ns < self._idle_ns:
                break
            self._end(oldest.key, "expired")

    def _touched(self, sequence: Sequence) -> Sequence:
        sequence.used_ns = self._clock.monotonic_ns()
        self._open.pop(sequence.key, None)
        self._open[sequence.key] = sequence
        return sequence

    def _end(self, key: SequenceKey, how: Ending) -> None:
        self._open.pop(key).close()
        self.counts[how] += 1
