"""A file that only takes up space, so that there is some to give back."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

__all__ = ["Ballast"]

log = logging.getLogger(__name__)

_ROOM = 4
_LEAST_BYTES = 1 << 20
_PIECE = bytes(1 << 16)


class Ballast:
    """Disk space held back for the moment when the disk is full.

    SQLite needs space even to delete; without a reserve a full disk could
    never be cleared from within.

    Args:
        path: The file.
        size_bytes: Its size; 0 for no ballast at all.

    Attributes:
        size_bytes: The same.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self.size_bytes = size_bytes
        self._is_there = path.exists() and path.stat().st_size >= size_bytes > 0
        self._is_refused = False

    def release(self) -> bool:
        """Give the space back; False when there is none to give."""
        was_there, self._is_there = self._is_there, False
        self._path.unlink(missing_ok=True)
        if was_there and self.size_bytes:
            log.warning("ballast.released", extra={"path": str(self._path)})
        return was_there and self.size_bytes > 0

    def refill(self) -> bool:
        """Take the space again, once there is plenty of it; True when that happened."""
        if self._is_there or not self.has_plenty:
            return False
        try:
            # Real bytes: a sparse file would hold back nothing.
            if self.size_bytes:
                self._write()
        except OSError as error:
            self._path.unlink(missing_ok=True)
            self._note_refusal(error)
            return False
        self._is_there, self._is_refused = True, False
        return True

    @property
    def has_plenty(self) -> bool:
        """Whether the disk has room for much more than the ballast."""
        wanted = _ROOM * max(self.size_bytes, _LEAST_BYTES)
        return shutil.disk_usage(self._path.parent).free >= wanted

    def _note_refusal(self, error: OSError) -> None:
        """Say it once: whoever waits for room asks again every second."""
        if not self._is_refused:
            log.warning("ballast.refused", extra={"path": str(self._path), "why": str(error)})
        self._is_refused = True

    def _write(self) -> None:
        """Write it in pieces: a device has less memory than disk."""
        with self._path.open("wb") as file:
            for start in range(0, self.size_bytes, len(_PIECE)):
                file.write(_PIECE[: self.size_bytes - start])
