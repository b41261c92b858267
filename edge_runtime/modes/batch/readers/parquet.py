"""Parquet files, only the columns that are needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.errors import EdgeError, MissingExtra, SourceError
from edge_runtime.modes.batch.job import BatchJob, Schema
from edge_runtime.modes.batch.readers.block import Block, time_of
from edge_runtime.sources.columns import position, times, unreadable
from edge_runtime.spec import StreamSpec

__all__ = ["ParquetReader"]

_READABLE = "a Parquet file"
_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


class ParquetReader:
    """Reads batches of a Parquet file; nulls are NaN. See `Reader`."""

    def __init__(self, job: BatchJob, need: StreamSpec) -> None:
        self._path = job.input
        self._time = time_of(job, need)
        self._file = _open(job.input)
        available: list[str] = list(self._file.schema_arrow.names)

        def column(name: str) -> str:
            return available[position(name, available, job.input)]

        self._channels = [column(job.columns.get(name, name)) for name in need.names]
        self._time_column = None if job.time is None else column(job.time)
        self._keep = [column(name) for name in job.keep]
        self._dtype = self._common_dtype()
        self.rows: int | None = self._file.metadata.num_rows
        self.kept: Schema = {name: self._kept_type(name) for name in self._keep}

    def blocks(self, first: int, rows: int) -> Iterator[Block]:
        """Yield all rows from row ``first`` on, ``rows`` at a time but for the first block."""
        import pyarrow

        groups, row = self._groups_from(first)
        skipped = first - row
        row = first
        named = [*self._channels, *self._keep, *([self._time_column] if self._time_column else [])]
        try:
            for batch in self._file.iter_batches(
                rows, row_groups=groups, columns=list(dict.fromkeys(named))
            ):
                part = batch.slice(min(skipped, len(batch)))
                skipped -= len(batch) - len(part)
                if len(part):
                    yield self._block(part, row)
                    row += len(part)
        except EdgeError:
            raise
        except (OSError, pyarrow.ArrowException) as error:
            raise unreadable(self._path, error, _READABLE) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _groups_from(self, first: int) -> tuple[list[int], int]:
        """Return the row groups from the one that has row ``first``, and its first row."""
        counts = [
            self._file.metadata.row_group(group).num_rows
            for group in range(self._file.metadata.num_row_groups)
        ]
        ends = list(itertools.accumulate(counts))
        group = sum(end <= first for end in ends)
        return list(range(group, len(ends))), ends[group - 1] if group else 0

    def _block(self, batch: Any, first: int) -> Block:
        samples = np.empty((len(batch), len(self._channels)), self._dtype)
        with np.errstate(over="ignore"):
            for i, name in enumerate(self._channels):
                samples[:, i] = batch.column(name).to_numpy(zero_copy_only=False)
        time_ns = None
        if self._time_column is not None:
            instants = batch.column(self._time_column).to_numpy(zero_copy_only=False)
            time_ns = times(self._time, instants, len(batch), self._path)
        return Block(
            samples,
            time_ns,
            {name: _kept(batch.column(name)) for name in self._keep},
            (first + len(batch)) / max(1, self.rows or 0),
        )

    # --- types ----------------------------------------------------------------------

    def _common_dtype(self) -> np.dtype:
        """Return one dtype for all batches, whatever each of them holds."""
        types = [self._numeric(name) for name in self._channels]
        common: np.dtype = np.result_type(*types)
        return common if common.kind != "f" else np.dtype(np.float32)

    def _numeric(self, name: str) -> np.dtype:
        import pyarrow.types as kinds

        kind = self._file.schema_arrow.field(name).type
        if kinds.is_floating(kind) or (kinds.is_integer(kind) and self._may_be_null(name)):
            return np.dtype(np.float32)
        if kinds.is_integer(kind):
            return np.dtype(str(kind))
        raise SourceError(
            f"column {name!r} is {kind}",
            where=str(self._path),
            expected="real numbers",
            remedy="Choose other columns, or write the file again.",
        )

    def _may_be_null(self, name: str) -> bool:
        """Whether an integer column has nulls, or its file does not say that it has none."""
        metadata = self._file.metadata
        place = [metadata.schema.column(i).path for i in range(metadata.num_columns)].index(name)
        for group in range(metadata.num_row_groups):
            found = metadata.row_group(group).column(place).statistics
            if found is None or not found.has_null_count or found.null_count:
                return True
        return False

    def _kept_type(self, name: str) -> str:
        import pyarrow.types as kinds

        kind = self._file.schema_arrow.field(name).type
        if kinds.is_dictionary(kind):
            kind = kind.value_type
        if kinds.is_boolean(kind):
            return "bool"
        if kinds.is_integer(kind) or kinds.is_floating(kind):
            return _FLOATS.get(str(kind), str(kind))
        if kinds.is_timestamp(kind):
            return "int64"
        if kinds.is_string(kind) or kinds.is_large_string(kind):
            return "text"
        raise SourceError(
            f"column {name!r} is {kind}",
            where=str(self._path),
            expected="numbers, truth values, text or instants",
            remedy="Leave it out of --keep.",
        )


def _open(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra.of("Parquet input", "pyarrow", "batch") from error
    try:
        # With its buffer, memory grows with the file; without, reading is no slower.
        return parquet.ParquetFile(path, pre_buffer=False)
    except (OSError, pyarrow.ArrowException) as error:
        raise unreadable(path, error, _READABLE) from error


def _kept(column: Any) -> np.ndarray:
    """Return a column with None where it is null; instants as ns since the Unix epoch."""
    import pyarrow.types as kinds

    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    if kinds.is_timestamp(column.type):
        column = column.cast("timestamp[ns]").cast("int64")
    if column.null_count or not (kinds.is_integer(column.type) or kinds.is_floating(column.type)):
        return np.array([*column.to_pylist(), None], object)[:-1]
    array: np.ndarray = column.to_numpy(zero_copy_only=False)
    return array
