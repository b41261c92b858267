"""Where one model runs: on the event loop while it is quick, else on a thread of its own.

Handing a call to a thread and its answer back costs about as much as a small
model itself. A long call on the event loop would stall every other answer.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from edge_runtime.errors import RequestError
from edge_runtime.ports import Clock

__all__ = ["Lane"]

T = TypeVar("T")

_NEW = 0.125


class _Job(Generic[T]):
    """A call that waits for the thread, and the future that waits for its answer."""

    __slots__ = ("call", "future", "windows")

    def __init__(self, call: Callable[[], T], windows: int, future: asyncio.Future[T]) -> None:
        self.call, self.windows, self.future = call, windows, future


class Lane:
    """Runs the calls of one model one after the other, in the order they came.

    Used from the event loop. What it expects of a call is what windows took
    lately, so that a model that grows slow moves to the thread by itself.

    Args:
        name: Of the model, for messages and the thread's name.
        inline_ns: Calls expected to be shorter run at once.
        queue: Most calls that wait; another one is refused (``drop_newest``).
        clock: Tells how long calls take.

    Attributes:
        window_ns: What a window takes, as measured lately.
        waiting: Calls that wait or run.
    """

    def __init__(self, name: str, *, inline_ns: float, queue_limit: int, clock: Clock) -> None:
        self._name = name
        self._inline_ns = inline_ns
        self._limit = queue_limit
        self._clock = clock
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._began_ns: int | None = None
        self.window_ns = 0.0
        self.waiting = 0

    def run(self, call: Callable[[], T], windows: int) -> T | asyncio.Future[T]:
        """Call now and return the answer, or return a future of it.

        Args:
            call: What to do.
            windows: About how many windows the model is asked for.

        Raises:
            RequestError: Too many calls wait already.
        """
        if not self.waiting and windows * self.window_ns < self._inline_ns:
            return self._timed(call, windows)
        if self.waiting >= self._limit:
            raise self._full()
        job = _Job(call, windows, asyncio.get_running_loop().create_future())
        self.waiting += 1
        self._start()
        self._jobs.put(job)
        return job.future

    def run_last(self, call: Callable[[], object]) -> None:
        """Call behind what waits, however much that is; nobody learns what came of it."""
        if not self.waiting:
            call()
            return
        self.waiting += 1
        self._jobs.put(_Job(call, 0, asyncio.get_running_loop().create_future()))

    def is_stuck(self, limit_s: float) -> bool:
        """Whether a call on the thread has been running for longer than ``limit_s``."""
        began_ns = self._began_ns
        return began_ns is not None and self._clock.monotonic_ns() - began_ns > limit_s * 1e9

    def close(self) -> None:
        """End the thread behind what waits; no call may follow."""
        if self._thread is not None:
            self._jobs.put(None)

    def _full(self) -> RequestError:
        return RequestError(
            f"{self.waiting} requests wait for this model",
            kind="busy",
            where=self._name,
            expected=f"at most {self._limit}",
            remedy="Ask again later, or put more windows into one request.",
        )

    def _timed(self, call: Callable[[], T], windows: int) -> T:
        start_ns = self._clock.monotonic_ns()
        try:
            return call()
        finally:
            if windows:
                taken_ns = self._clock.monotonic_ns() - start_ns
                self.window_ns += (taken_ns / windows - self.window_ns) * _NEW

    # --- the thread -------------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None:
            loop = asyncio.get_running_loop()
            # A daemon: a hung call must not keep the process from ending.
            self._thread = threading.Thread(
                target=self._work, args=(loop,), name=f"model {self._name}", daemon=True
            )
            self._thread.start()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (job := self._jobs.get()) is not None:
            answer: object = None
            failure: Exception | None = None
            # Whoever asked may have gone, or given up.
            if not job.future.done():
                self._began_ns = self._clock.monotonic_ns()
                try:
                    answer = self._timed(job.call, job.windows)
                except Exception as error:
                    failure = error
                self._began_ns = None
            try:
                loop.call_soon_threadsafe(self._settle, job.future, answer, failure)
            except RuntimeError:
                return  # the loop is closed, and nobody waits any more

    def _settle(
        self, future: asyncio.Future[Any], answer: object, failure: Exception | None
    ) -> None:
        self.waiting -= 1
        if future.done():
            return
        if failure is None:
            future.set_result(answer)
        else:
            future.set_exception(failure)
