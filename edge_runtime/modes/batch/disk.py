"""What batch mode asks of the file system; a port, so that tests can fail at any step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

__all__ = ["Disk"]


class Disk:
    """The machine's own file system. Every method may raise `OSError`."""

    def open(self, path: Path) -> BinaryIO:
        """Open a file to read and write at any place, unbuffered; make it if it is missing."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        return os.fdopen(descriptor, "r+b", buffering=0)

    def write(self, file: BinaryIO, content: bytes) -> None:
        """Write all of ``content`` where the file stands."""
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]

    def sync(self, file: BinaryIO) -> None:
        """Make what was written durable."""
        os.fsync(file.fileno())

    def rename(self, path: Path, to: Path) -> None:
        """Give a file its name at one stroke, durably."""
        path.replace(to)
        self.sync_folder(to.parent)

    def sync_folder(self, folder: Path) -> None:
        """Make renames and removals in a folder durable."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
