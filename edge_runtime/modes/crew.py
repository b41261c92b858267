"""Threads that work together: one that fails ends all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack

__all__ = ["Crew"]

log = logging.getLogger(__name__)


class Crew:
    """Starts threads, and remembers the first failure among them; callable from any thread.

    Args:
        stop: Set when one fails.

    Attributes:
        failure: Why the first that failed did; None while all is well.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self.failure: BaseException | None = None

    def start(self, stack: ExitStack, name: str, run: Callable[[], None]) -> None:
        """Start a thread; the stack waits for its end."""

        def guarded() -> None:
            try:
                run()
            except BaseException as error:
                log.exception("thread.failed", extra={"thread_name": name})
                self.failure = self.failure or error
                self._stop.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        stack.callback(thread.join)
