"""What an SQLite database needs; standard library only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.modes.batch.job import Schema
from edge_runtime.types import Table

__all__ = ["Sqlite", "open_sqlite"]

_BUSY_S = 1.0


def open_sqlite(path: Path) -> sqlite3.Connection:
    """Open a database for this process alone, durable at every commit.

    Raises:
        sqlite3.Error: It is damaged, or another process has it.
    """
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=_BUSY_S, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


class Sqlite:
    """Rows as tuples; NaN becomes NULL."""

    errors: tuple[type[Exception], ...] = (OverflowError,)

    def connect(self, path: Path) -> Any:
        """Open the database."""
        return open_sqlite(path)

    def type_of(self, kind: str) -> str:
        """Return the declared type of a column."""
        if kind == "text":
            return "TEXT"
        return "REAL" if kind.startswith("float") else "INTEGER"

    def prepare(self, rows: Table, schema: Schema) -> Iterator[tuple[Any, ...]]:
        """Return plain tuples."""
        return zip(*(rows.columns[name].tolist() for name in schema), strict=True)

    def insert(self, connection: Any, table: str, prepared: Any, width: int) -> None:
        """Insert in the transaction that is open."""
        marks = ", ".join("?" * width)
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", prepared)  # noqa: S608
