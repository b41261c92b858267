"""The control plane: one SQLite file that several threads and processes share.

WAL: readers never wait for a writer. A transaction that returned has reached the disk.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_runtime.errors import StoreError

__all__ = ["VERSION", "Database"]

_BUSY_S = 30.0

# One entry per schema version: statements that lead there from the one before.
_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE segment (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        path TEXT NOT NULL UNIQUE,
        device TEXT NOT NULL, stream TEXT NOT NULL, kind TEXT NOT NULL,
        incarnation INTEGER, epoch INTEGER, seq0 INTEGER,
        day TEXT NOT NULL, bytes INTEGER NOT NULL, rows INTEGER NOT NULL,
        first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL,
        first_index INTEGER NOT NULL, last_index INTEGER NOT NULL,
        state TEXT NOT NULL);
    CREATE INDEX segment_of ON segment (device, stream, kind, last_ns);
    CREATE TABLE mark (
        device TEXT NOT NULL, incarnation INTEGER NOT NULL, epoch INTEGER NOT NULL,
        stream TEXT NOT NULL, upto INTEGER NOT NULL,
        PRIMARY KEY (device, incarnation, epoch, stream)) WITHOUT ROWID;
    CREATE TABLE stream (
        device TEXT NOT NULL, stream TEXT NOT NULL, kind TEXT NOT NULL,
        first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL, rows INTEGER NOT NULL,
        PRIMARY KEY (device, stream, kind)) WITHOUT ROWID;
    CREATE TABLE gap (
        device TEXT NOT NULL, incarnation INTEGER NOT NULL, epoch INTEGER NOT NULL,
        stream TEXT NOT NULL, seq0 INTEGER NOT NULL, n INTEGER NOT NULL,
        reason TEXT NOT NULL, received_ns INTEGER NOT NULL,
        PRIMARY KEY (device, incarnation, epoch, stream, seq0)) WITHOUT ROWID;
    CREATE TABLE label (
        device TEXT NOT NULL, stream TEXT NOT NULL, time_ns INTEGER NOT NULL,
        known_at_ns INTEGER NOT NULL, value REAL, text TEXT,
        PRIMARY KEY (device, stream, time_ns, known_at_ns)) WITHOUT ROWID;
    CREATE TABLE counter (
        name TEXT NOT NULL, reason TEXT NOT NULL, n INTEGER NOT NULL,
        PRIMARY KEY (name, reason)) WITHOUT ROWID;
    CREATE TABLE life (
        device TEXT PRIMARY KEY, payload BLOB NOT NULL, received_ns INTEGER NOT NULL);
    CREATE TABLE bundle (
        digest TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL,
        archive_sha256 TEXT NOT NULL, seq INTEGER NOT NULL, created_ns INTEGER NOT NULL);
    CREATE TABLE alias (
        name TEXT NOT NULL, alias TEXT NOT NULL, digest TEXT NOT NULL,
        PRIMARY KEY (name, alias)) WITHOUT ROWID;
    CREATE TABLE job (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
        device TEXT NOT NULL, stream TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,
        body BLOB NOT NULL, requires TEXT NOT NULL, state TEXT NOT NULL,
        reason TEXT NOT NULL DEFAULT '', effective TEXT NOT NULL DEFAULT '',
        measured TEXT NOT NULL DEFAULT '{}', tries INTEGER NOT NULL DEFAULT 0,
        created_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL);
    CREATE INDEX job_open ON job (state, device, stream);
    CREATE TABLE layer_seq (
        device TEXT NOT NULL, line TEXT NOT NULL, kind TEXT NOT NULL, seq INTEGER NOT NULL,
        PRIMARY KEY (device, line, kind)) WITHOUT ROWID;
    CREATE TABLE refresh (
        device TEXT NOT NULL, stream TEXT NOT NULL, line TEXT NOT NULL, base TEXT NOT NULL,
        boundary_ns INTEGER NOT NULL, chosen TEXT NOT NULL, report BLOB NOT NULL,
        job TEXT NOT NULL, made_ns INTEGER NOT NULL,
        PRIMARY KEY (device, stream, line, base, boundary_ns)) WITHOUT ROWID;
    CREATE TABLE shard (
        segment TEXT NOT NULL, bundle TEXT NOT NULL, path TEXT NOT NULL, state TEXT NOT NULL,
        rows INTEGER NOT NULL, reason TEXT NOT NULL, made_ns INTEGER NOT NULL,
        PRIMARY KEY (segment, bundle)) WITHOUT ROWID;
    """,
    """
    CREATE TABLE device (
        device TEXT PRIMARY KEY, serial TEXT NOT NULL, state TEXT NOT NULL,
        changed_ns INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE claim (
        digest TEXT PRIMARY KEY, device TEXT NOT NULL, serial TEXT NOT NULL,
        expires_ns INTEGER NOT NULL, key TEXT) WITHOUT ROWID;
    CREATE TABLE certificate (
        number TEXT PRIMARY KEY, device TEXT NOT NULL, not_after_ns INTEGER NOT NULL,
        revoked_ns INTEGER) WITHOUT ROWID;
    CREATE INDEX certificate_of ON certificate (device);
    """,
    """
    ALTER TABLE job ADD COLUMN beyond BLOB;
    CREATE TABLE header (
        device TEXT NOT NULL, incarnation INTEGER NOT NULL, epoch INTEGER NOT NULL,
        stream TEXT NOT NULL, seq0 INTEGER NOT NULL, n INTEGER NOT NULL, beyond BLOB NOT NULL,
        PRIMARY KEY (device, incarnation, epoch, stream, seq0)) WITHOUT ROWID;
    """,
    """
    CREATE TABLE refit (
        base TEXT PRIMARY KEY, before TEXT NOT NULL, report BLOB NOT NULL,
        made_ns INTEGER NOT NULL) WITHOUT ROWID;
    """,
)

