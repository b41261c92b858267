"""Tables as bytes of Parquet and CSV files, part by part."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from edge_runtime.errors import MissingExtra
from edge_runtime.modes.batch.footer import MAGIC, Part, joined, part_of
from edge_runtime.modes.batch.job import Schema
from edge_runtime.types import Table

__all__ = ["Codec", "CsvCodec", "ParquetCodec", "to_arrow"]


class Codec(Protocol):
    """A file format to which parts can be appended; pure, for any thread."""

    def head(self, schema: Schema) -> bytes:
        """Return what a file begins with."""
        ...

    def encode(self, table: Table, schema: Schema) -> Part:
        """Return some rows, to be put behind those that stand there."""
        ...

    def tail(self, schema: Schema, parts: Sequence[tuple[int, bytes]]) -> bytes:
        """Return what a file ends with.

        Args:
            schema: Of the rows.
            parts: Position and footer of each part, in order.
        """
        ...


class CsvCodec:
    """CSV with a header; numbers in the shortest form that reads back alike."""

    def head(self, schema: Schema) -> bytes:
        """Return the header line."""
        return _csv_lines([tuple(schema)])

    def encode(self, table: Table, schema: Schema) -> Part:
        """Return one line a row; what is missing is an empty cell."""
        columns = [table.columns[name].tolist() for name in schema]
        return Part(_csv_lines(zip(*columns, strict=True)), b"")

    def tail(self, schema: Schema, parts: Sequence[tuple[int, bytes]]) -> bytes:
        """Return nothing."""
        del schema, parts
        return b""


class ParquetCodec:
    """Parquet, zstd-compressed; a part is a row group.

    Args:
        facts: About the job, kept as metadata of the file.

    Raises:
        MissingExtra: pyarrow is not installed.
    """

    def __init__(self, facts: Mapping[str, str]) -> None:
        _pyarrow("Parquet output")
        self._facts = json.dumps(facts)

    def head(self, schema: Schema) -> bytes:
        """Return the magic number."""
        del schema
        return MAGIC

    def encode(self, table: Table, schema: Schema) -> Part:
        """Return pages and footer of a row group."""
        import pyarrow as pa
        from pyarrow import parquet

        rows = to_arrow(table, schema).replace_schema_metadata({"edge_runtime": self._facts})
        sink = pa.BufferOutputStream()
        texts: Any = [name for name, kind in schema.items() if kind == "text"]
        parquet.write_table(rows, sink, compression="zstd", use_dictionary=texts)
        return part_of(sink.getvalue().to_pybytes())

    def tail(self, schema: Schema, parts: Sequence[tuple[int, bytes]]) -> bytes:
        """Return the footer of all parts."""
        if not parts:
            kinds = {name: object if kind == "text" else kind for name, kind in schema.items()}
            empty = Table({name: np.empty(0, kind) for name, kind in kinds.items()})
            parts = [(len(MAGIC), self.encode(empty, schema).footer)]
        return joined([footer for _, footer in parts], [position for position, _ in parts])


def to_arrow(table: Table, schema: Schema) -> Any:
    """Return the rows as a ``pyarrow.Table`` with the types of the schema.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    pa = _pyarrow("this output")
    kinds = {
        name: pa.string() if kind == "text" else pa.from_numpy_dtype(kind)
        for name, kind in schema.items()
    }
    arrays = [pa.array(table.columns[name], kind) for name, kind in kinds.items()]
    return pa.table(arrays, pa.schema(list(kinds.items())))


def _pyarrow(what: str) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra.of(what, "pyarrow", "batch") from error
    return pyarrow


def _csv_lines(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
