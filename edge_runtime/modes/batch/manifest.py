"""How far a job has come: in the same database, and the same transaction, as what it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.modes.batch.faults import translated

__all__ = ["Manifest", "Position"]

_TABLES = (
    "CREATE TABLE batch (name TEXT, value TEXT)",
    "CREATE TABLE batch_position (value TEXT)",
    "CREATE TABLE batch_part (file TEXT, position BIGINT, footer BLOB)",
)
_SEALED = "sealed"


class Position(msgspec.Struct, frozen=True):
    """Where a job stands after some shards.

    Attributes:
        rows: Rows read.
        windows: Estimates written.
        decisions: Decisions made.
        discarded: Discards by reason.
        snapshot: The pipeline; None where nothing passes from shard to shard.
        latest_ns: Latest time so far.
        share: Share of the input that lies behind.
        lengths: Durable length of each file, in bytes.
    """

    rows: int = 0
    windows: int = 0
    decisions: int = 0
    discarded: dict[str, int] = {}
    snapshot: bytes | None = None
    latest_ns: int | None = None
    share: float = 0.0
    lengths: dict[str, int] = {}


class Manifest:
    """The tables of one job in an SQLite or DuckDB database.

    Args:
        connection: In autocommit mode; transactions are the caller's.
        path: The database, for messages.
        errors: What it raises beside ``sqlite3.Error``.
    """

    def __init__(self, connection: Any, path: Path, *errors: type[Exception]) -> None:
        self._connection = connection
        self._path = path
        self._errors = errors

    @property
    def exists(self) -> bool:
        """Whether a job has begun here."""
        # DuckDB answers to SQLite's catalogue too.
        return bool(self._run("SELECT count(*) FROM sqlite_master WHERE name='batch'")[0][0])

    def begin(self, facts: Mapping[str, str]) -> None:
        """Make the tables and note facts about the job."""
        for statement in _TABLES:
            self._change(statement)
        for fact in facts.items():
            self._change("INSERT INTO batch VALUES (?, ?)", fact)
        self._change("INSERT INTO batch_position VALUES (?)", (_encoded(Position()),))

    def check(self, identity: Mapping[str, str], where: str) -> None:
        """See that the job begun here is this one.

        Raises:
            ConfigError: Bundle, input or options are others.
        """
        stored = self._facts()
        for name, value in identity.items():
            if stored.get(name) != value:
                raise ConfigError(
                    f"an unfinished run had the {name} {stored.get(name)}",
                    where=where,
                    expected=value,
                    remedy="Give the same bundle, input and options to go on, "
                    "or --fresh to start over.",
                )

    def save(self, position: Position) -> None:
        """Note how far the job has come."""
        self._change("UPDATE batch_position SET value=?", (_encoded(position),))

    def position(self) -> Position:
        """Return how far the job has come."""
        found = self._run("SELECT value FROM batch_position")
        return msgspec.json.decode(found[0][0], type=Position)

    def add_part(self, file: str, position: int, footer: bytes) -> None:
        """Note where a part of a file begins."""
        self._change("INSERT INTO batch_part VALUES (?, ?, ?)", (file, position, footer))

    def parts(self, file: str) -> list[tuple[int, bytes]]:
        """Return position and footer of each part of a file, in order."""
        query = "SELECT position, footer FROM batch_part WHERE file=? ORDER BY position"
        return [(row[0], bytes(row[1])) for row in self._run(query, (file,))]

    def seal(self) -> None:
        """Note that nothing more comes; what only a resume needs goes."""
        self._change("INSERT INTO batch VALUES (?, ?)", (_SEALED, "yes"))
        self._change("DROP TABLE batch_part")

    @property
    def is_sealed(self) -> bool:
        """Whether all shards are in and only names are left to be given."""
        return _SEALED in self._facts()

    def _facts(self) -> dict[str, str]:
        return dict(self._run("SELECT name, value FROM batch"))

    def _change(self, statement: str, values: tuple[Any, ...] = ()) -> None:
        with translated(self._path, *self._errors):
            self._connection.execute(statement, values)

    def _run(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with translated(self._path, *self._errors):
            found: list[tuple[Any, ...]] = self._connection.execute(query, values).fetchall()
        return found


def _encoded(position: Position) -> str:
    return msgspec.json.encode(position).decode()
