"""Signs of life: a page of memory that a device writes and its supervisor reads.

Writing costs no system call, and what was written last survives the process: so
the supervisor knows in whose model call a device died or hangs. The standard
library alone, and little of it: the supervisor has to stay small.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

__all__ = ["Crash", "Vitals"]

_SIZE = 64 * 1024
_BEATS = struct.Struct("<Q")
_LIMIT = struct.Struct("<d")
_LENGTH = struct.Struct("<I")
_BEATS_AT, _LIMIT_AT, _BUSY_AT, _LOADING_AT, _LENGTH_AT, _NAMES_AT = 0, 8, 16, 17, 20, 24
_MOST_STREAMS = 254


class Crash(NamedTuple):
    """What a base has done to its device.

    Attributes:
        base: Digest of the base.
        times: How often it has done so.
        how: How it went last.
    """

    base: str
    times: int
    how: str


class Vitals:
    """The page.

    Args:
        file: Where it lies, for the supervisor's process and the device's to map
            both; without one, nobody else sees the page.
    """

    def __init__(self, file: int = -1) -> None:
        self._page = mmap.mmap(file, _SIZE)
        self._beats = 0
        self._guard = threading.Lock()

    @classmethod
    def make(cls) -> tuple[Vitals, int]:
        """Return a page of its own, and the descriptor to hand to a child and to close."""
        file = _nameless()
        os.ftruncate(file, _SIZE)
        return cls(file), file

    # --- the device -------------------------------------------------------------

    def beat(self) -> None:
        """Say that the pipeline goes on, or has nothing to do."""
        self._beats += 1
        _BEATS.pack_into(self._page, _BEATS_AT, self._beats)

    def enter(self, number: int) -> None:
        """Say that stream ``number``, counted from 0, calls its model now."""
        self._page[_BUSY_AT] = number + 1 if number < _MOST_STREAMS else 0

    def leave(self) -> None:
        """Say that the call has ended; the next `beat` tells it from the call after."""
        self._page[_BUSY_AT] = 0

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Say that a model is being loaded, by any thread, as long as this lasts."""
        self._count_loading(1)
        try:
            yield
        finally:
            self._count_loading(-1)

    def _count_loading(self, change: int) -> None:
        with self._guard:
            self._page[_LOADING_AT] += change

    def tell(self, limit_s: float, bases: Mapping[str, str]) -> None:
        """Say how long a call may take, and which base every stream runs."""
        text = "\n".join(f"{stream} {base}" for stream, base in bases.items()).encode()
        if len(text) > _SIZE - _NAMES_AT:
            # No table, rather than half of one.
            text = b""
        _LENGTH.pack_into(self._page, _LENGTH_AT, 0)
        self._page[_NAMES_AT : _NAMES_AT + len(text)] = text
        _LENGTH.pack_into(self._page, _LENGTH_AT, len(text))
        _LIMIT.pack_into(self._page, _LIMIT_AT, limit_s)
        self.beat()

    # --- who watches --------------------------------------------------------------

    @property
    def beats(self) -> int:
        """How often the pipeline said that it goes on."""
        count: int = _BEATS.unpack_from(self._page, _BEATS_AT)[0]
        return count

    @property
    def limit_s(self) -> float | None:
        """How long a call may take; None until the device has said so."""
        return float(_LIMIT.unpack_from(self._page, _LIMIT_AT)[0]) or None

    @property
    def busy(self) -> int | None:
        """Number of the stream that calls its model; None between two calls."""
        number = self._page[_BUSY_AT]
        return number - 1 if number else None

    @property
    def is_loading(self) -> bool:
        """Whether some thread loads a model."""
        return self._page[_LOADING_AT] > 0

    @property
    def bases(self) -> dict[str, str]:
        """Which base every stream runs, in the order of their numbers."""
        # 0 if it died while it wrote.
        length = _LENGTH.unpack_from(self._page, _LENGTH_AT)[0]
        lines = self._page[_NAMES_AT : _NAMES_AT + length].split(b"\n") if length else []
        try:
            pairs = (line.decode().split(" ") for line in lines)
            return {stream: base for stream, base in pairs}  # noqa: C416 - counts the words
        except ValueError:
            # A damaged heap may have reached the page too.
            return {}

    def busy_bases(self) -> dict[str, str]:
        """Return the stream that calls its model and its base; empty between two calls."""
        entries = list(self.bases.items())
        busy = self.busy
        return dict([entries[busy]]) if busy is not None and busy < len(entries) else {}


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("edge-runtime-vitals")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
