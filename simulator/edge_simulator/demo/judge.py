"""Did every source row reach the store exactly once? Judged by joining, not by counters.

The catalogue names the segments that count, DuckDB reads them, and the source
rows that *should* be there are joined to what *is* there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edge_runtime.errors import StoreError

if TYPE_CHECKING:
    import duckdb

__all__ = ["RowCounts", "StoredRows", "count_rows", "read_stored", "segment_paths", "shard_scores"]


class RowCounts(msgspec.Struct, frozen=True):
    """The join of what should be stored with what is.

    Attributes:
        expected: Windows that the source rows give.
        stored: Of these, how many are in the store at least once.
        lost: Expected and not in the store.
        duplicated: Stored once too often; counts every surplus copy.
        unexpected: Stored although no source row asks for it.
        lost_first: The first lost indices, at most ten.
    """

    expected: int
    stored: int
    lost: int
    duplicated: int
    unexpected: int
    lost_first: list[int] = []


class StoredRows(msgspec.Struct, frozen=True, eq=False):
    """Estimates of one stream as the store has them, ordered by index, copies kept.

    Attributes:
        index: Shape (n,), int64.
        end_ns: Shape (n,), int64.
        score: The base alone, first label, shape (n,), float64.
        value: With layers, first label, shape (n,), float64.
        effective_id: Shape (n,), text.
        epoch: Process start of the device that made the row, shape (n,), int64.
    """

    index: np.ndarray
    end_ns: np.ndarray
    score: np.ndarray
    value: np.ndarray
    effective_id: np.ndarray
    epoch: np.ndarray

    def __len__(self) -> int:
        return len(self.index)


def segment_paths(store: Path, device: str, stream: str) -> list[str]:
    """Return the live segments of one stream of estimates, from the catalogue.

    Raises:
        StoreError: The catalogue cannot be read.
    """
    return _select(
        store,
        "SELECT path FROM segment WHERE device = ? AND stream = ?"
        " AND kind = 'estimate' ORDER BY first_index",
        (device, stream),
    )


def read_stored(store: Path, device: str, stream: str) -> StoredRows:
    """Read every stored estimate of one stream, copies included.

    Raises:
        StoreError: The catalogue cannot be read.
    """
    paths = segment_paths(store, device, stream)
    if not paths:
        empty = np.empty(0)
        none = empty.astype(np.int64)
        return StoredRows(none, none, empty, empty, empty.astype(np.str_), none)
    with closing(_duckdb()) as database:
        columns = database.execute(
            'SELECT "index", end_ns, score[1] AS score, value[1] AS value, effective_id, epoch'
            ' FROM read_parquet(?) ORDER BY "index", epoch',
            [paths],
        ).fetchnumpy()
    text = np.asarray(columns.pop("effective_id"), dtype=np.str_)
    return StoredRows(effective_id=text, **{k: np.asarray(v) for k, v in columns.items()})


def shard_scores(store: Path, bundle: str) -> dict[int, float]:
    """Read what batch rescoring with one base says, by index.

    Args:
        store: The cloud's store.
        bundle: Digest of the base.

    Raises:
        StoreError: The catalogue cannot be read.
    """
    paths = _select(store, "SELECT path FROM shard WHERE bundle = ? AND state = 'done'", (bundle,))
    if not paths:
        return {}
    with closing(_duckdb()) as database:
        columns = database.execute(
            'SELECT "index", score[1] AS score FROM read_parquet(?)', [paths]
        ).fetchnumpy()
    return dict(zip(columns["index"].tolist(), columns["score"].tolist(), strict=True))


def count_rows(expected: np.ndarray, stored: np.ndarray) -> RowCounts:
    """Join expected window indices with stored ones.

    Args:
        expected: Index of each window's last sample, shape (n,), int64, distinct.
        stored: Indices in the store, shape (m,), int64, with copies.
    """
    with closing(_duckdb()) as database:
        _register(database, {"expected": expected, "stored": stored})
        database.execute(
            "CREATE TABLE joined AS SELECT e.i AS expected, s.i AS stored, s.copies FROM expected e"
            " FULL JOIN (SELECT i, count(*) AS copies FROM stored GROUP BY i) s ON e.i = s.i"
        )
        row = database.execute(
            "SELECT count(expected), count(*) FILTER (expected IS NOT NULL AND stored IS NOT NULL),"
            " count(*) FILTER (stored IS NULL), coalesce(sum(copies - 1), 0),"
            " count(*) FILTER (expected IS NULL) FROM joined"
        ).fetchone()
        lost = database.execute(
            "SELECT expected FROM joined WHERE stored IS NULL ORDER BY expected LIMIT 10"
        ).fetchall()
    assert row is not None  # noqa: S101 - an aggregate always gives one row
    expected_rows, stored_rows, lost_rows, surplus, unexpected = (int(value) for value in row)
    return RowCounts(
        expected=expected_rows,
        stored=stored_rows,
        lost=lost_rows,
        duplicated=surplus,
        unexpected=unexpected,
        lost_first=[int(index) for (index,) in lost],
    )


def _select(store: Path, sql: str, values: tuple[str, ...]) -> list[str]:
    """Ask the catalogue for files, read-only."""
    catalogue = store / "catalogue.db"
    try:
        with closing(sqlite3.connect(f"file:{catalogue}?mode=ro", uri=True)) as connection:
            rows = connection.execute(sql, values).fetchall()
    except sqlite3.Error as error:
        raise StoreError(
            f"the catalogue cannot be read: {error}",
            where=str(catalogue),
            expected="the store that the demo made",
        ) from error
    return [str(store / path) for (path,) in rows]


def _register(database: duckdb.DuckDBPyConnection, columns: Mapping[str, np.ndarray]) -> None:
    import pyarrow as pa

    for name, column in columns.items():
        database.register(name, pa.table({"i": pa.array(column, pa.int64())}))


def _duckdb() -> duckdb.DuckDBPyConnection:
    import duckdb

    # In memory, and one thread beside the demo's own processes.
    return duckdb.connect(config={"threads": 1})
