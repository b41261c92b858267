"""Where keys sleep: snapshots, the source's position and the files' ends, in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

from edge_runtime.ports import Clock
from edge_runtime.sync.database import open_database, translated

__all__ = ["KeyStore"]

_MIGRATIONS = (
    """
    CREATE TABLE keys (key TEXT PRIMARY KEY, snapshot BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE place (stream TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE marks (sink TEXT PRIMARY KEY, mark BLOB NOT NULL) WITHOUT ROWID;
    """,
)


class KeyStore(MutableMapping[str, bytes]):
    """Snapshots by key, in SQLite.

    What is put here is on the disk, and durable with the next `commit`, together with
    the position: a crash takes back all of it or nothing. Used by one thread.

    Args:
        path: The file; its folder is created.
        clock: Names a corrupt file that is set aside.

    Raises:
        StoreError: It cannot be opened.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._connection = open_database(
            path, _MIGRATIONS, synchronous="NORMAL", clock=clock
        ).connection

    def position(self, stream: str) -> int:
        """Return the index of the next sample to read."""
        row = self._one("SELECT position FROM place WHERE stream = ?", stream)
        return 0 if row is None else int(row[0])

    def marks(self) -> dict[str, bytes]:
        """Return how far each sink had come at the last commit."""
        with translated(self._path, "read"):
            return dict(self._connection.execute("SELECT sink, mark FROM marks").fetchall())

    def commit(self, stream: str, position: int, marks: Mapping[str, bytes]) -> None:
        """Make everything put since the last commit durable, and this with it.

        Raises:
            StoreError: It cannot be written; the last commit stands.
        """
        self._put("INSERT OR REPLACE INTO place VALUES (?, ?)", stream, position)
        for sink, mark in marks.items():
            self._put("INSERT OR REPLACE INTO marks VALUES (?, ?)", sink, mark)
        with translated(self._path, "commit"):
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Let go of what was not committed; safe to call twice."""
        self._connection.close()

    def __getitem__(self, key: str) -> bytes:
        row = self._one("SELECT snapshot FROM keys WHERE key = ?", key)
        if row is None:
            raise KeyError(key)
        return bytes(row[0])

    def __setitem__(self, key: str, snapshot: bytes) -> None:
        self._put("INSERT OR REPLACE INTO keys VALUES (?, ?)", key, snapshot)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._put("DELETE FROM keys WHERE key = ?", key)

    def __iter__(self) -> Iterator[str]:
        with translated(self._path, "read"):
            for (key,) in self._connection.execute("SELECT key FROM keys ORDER BY key"):
                yield key

    def __len__(self) -> int:
        row = self._one("SELECT count(*) FROM keys")
        return 0 if row is None else int(row[0])

    def _one(self, words: str, *values: object) -> tuple[int | bytes, ...] | None:
        with translated(self._path, "read"):
            found: tuple[int | bytes, ...] | None = self._connection.execute(
                words, values
            ).fetchone()
        return found

    def _put(self, words: str, *values: object) -> None:
        with translated(self._path, "write"):
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(words, values)
