"""Single keys from a terminal, or characters from a pipe."""

from __future__ import annotations

import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["keys"]


@contextmanager
def keys() -> Iterator[Callable[[], str]]:
    """Give what waits for the next key; it returns nothing at the end of the input."""
    if not sys.stdin.isatty():
        yield lambda: sys.stdin.read(1)
        return
    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    try:
        # Ctrl-C still interrupts.
        tty.setcbreak(file)
        yield lambda: sys.stdin.read(1)
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)
