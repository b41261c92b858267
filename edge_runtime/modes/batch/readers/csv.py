"""CSV files of any size."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import numpy as np

from edge_runtime.errors import EdgeError
from edge_runtime.modes.batch.job import BatchJob, Schema
from edge_runtime.modes.batch.readers.block import Block, as_kept_dtype, time_of
from edge_runtime.sources.columns import position, unreadable
from edge_runtime.sources.csv import CsvConfig, CsvRows, NumberedRows
from edge_runtime.spec import StreamSpec

__all__ = ["CsvReader"]

_READABLE = "a CSV file in UTF-8"


class CsvReader:
    """Reads a CSV file block by block; kept columns are text. See `Reader`."""

    def __init__(self, job: BatchJob, need: StreamSpec) -> None:
        self._config = CsvConfig(
            path=job.input,
            columns={name: job.columns.get(name, name) for name in need.names},
            time=time_of(job, need),
            delimiter="\t" if job.input.suffix == ".tsv" else ",",
        )
        self.rows: int | None = None
        self.kept: Schema = dict.fromkeys(job.keep, "text")
        try:
            self._size = job.input.stat().st_size
            self._file = job.input.open("rb")
            text = io.TextIOWrapper(self._file, encoding="utf-8-sig", newline="")
            self._rows = CsvRows(text, self._config, need)
            self._kept = {name: position(name, self._rows.names, job.input) for name in job.keep}
        except EdgeError:
            raise
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise unreadable(self._config.path, error, _READABLE) from error

    def blocks(self, first: int, rows: int) -> Iterator[Block]:
        """Yield all rows from row ``first`` on, in blocks of the CSV reader's own size."""
        del rows
        try:
            for found in self._rows.blocks(first):
                yield self._block(found)
        except EdgeError:
            raise
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise unreadable(self._config.path, error, _READABLE) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _block(self, rows: NumberedRows) -> Block:
        return Block(
            as_kept_dtype(self._rows.samples(rows)),
            self._rows.times(rows),
            {
                name: np.array([*(row[place] for _, row in rows), None], object)[:-1]
                for name, place in self._kept.items()
            },
            self._file.tell() / max(1, self._size),
        )
