"""A disk that somebody else has filled, for one process: no file of it grows any more.

A real full disk needs a file system of its own, and so somebody who may mount one.
Here the two ways in which a device writes are told what the kernel would say:

- SQLite's own system calls, which its unix VFS lets a test replace
  (https://www.sqlite.org/c3ref/vfs.html, ``xSetSystemCall``): a write that would make
  a file longer fails with ``ENOSPC``, one inside the file goes through, as on ext4.
- Python's files: opening one for writing fails with ``ENOSPC``.

From there on everything is the device's real code: ballast, eviction, gap records,
commits that wait. As long as the disk is full, space that the device gives up is taken
by whoever filled it.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["Disk", "can_fill"]

_Get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_Set = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
# ssize_t write(int, const void *, size_t); pwrite has an offset besides.
_WRITE = (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_Write = ctypes.CFUNCTYPE(*_WRITE, use_errno=True)
_WriteAt = ctypes.CFUNCTYPE(*_WRITE, ctypes.c_int64, use_errno=True)
_CALLS = {b"write": _Write, b"pwrite": _WriteAt, b"pwrite64": _WriteAt}
_VERSION = 3
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class _Vfs(ctypes.Structure):
    """``sqlite3_vfs``, version 3."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("version", ctypes.c_int),
        ("file_bytes", ctypes.c_int),
        ("path_bytes", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("app", ctypes.c_void_p),
        ("methods", ctypes.c_void_p * 13),
        ("set_system_call", _Set),
        ("get_system_call", _Get),
        ("next_system_call", ctypes.c_void_p),
    ]


class Disk:
    """The disk of this process; nothing is touched until it is full for the first time.

    Args:
        folder: Files below it are the disk's, besides every SQLite database.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._is_full = False
        # SQLite keeps nothing alive: these outlive every call it may still be in.
        self._refusing: dict[bytes, Any] = {}

    def set_full(self, is_full: bool) -> None:
        """Leave no room, or give it back; callable from any thread.

        Raises:
            OSError: This Python's SQLite does not let its system calls be replaced.
        """
        if is_full and not self._refusing:
            self._refusing = dict(_replacements())
            sys.addaudithook(self._audit)
        self._is_full = is_full
        for name, refusing in self._refusing.items():
            _replace(name, ctypes.cast(refusing, ctypes.c_void_p) if is_full else None)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if self._is_full and event == "open" and (args[2] or 0) & _WRITING:
            path = args[0]
            if isinstance(path, str | bytes) and self._has(Path(os.fsdecode(path))):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def _has(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self._folder)


def can_fill() -> bool:
    """Whether a `Disk` can be full in a process of this Python."""
    return _default_vfs() is not None


def _replace(name: bytes, call: ctypes.c_void_p | None) -> None:
    vfs = _default_vfs()
    vfs.contents.set_system_call(vfs, name, call)


def _replacements() -> Iterator[tuple[bytes, Any]]:
    """Yield what is to stand in for each system call that SQLite writes with."""
    vfs = _default_vfs()
    if vfs is None:
        raise OSError(errno.ENOTSUP, "SQLite's system calls cannot be replaced here")
    for name, kind in _CALLS.items():
        address = vfs.contents.get_system_call(vfs, name)
        if address:
            yield name, kind(_refusing(kind(address)))


@functools.cache
def _default_vfs() -> Any:
    """Return SQLite's default VFS; None where it cannot be reached or has no system calls."""
    import _sqlite3

    # Symbols of what the module is linked to are found through it, or are in the program.
    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    try:
        find = library.sqlite3_vfs_find
    except AttributeError:
        return None
    find.argtypes, find.restype = [ctypes.c_char_p], ctypes.POINTER(_Vfs)
    vfs = find(None)
    is_usable = vfs and vfs.contents.version >= _VERSION and vfs.contents.name == b"unix"
    return vfs if is_usable else None


def _refusing(real: Callable[..., int]) -> Callable[..., int]:
    """Return a system call that writes inside a file alone."""

    def write(descriptor: int, start: int, count: int, offset: int | None = None) -> int:
        first = os.lseek(descriptor, 0, os.SEEK_CUR) if offset is None else offset
        if first + count > os.fstat(descriptor).st_size:
            ctypes.set_errno(errno.ENOSPC)
            return -1
        return real(descriptor, start, count, *(() if offset is None else (offset,)))

    return write
