"""One transaction of the outbox at a time: durable or not, and counted."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from edge_runtime.sync.log import Log

__all__ = ["Transactions"]


class Transactions:
    """Begins and commits; used by one thread at a time.

    Args:
        connection: To the outbox.
        log: Told what each has written.
        is_synced: False where no power cut reaches the real disk.
    """

    def __init__(self, connection: sqlite3.Connection, log: Log, *, is_synced: bool) -> None:
        self._connection = connection
        self._log = log
        self._is_synced = is_synced
        self._mode = ""

    @contextlib.contextmanager
    def begin(self, *, is_durable: bool = True, body_bytes: int = 0) -> Iterator[None]:
        """Do all of what is in the block, or nothing.

        Args:
            is_durable: Whether a power cut after it takes nothing of it.
            body_bytes: About what it writes, to know when the log is to be emptied.
        """
        self._choose("FULL" if is_durable and self._is_synced else "NORMAL")
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
        self._log.note(body_bytes)

    def _choose(self, mode: str) -> None:
        # Every statement waits for the interpreter's lock, which costs more than the statement.
        if mode != self._mode:
            self._connection.execute(f"PRAGMA synchronous={mode}")
            self._mode = mode
