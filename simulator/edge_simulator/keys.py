"""Single key presses from a terminal, without waiting for Enter."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator

__all__ = ["Keys", "keys_of_terminal"]


class Keys:
    """Answers which keys were pressed since the last question; none without a terminal."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor

    @property
    def is_live(self) -> bool:
        """Whether somebody could press a key."""
        return self._descriptor is not None

    def pressed(self) -> str:
        """Return the keys pressed, lower case, oldest first; never waits."""
        if self._descriptor is None:
            return ""
        ready, _, _ = select.select([self._descriptor], [], [], 0)
        return os.read(self._descriptor, 64).decode(errors="ignore").lower() if ready else ""


@contextlib.contextmanager
def keys_of_terminal() -> Iterator[Keys]:
    """Read keys one by one until the block ends; the terminal is put back as it was."""
    if not sys.stdin.isatty():
        yield Keys()
        return
    try:
        import termios
        import tty
    except ImportError:
        # No such terminals on this system: the demo runs by itself.
        yield Keys()
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        # Unlike raw mode this leaves Ctrl-C and line ends as they are.
        tty.setcbreak(descriptor)
        yield Keys(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
