"""One process at a time has a state folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.errors import StoreError
from edge_runtime.sync.database import translated

__all__ = ["hold", "is_held"]

_NAME = "device.lock"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Have a state folder to oneself; the kernel lets go of it when the process ends.

    Raises:
        StoreError: Another process has it.
    """
    with translated(folder, "open"):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _NAME).open("a")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                "another process runs on this folder",
                where=str(folder),
                expected="one process for each state folder",
                remedy="Stop it first, or give this one a state folder of its own.",
            ) from None
        yield


def is_held(folder: Path) -> bool:
    """Whether another process has a state folder."""
    try:
        with (folder / _NAME).open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
