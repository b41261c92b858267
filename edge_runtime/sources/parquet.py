"""Recordings in Parquet."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime.errors import EdgeError, MissingExtra
from edge_runtime.sources.columns import choose, keys_of, position, stack, times, unreadable
from edge_runtime.sources.recording import Recording, TableConfig, Track
from edge_runtime.spec import StreamSpec

__all__ = ["ParquetSource", "read_parquet"]


class ParquetSource(Recording):
    """Replays columns of a Parquet file; nulls are NaN."""

    Config = TableConfig

    def __init__(self, config: TableConfig) -> None:
        super().__init__(config, lambda need: read_parquet(config, need))


def read_parquet(config: TableConfig, need: StreamSpec) -> Track:
    """Read the needed columns.

    Raises:
        ConfigError: There are no such columns.
        MissingExtra: pyarrow is not installed.
        SourceError: The file cannot be read.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra.of('source "parquet"', "pyarrow", "cloud") from error
    try:
        with parquet.ParquetFile(config.path) as file:
            return _track(file, config, need)
    except EdgeError:
        raise
    except (OSError, pyarrow.ArrowException) as error:
        raise unreadable(config.path, error, "a Parquet file") from error


def _track(file: Any, config: TableConfig, need: StreamSpec) -> Track:
    available = list(file.schema_arrow.names)

    def named(column: str | int | None) -> str | None:
        return None if column is None else available[position(column, available, config.path)]

    names = [named(column) for column in choose(config, need)]
    time_name, key_name = named(config.time.column), named(config.key)
    table = file.read(columns=[name for name in (*names, time_name, key_name) if name is not None])
    samples = stack([_numpy(table, name) for name in names], names, config.path)
    instants = None if time_name is None else _numpy(table, time_name)
    keys = None if key_name is None else keys_of(table.column(key_name).to_pylist())
    return Track(times(config.time, instants, len(samples), config.path), samples, keys=keys)


def _numpy(table: Any, name: str | None) -> np.ndarray:
    array: np.ndarray = table.column(name).to_numpy()
    return array
