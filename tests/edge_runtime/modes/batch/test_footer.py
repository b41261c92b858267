"""Parquet files joined without decoding are sound Parquet files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import StoreError
from edge_runtime.modes.batch.footer import MAGIC, joined, part_of
from edge_runtime.modes.batch.outputs.codecs import ParquetCodec
from edge_runtime.types import Table

SCHEMA = {"index": "int64", "score": "float64", "flag": "bool", "name": "text"}


def table_of(first: int, count: int) -> Table:
    """Make rows of every kind, some of them missing."""
    rows = np.arange(first, first + count)
    names = np.array([None if row % 5 == 0 else f"n{row % 3}" for row in rows], object)
    return Table({"index": rows, "score": rows / 7, "flag": rows % 2 == 0, "name": names})


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.lists(st.integers(0, 300), min_size=1, max_size=30))
def test_joined_parts_read_as_their_rows_in_order(counts: list[int], tmp_path: Path) -> None:
    """Any number of parts of any length, read by two libraries."""
    import duckdb
    from pyarrow import parquet

    codec = ParquetCodec({"fact": "42"})
    path = tmp_path / "joined.parquet"
    content, parts = bytearray(codec.head(SCHEMA)), []
    for number, count in enumerate(counts):
        part = codec.encode(table_of(sum(counts[:number]), count), SCHEMA)
        parts.append((len(content), part.footer))
        content += part.pages
    path.write_bytes(content + codec.tail(SCHEMA, parts))

    found = parquet.ParquetFile(path).read()

    expected = table_of(0, sum(counts)).columns
    assert {
        name: column.to_pylist() for name, column in zip(found.column_names, found, strict=True)
    } == {name: column.tolist() for name, column in expected.items()}
    assert found.schema.metadata[b"edge_runtime"] == b'{"fact": "42"}'
    half = sum(counts) // 2
    query = f"SELECT count(*), sum(score) FROM '{path}' WHERE index >= {half}"
    count, total = duckdb.sql(query).fetchall()[0]
    assert count == sum(counts) - half
    assert (total or 0.0) == pytest.approx(sum(row / 7 for row in range(half, sum(counts))))


def test_a_single_part_keeps_its_footer() -> None:
    """Decoding and encoding a footer again changes no byte."""
    part = ParquetCodec({}).encode(table_of(0, 100), SCHEMA)

    tail = joined([part.footer], [len(MAGIC)])

    assert tail == part.footer + len(part.footer).to_bytes(4, "little") + MAGIC


def test_taking_apart_and_putting_together_is_the_file() -> None:
    """A part is all of a file but its magic numbers and the length of its footer."""
    import io

    import pyarrow as pa
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pa.table({"x": list(range(1000))}), file)

    part = part_of(file.getvalue())

    size = len(part.footer).to_bytes(4, "little")
    assert MAGIC + part.pages + part.footer + size + MAGIC == file.getvalue()


@pytest.mark.parametrize("cut", range(0, 300, 7))
def test_a_damaged_footer_is_refused(cut: int) -> None:
    """A stored footer that ends too early is an error with a way out."""
    footer = ParquetCodec({}).encode(table_of(0, 10), SCHEMA).footer[:cut]

    with pytest.raises(StoreError, match="--fresh"):
        joined([footer], [len(MAGIC)])
