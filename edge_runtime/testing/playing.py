"""Lets a stand-in play in the background while a test reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["in_background"]


@contextmanager
def in_background(play: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run ``play`` in a thread until the block ends; it returns soon after its event is set."""
    ended = threading.Event()
    thread = threading.Thread(target=play, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