VERSION = len(_MIGRATIONS)
"""Schema version this code reads and writes."""


class Database:
    """Connections to one file, one per thread.

    Args:
        path: The file; made when missing, brought to `VERSION` when older.

    Raises:
        StoreError: It is damaged, or a newer version wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        with self._translated():
            self._migrate()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Read, outside a transaction."""
        with self._translated():
            return self._connection().execute(sql, values).fetchall()

    @contextlib.contextmanager
    def transaction(self, *, is_durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Write: all of it is durable when the block ends, or none of it.

        Args:
            is_durable: False leaves the disk its time: a power cut may undo the
                newest such transactions. For what a device says again anyway.

        Raises:
            StoreError: The database refuses, such as on a full disk.
        """
        connection = self._connection()
        with self._translated():
            connection.execute(f"PRAGMA synchronous={'FULL' if is_durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # A failed COMMIT on a full disk may have rolled back by itself.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close every thread's connection; safe to call twice."""
        with self._guard:
            for connection in self._all:
                connection.close()
            self._all.clear()
        self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            with self._translated():
                connection = self._connect()
            self._local.connection = connection
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode=WAL")
        with self._guard:
            self._all.append(connection)
        return connection

    def _migrate(self) -> None:
        found = self._version()
        if found == VERSION:
            return
        if found > VERSION:
            raise StoreError(
                f"the catalogue has schema version {found}",
                where=str(self._path),
                expected=f"at most {VERSION}",
                remedy="A newer edge-runtime wrote it; install that version or newer.",
            )
        if found:
            self._back_up(found)
        with self.transaction() as connection:
            # Another process may have been quicker.
            for version in range(_read_version(connection), VERSION):
                _run_script(connection, _MIGRATIONS[version])
                connection.execute(f"PRAGMA user_version={version + 1}")

    def _version(self) -> int:
        return _read_version(self._connection())

    def _back_up(self, version: int) -> None:
        copy = self._path.with_name(f"{self._path.name}.v{version}-{time.time_ns()}")
        with contextlib.closing(sqlite3.connect(copy)) as target:
            self._connection().backup(target)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"the catalogue says: {error}",
                where=str(self._path),
                expected="a sound database and room on the disk",
                remedy="Free some space, or restore the file from a backup.",
            ) from error


def _read_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _run_script(connection: sqlite3.Connection, script: str) -> None:
    # executescript would commit the open transaction first.
    for statement in script.split(";"):
        if statement.strip():
            connection.execute(statement)
