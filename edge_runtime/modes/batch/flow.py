"""Reading ahead and scoring in threads, in order and with bounded queues."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Ahead", "in_order"]

T = TypeVar("T")
R = TypeVar("R")
W = TypeVar("W")

_POLL_S = 0.1


class Ahead(Generic[T]):
    """Iterates in a thread of its own, a few items before they are asked for.

    When so many wait, the thread waits too (policy: block). An error rises where
    the item would have come. Close it, or the thread waits for ever.

    Args:
        items: Touched by that thread alone.
        depth: Most items that wait.
    """

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batch-reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while (found := self._queue.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]

    def close(self) -> None:
        """Stop after the item at hand; safe to call twice."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put((item,)):
                    return
            self._put(None)
        except BaseException as error:  # It must not be lost with the thread.
            self._put(error)

    def _put(self, item: tuple[T] | BaseException | None) -> bool:
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=_POLL_S)
                return True
        return False


def in_order(
    items: Iterable[T], work: Callable[[W, T], R], workers: list[W]
) -> Generator[R, None, None]:
    """Yield ``work(worker, item)`` for each item, in the order of the items.

    Each worker is used by one thread at a time; one more item than there are
    workers is under way, so that none of them waits for the caller.

    Args:
        items: Asked for by the caller's thread.
        work: What to do.
        workers: One for each thread.
    """
    free: queue.SimpleQueue[W] = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)

    def done(item: T) -> R:
        worker = free.get()
        try:
            return work(worker, item)
        finally:
            free.put(worker)

    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(len(workers), thread_name_prefix="batch-scorer") as pool:
        try:
            for item in items:
                pending.append(pool.submit(done, item))
                if len(pending) > len(workers):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
