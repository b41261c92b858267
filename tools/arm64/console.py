"""The serial console of an emulated machine, as a person at a keyboard sees it."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

__all__ = ["CommandError", "Console"]

_PROMPT = r"\$ $"
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]|\r")
# The begin of an escape sequence, or of a character, whose rest has not come yet.
_CUT = re.compile(rb"(\x1b(\[[0-9;?]*)?|[\xc0-\xff][\x80-\xbf]*)?$")


class CommandError(Exception):
    """A command that was typed has failed."""


class Console:
    """Types lines and waits for what is printed.

    Args:
        path: The socket of the console, as `vm.Machine` made it.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.settimeout(0.5)
        self._cut = b""
        self._unread = ""
        self.transcript = ""

    def close(self) -> None:
        """Leave the keyboard."""
        self._socket.close()

    def type(self, line: str) -> None:
        """Type a line and press enter."""
        self._socket.sendall(line.encode() + b"\n")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._socket.sendall(b"\x03")

    def wait_for(self, pattern: str, limit_s: float) -> str:
        """Return what was printed up to and including ``pattern``.

        Raises:
            TimeoutError: It was not printed in time; says what was printed instead.
        """
        deadline = time.monotonic() + limit_s
        seen, self._unread = self._unread, ""
        while (found := re.search(pattern, seen)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {pattern!r} within {limit_s:.0f} s; but: {seen[-2000:]}")
            seen += self._read()
        self._unread = seen[found.end() :]
        self.transcript += seen[: found.end()]
        return seen[: found.end()]

    def run(self, line: str, limit_s: float = 60.0) -> str:
        """Type a command, wait for its end, and return what it printed.

        Raises:
            CommandError: It ended with another code than 0.
            TimeoutError: It did not end in time.
        """
        self.type(line)
        printed = self.wait_for(_PROMPT, limit_s)
        self.type('echo "code=$?"')
        answer = self.wait_for(rf"code=\d+\s[^$]*{_PROMPT}", limit_s)
        if "code=0" not in answer:
            raise CommandError(f"{line}: {answer}after {printed[-2000:]}")
        return printed

    def _read(self) -> str:
        """Return what comes, at most half a second later; control characters are left out."""
        try:
            received = self._socket.recv(65536)
        except TimeoutError:
            return ""
        if not received:
            raise ConnectionError(f"the machine went off after: {self.transcript[-2000:]}")
        whole = self._cut + received
        self._cut = _CUT.search(whole)[0]
        return _ESCAPES.sub(b"", whole.removesuffix(self._cut)).decode(errors="replace")
