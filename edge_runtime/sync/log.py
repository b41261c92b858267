"""The write-ahead log of a database, emptied here so that every byte written is counted."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from pathlib import Path

from edge_runtime.sync.database import is_full

__all__ = ["Log"]

_FRAME_HEADER_BYTES = 24
# So much log is written before it is copied into the database.
_EMPTY_AT_BYTES = 4 << 20
# What one transaction changes besides bodies, at least: table, index, sequence, position.
_PAGES_A_TRANSACTION = 4
# https://www.sqlite.org/walformat.html: the number of resets stands at byte 12.
_RESETS = struct.Struct(">12xI")


class Log:
    """Empties a write-ahead log when it has grown, and counts what goes to the disk.

    A page costs its frame in the log, and once more when the log is emptied. Pages that
    changed several times meanwhile are copied once: no more than the database has.

    Args:
        path: The database.
        connection: To it, in WAL mode; nobody else empties its log.
        most_growth_bytes: So much larger than its file the database may get before the log
            is emptied: on a disk that is full by then, that much must be found. None for
            any size.

    Attributes:
        written_bytes: Written up to the last time it was emptied.
        lacks_room: Whether the disk was too full to empty it, the last time that was tried.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        *,
        most_growth_bytes: float | None = None,
    ) -> None:
        self._path = path
        self._most_growth_bytes = most_growth_bytes
        self._wal = path.with_name(path.name + "-wal")
        self._connection = connection
        connection.execute("PRAGMA wal_autocheckpoint=0").fetchall()
        self._page_bytes = int(connection.execute("PRAGMA page_size").fetchone()[0])
        self._waiting_bytes = 0
        # What may be written before the file is looked at again.
        self._unseen_bytes = 0.0
        self._frames = 0
        self._resets: int | None = None
        self.written_bytes = 0
        self.lacks_room = False
        self._empty_if_possible()
        # What another process left in the log is not ours.
        self.written_bytes = 0

    def note(self, body_bytes: int = 0) -> None:
        """Count a transaction, and empty the log when it is time."""
        written_bytes = body_bytes + _PAGES_A_TRANSACTION * self._page_bytes
        self._waiting_bytes += written_bytes
        self._unseen_bytes -= written_bytes
        if self._waiting_bytes >= _EMPTY_AT_BYTES or self._has_grown():
            self._empty_if_possible()

    def empty(self, mode: str = "PASSIVE") -> None:
        """Copy what is in the log into the database, as far as no reader is in the way.

        Args:
            mode: RESTART also lets the log begin anew in the space that it has.

        Raises:
            sqlite3.Error: The database cannot be written.
        """
        self._waiting_bytes = 0
        # A log that begins anew keeps its frames in the file: count before, and after.
        resets = self._read_resets()
        _, frames, copied = self._checkpoint(mode)
        if frames < 0:
            return
        before = self._frames if resets == self._resets else 0
        new = max(frames - before, 0)
        self._frames, self._resets = frames, resets
        self.written_bytes += new * (_FRAME_HEADER_BYTES + self._page_bytes)
        if copied == frames:
            self.written_bytes += min(new, self._pages) * self._page_bytes

    def _checkpoint(self, mode: str) -> tuple[int, int, int]:
        try:
            answer = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.OperationalError as error:
            self.lacks_room = is_full(error)
            raise
        self.lacks_room = False
        return tuple(answer)

    def _has_grown(self) -> bool:
        """Whether the database is larger than its file by more than it may be.

        Looked at again when half of what was left by then has been written.
        """
        if self._most_growth_bytes is None or self._unseen_bytes > 0:
            return False
        grown_bytes = self._pages * self._page_bytes - self._path.stat().st_size
        self._unseen_bytes = (self._most_growth_bytes - grown_bytes) / 2
        return grown_bytes > self._most_growth_bytes

    @property
    def _pages(self) -> int:
        return int(self._connection.execute("PRAGMA page_count").fetchone()[0])

    def _empty_if_possible(self) -> None:
        # What is in the log is committed; it can be emptied later.
        with contextlib.suppress(sqlite3.OperationalError):
            self.empty()

    def _read_resets(self) -> int | None:
        """Return how often the log began anew; None while there is none."""
        try:
            with self._wal.open("rb") as file:
                header = file.read(_RESETS.size)
        except OSError:
            return None
        return _RESETS.unpack(header)[0] if len(header) == _RESETS.size else None
