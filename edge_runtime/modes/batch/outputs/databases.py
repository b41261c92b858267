"""Outputs that are databases: rows and position are committed in one transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from edge_runtime.modes.batch.faults import check_same, identity_of, transaction, translated
from edge_runtime.modes.batch.job import Schema
from edge_runtime.modes.batch.manifest import Manifest, Position
from edge_runtime.modes.batch.outputs.workspace import Workspace
from edge_runtime.types import Table

__all__ = ["DatabaseOutput", "Dialect"]


class Dialect(Protocol):
    """What differs between databases.

    Attributes:
        errors: What it raises beside ``sqlite3.Error``.
    """

    errors: tuple[type[Exception], ...]

    def connect(self, path: Path) -> Any:
        """Open a database in autocommit mode."""
        ...

    def type_of(self, kind: str) -> str:
        """Return the declared type of a column."""
        ...

    def prepare(self, rows: Table, schema: Schema) -> Any:
        """Return rows in the form that `insert` takes; any thread."""
        ...

    def insert(self, connection: Any, table: str, prepared: Any, width: int) -> None:
        """Insert rows in the transaction that is open."""
        ...


class DatabaseOutput:
    """One database with a table for each kind of row, and ``batch`` about the job.

    See `Output`. The transaction begins with the first rows after a commit.

    Args:
        workspace: Where it grows.
        schemas: Columns of each table.
        dialect: Which database.
    """

    def __init__(
        self, workspace: Workspace, schemas: Mapping[str, Schema], dialect: Dialect
    ) -> None:
        self._path = workspace.path("estimates")
        self._schemas = schemas
        self._dialect = dialect
        self._connection: Any = None
        self._identity = (0, 0)
        self._is_open = False

    def open(self) -> Manifest:
        """Open the database; it is this process's until `close`."""
        with self._translated():
            self._connection = self._dialect.connect(self._path)
            self._identity = identity_of(self._path.stat())
        return Manifest(self._connection, self._path, *self._dialect.errors)

    def begin(self, manifest: Manifest, facts: Mapping[str, str]) -> None:
        """Make the tables and note what the job is."""
        with self._translated(), transaction(self._connection):
            manifest.begin(facts)
            for table, schema in self._schemas.items():
                columns = ", ".join(
                    f"{_quoted(name)} {self._dialect.type_of(kind)}"
                    for name, kind in schema.items()
                )
                self._connection.execute(f"CREATE TABLE {table} ({columns})")

    def resume(self, position: Position) -> None:
        """Nothing to do: what was not committed is not there."""

    def prepare(self, table: str, rows: Table) -> Any:
        """Put rows into the form that the database takes; any thread."""
        return self._dialect.prepare(rows, self._schemas[table])

    def append(self, table: str, prepared: Any) -> None:
        """Insert rows; not durable before `commit`."""
        with self._translated():
            self._begin()
            width = len(self._schemas[table])
            self._dialect.insert(self._connection, table, prepared, width)

    def commit(self, manifest: Manifest, position: Position) -> Position:
        """Commit rows and position together."""
        with self._translated():
            check_same(self._path, self._identity)
            self._begin()
            manifest.save(position)
            self._connection.execute("COMMIT")
            self._is_open = False
        return position

    def seal(self, manifest: Manifest) -> None:
        """Note that all rows are there."""
        with self._translated(), transaction(self._connection):
            check_same(self._path, self._identity)
            manifest.seal()

    def close(self) -> None:
        """Release the database; what was not committed is rolled back. Safe to call twice."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None

    def _begin(self) -> None:
        if not self._is_open:
            self._connection.execute("BEGIN")
            self._is_open = True

    def _translated(self) -> contextlib.AbstractContextManager[None]:
        return translated(self._path, *self._dialect.errors)


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
