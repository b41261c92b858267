"""The thread of one source: frames to the pipeline, and a failed source opened again."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from edge_runtime.errors import SourceError
from edge_runtime.modes.status import Made
from edge_runtime.ports import Source
from edge_runtime.types import Frame

__all__ = ["Reader", "is_live"]

log = logging.getLogger(__name__)

# How long a source waits when nothing comes; whoever stops the device closes it.
_IDLE_S = 5.0
# A failed source is opened again after a random time up to this, doubling each time.
_RESTART_S = (0.5, 30.0)


def is_live(source: Source) -> bool:
    """Whether a source cannot be replayed: what it missed is gone."""
    return hasattr(source, "health")


class Reader:
    """Reads one source until it ends or the device does.

    A source that fails is opened again after growing, jittered waits, for as long as
    the device runs: a sensor that is unplugged takes neither the device nor the other
    streams with it.

    Thread: `run` is the source's own.

    Args:
        stream: Name of the stream.
        source: Read, and closed when it fails.
        open_at: Opens it at an index.
        offer: Hands a frame to the pipeline; waits while it is behind.
        made: Where restarts are counted.
        stop: Ends the reading, and the wait for the next try.
        closing: Set when nobody takes frames any more.
    """

    def __init__(
        self,
        stream: str,
        source: Source,
        *,
        open_at: Callable[[int], None],
        offer: Callable[[Frame], None],
        made: Made,
        stop: threading.Event,
        closing: threading.Event,
    ) -> None:
        self._stream = stream
        self._source = source
        self._open_at = open_at
        self._offer = offer
        self._made = made
        self._stop = stop
        self._closing = closing
        self._index = 0
        self._is_open = False
        self._wait_s = _RESTART_S[0]
        self._is_lost = False

    def open(self, index: int) -> None:
        """Open the source for the first time; a live one that cannot be is tried again later.

        Raises:
            ConfigError: It does not fit the model.
            SourceError: A recording cannot be read.
        """
        self._index = index
        try:
            self._open_at(index)
            self._is_open = True
        except SourceError as error:
            if not is_live(self._source):
                raise
            self._failed(error)

    def run(self) -> None:
        """Read until the source is exhausted or the device ends; then close it."""
        while not self._has_ended():
            try:
                frame = self._next()
            except OSError as error:
                self._failed(error)
                self._rest()
            else:
                if frame is not None:
                    self._hand_on(frame)
        self._source.close()

    def _has_ended(self) -> bool:
        return self._stop.is_set() or self._closing.is_set() or self._source.is_exhausted

    def _next(self) -> Frame | None:
        if not self._is_open:
            self._open_at(self._index)
            self._is_open = True
        return self._source.read(_IDLE_S)

    def _hand_on(self, frame: Frame) -> None:
        if self._is_lost:
            log.warning("source.recovered", extra={"stream": self._stream})
            self._is_lost, self._wait_s = False, _RESTART_S[0]
        self._offer(frame)
        # Frames may still wait for the pipeline: it is this that has been delivered.
        self._index = frame.index + len(frame)

    def _failed(self, error: OSError) -> None:
        """Say so the first time in a row, and count it every time."""
        self._made.restarts += 1
        level = logging.DEBUG if self._is_lost else logging.WARNING
        log.log(level, "source.failed", extra={"stream": self._stream, "why": str(error)})
        self._is_open, self._is_lost = False, True
        self._source.close()

    def _rest(self) -> None:
        self._stop.wait(random.uniform(0, self._wait_s))  # noqa: S311 - jitter, no secret
        self._wait_s = min(2 * self._wait_s, _RESTART_S[1])
