"""Input files of batch mode, by suffix: each is read in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.errors import ConfigError
from edge_runtime.modes.batch.job import BatchJob
from edge_runtime.modes.batch.readers.block import Block, Reader
from edge_runtime.modes.batch.readers.csv import CsvReader
from edge_runtime.modes.batch.readers.jsonl import JsonLinesReader
from edge_runtime.modes.batch.readers.npz import NpzReader
from edge_runtime.modes.batch.readers.parquet import ParquetReader
from edge_runtime.spec import StreamSpec

__all__ = ["Block", "Reader", "open_reader"]

_READERS: dict[str, Callable[[BatchJob, StreamSpec], Reader]] = {
    ".csv": CsvReader,
    ".jsonl": JsonLinesReader,
    ".ndjson": JsonLinesReader,
    ".npz": NpzReader,
    ".parquet": ParquetReader,
    ".pq": ParquetReader,
    ".tsv": CsvReader,
}


def open_reader(job: BatchJob, need: StreamSpec) -> Reader:
    """Open the input and find the columns of the channels.

    Raises:
        ConfigError: The suffix is unknown, or a column is missing.
        MissingExtra: A package for that kind of file is not installed.
        SourceError: The file cannot be read.
    """
    make = _READERS.get(job.input.suffix.lower())
    if make is None:
        raise ConfigError(
            f"the suffix is {job.input.suffix!r}",
            where=str(job.input),
            expected=f"one of {', '.join(_READERS)}",
            remedy="Rename the file, or convert it.",
        )
    if job.array is not None and (make is not NpzReader or job.columns):
        raise ConfigError(
            f"--array is {job.array!r}",
            where=str(job.input),
            expected="an .npz, and no --map: its columns are the model's channels in order",
            remedy="Leave out --array or --map.",
        )
    unknown = sorted(job.columns.keys() - set(need.names))
    if unknown:
        raise ConfigError(
            f"--map names {unknown[0]!r}",
            expected=f"channels of the model: {', '.join(need.names)}",
            remedy="Write --map CHANNEL=COLUMN.",
        )
    return make(job, need)
