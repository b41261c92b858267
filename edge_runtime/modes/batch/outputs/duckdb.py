"""What a DuckDB database needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_runtime.errors import MissingExtra
from edge_runtime.modes.batch.job import Schema
from edge_runtime.modes.batch.outputs.codecs import to_arrow
from edge_runtime.types import Table

__all__ = ["DuckDb"]

_TYPES = {
    "bool": "BOOLEAN",
    "float16": "FLOAT",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "text": "VARCHAR",
    "uint8": "UTINYINT",
    "uint16": "USMALLINT",
    "uint32": "UINTEGER",
    "uint64": "UBIGINT",
}


class DuckDb:
    """Rows as Arrow tables.

    Raises:
        MissingExtra: duckdb is not installed.
    """

    def __init__(self) -> None:
        try:
            import duckdb
        except ImportError as error:
            raise MissingExtra.of("DuckDB output", "duckdb", "batch") from error
        self._duckdb = duckdb
        self.errors: tuple[type[Exception], ...] = (duckdb.Error,)

    def connect(self, path: Path) -> Any:
        """Open the database; one process at a time may."""
        return self._duckdb.connect(str(path))

    def type_of(self, kind: str) -> str:
        """Return the type of a column."""
        return _TYPES[kind]

    def prepare(self, rows: Table, schema: Schema) -> Any:
        """Return an Arrow table."""
        return to_arrow(rows, schema)

    def insert(self, connection: Any, table: str, prepared: Any, width: int) -> None:
        """Insert in the transaction that is open."""
        del width
        connection.register("batch_rows", prepared)
        connection.execute(f"INSERT INTO {table} SELECT * FROM batch_rows")  # noqa: S608
        connection.unregister("batch_rows")
