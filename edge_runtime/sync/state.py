"""What a device must never forget: its epoch, version floors, slots and jobs.

A small database in WAL mode with synchronous=FULL: what a method wrote is
on the disk when it returns.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge_runtime.errors import StoreError, TrustError
from edge_runtime.ports import Clock
from edge_runtime.sync.ballast import Ballast
from edge_runtime.sync.database import despite_full_disk, open_database, translated
from edge_runtime.sync.log import Log

__all__ = ["STATE_MIGRATIONS", "StateStore"]

T = TypeVar("T")

# Room for the write-ahead log with which a device starts on a disk full to the last byte.
_BALLAST_BYTES = 128 * 1024
_INCARNATION_BITS = 63  # fits the integers of every database it ends up in
STATE_MIGRATIONS = (
    """
    CREATE TABLE identity (one INTEGER PRIMARY KEY CHECK (one = 1),
                           incarnation INTEGER NOT NULL, epoch INTEGER NOT NULL);
    CREATE TABLE value (key TEXT PRIMARY KEY, encoded BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE floor (name TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID
    """,
)


class StateStore:
    """The device's ``state.db``; every method is callable from any thread.

    A corrupt file is set aside and a new incarnation begins, so that old row
    numbers are never used again; ``set_aside`` then says where it went.

    Args:
        path: The file; its folder is created.
        clock: Names a file set aside.
        draw: Returns so many random bits for a new incarnation; a simulation
            that is to repeat itself brings its own.

    Raises:
        StoreError: The file cannot be opened, or a newer version wrote it.
    """

    def __init__(
        self, path: Path, clock: Clock, *, draw: Callable[[int], int] = secrets.randbits
    ) -> None:
        self._path = path
        self._guard = threading.RLock()
        self._ballast = Ballast(path.with_name(path.name + ".ballast"), _BALLAST_BYTES)
        opened = open_database(path, STATE_MIGRATIONS, clock=clock, ballast=self._ballast)
        self._connection = opened.connection
        self.set_aside = opened.set_aside
        with translated(path, "open"):
            self._log = Log(path, self._connection)
        self._execute(
            "INSERT OR IGNORE INTO identity VALUES (1, ?, 0)",
            draw(_INCARNATION_BITS),
        )
        self._ballast.refill()

    def written(self) -> int:
        """Return how many bytes were written to the disk since this object was made."""
        with self._guard, translated(self._path, "read"):
            self._log.empty()
            return self._log.written_bytes

    def start(self) -> tuple[int, int]:
        """Raise the epoch for this process and return ``(epoch, incarnation)``, both durable."""
        self._execute("UPDATE identity SET epoch = epoch + 1")
        return self.epoch, self.incarnation

    @property
    def epoch(self) -> int:
        """Counts process starts; 0 before the first."""
        return int(self._row("SELECT epoch FROM identity")[0])

    @property
    def incarnation(self) -> int:
        """Random number drawn when this file was created, 63 bits."""
        return int(self._row("SELECT incarnation FROM identity")[0])

    def get(self, key: str, type: type[T]) -> T | None:  # noqa: A002 - the word msgspec uses
        """Return the value under ``key``, or None.

        Raises:
            StoreError: What is there is no ``type``.
        """
        row = self._row("SELECT encoded FROM value WHERE key = ?", key)
        if row is None:
            return None
        try:
            return msgspec.msgpack.decode(row[0], type=type)
        except msgspec.MsgspecError as error:
            raise StoreError(
                f"value under {key!r} does not decode: {error}", where=str(self._path)
            ) from error

    def set(self, key: str, value: object) -> None:
        """Store one value; it is on the disk on return."""
        self.set_all({key: value})

    def set_all(self, values: Mapping[str, object]) -> None:
        """Store several values, all or none of them."""
        rows = [(key, msgspec.msgpack.encode(value)) for key, value in values.items()]

        def write() -> None:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany("INSERT OR REPLACE INTO value VALUES (?, ?)", rows)

        self._write(write, sum(len(encoded) for _, encoded in rows))

    def delete(self, key: str) -> None:
        """Forget a value; no error when there is none."""
        self._execute("DELETE FROM value WHERE key = ?", key)

    def keys(self, prefix: str = "") -> tuple[str, ...]:
        """Return the keys that start with ``prefix``, sorted."""
        with self._guard, translated(self._path, "read"):
            rows = self._connection.execute(
                "SELECT key FROM value WHERE substr(key, 1, ?) = ? ORDER BY key",
                (len(prefix), prefix),
            ).fetchall()
        return tuple(row[0] for row in rows)

    def floor(self, name: str) -> int | None:
        """Return the lowest version still accepted under ``name``, or None."""
        row = self._row("SELECT version FROM floor WHERE name = ?", name)
        return None if row is None else int(row[0])

    def raise_floor(self, name: str, version: int) -> None:
        """Accept nothing below ``version`` from now on; it is on the disk on return.

        Raises:
            TrustError: The floor is higher already.
        """
        with self._guard:
            self._execute(
                "INSERT INTO floor VALUES (?, ?) ON CONFLICT (name) "
                "DO UPDATE SET version = max(version, excluded.version)",
                name,
                version,
            )
            stands_at = self.floor(name)
        if stands_at != version:
            raise TrustError(
                f"version {version} is below the floor {stands_at}",
                where=name,
                expected=f"at least {stands_at}",
            )

    def close(self) -> None:
        """Close the file; safe to call twice."""
        with self._guard:
            self._connection.close()

    def _execute(self, statement: str, *values: object) -> None:
        self._write(lambda: self._connection.execute(statement, values))

    def _write(self, do: Callable[[], object], size: int = 0) -> None:
        with self._guard, translated(self._path, "write"):
            despite_full_disk(self._ballast, do)
            self._log.note(size)

    def _row(self, statement: str, *values: object) -> Any:
        with self._guard, translated(self._path, "read"):
            return self._connection.execute(statement, values).fetchone()
