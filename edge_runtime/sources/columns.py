"""What loaders share: choosing columns, and errors of unreadable files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.registry import closest
from edge_runtime.sources.instants import TimeConfig, to_instants
from edge_runtime.sources.recording import RecordingConfig
from edge_runtime.spec import StreamSpec

__all__ = [
    "check_columns",
    "choose",
    "keys_of",
    "no_column",
    "position",
    "stack",
    "times",
    "unreadable",
]


def choose(config: RecordingConfig, need: StreamSpec) -> list[str | int]:
    """Return the column of each needed channel, by name or number.

    Raises:
        ConfigError: ``columns`` leaves a channel out.
    """
    columns = config.columns
    if columns is None:
        return list(need.names)
    missing = [name for name in need.names if name not in columns]
    if missing:
        raise ConfigError(
            f"columns leaves out the channels {', '.join(missing)}",
            where=str(config.path),
            expected=f"a column for each of {', '.join(need.names)}",
            remedy="Add them to columns.",
        )
    return [columns[name] for name in need.names]


def position(column: str | int, names: Sequence[str], path: Path) -> int:
    """Return the place of a column in a file with columns ``names``.

    Raises:
        ConfigError: The file has no such column.
    """
    if isinstance(column, int) and 0 <= column < len(names):
        return column
    if isinstance(column, str) and column in names:
        return list(names).index(column)
    raise no_column(column, names, path)


def no_column(column: str | int, names: Sequence[str], path: Path) -> ConfigError:
    """Say that a file has no such column, and how to name the right one."""
    return ConfigError(
        f"there is no column {column!r}",
        where=str(path),
        expected=f"one of {', '.join(names) or 'no columns at all'}",
        remedy=f"{closest(str(column), tuple(names))} "
        "Say which one it is: columns in a configuration, --map in batch mode.",
    )


def stack(arrays: Sequence[np.ndarray], names: Sequence[object], path: Path) -> np.ndarray:
    """Put columns side by side, shape (n, channels), in a dtype that holds them all.

    Raises:
        SourceError: A column is no column of real numbers, or lengths differ.
    """
    check_columns(arrays, names, path)
    return np.stack(arrays, axis=1)


def check_columns(arrays: Sequence[np.ndarray], names: Sequence[object], path: Path) -> None:
    """Check that arrays can stand side by side.

    Raises:
        SourceError: A column is no column of real numbers, or lengths differ.
    """
    for array, name in zip(arrays, names, strict=True):
        if array.ndim != 1 or array.dtype.kind not in "iuf" or len(array) != len(arrays[0]):
            raise SourceError(
                f"column {name!r} is {array.dtype} of shape {array.shape}",
                where=str(path),
                expected=f"real numbers of shape ({len(arrays[0])},)",
                remedy="Choose other columns, or write the file again.",
            )


def keys_of(column: Iterable[object]) -> np.ndarray:
    """Return which device each row is of, see `Frame`; None where a cell is empty."""
    known: dict[str, str] = {}
    texts = ["" if value is None or value != value else str(value) for value in column]
    keys = np.empty(len(texts), np.object_)
    # The rows of one device share one text.
    keys[:] = [known.setdefault(text, text) if text else None for text in texts]
    return keys


def times(config: TimeConfig, column: np.ndarray | None, rows: int, path: Path) -> np.ndarray:
    """Return event times, shape (rows,), int64 ns, from a column or the grid.

    Raises:
        SourceError: The column does not hold one time a row.
    """
    if column is None:
        return config.grid(rows)
    try:
        if column.shape != (rows,):
            raise ValueError(f"it has shape {column.shape}")
        return to_instants(column, config.format)
    except (ValueError, OverflowError) as error:
        raise SourceError(
            f"time column {config.column!r} cannot be read ({error})",
            where=str(path),
            expected=f"{rows} times in format {config.format}",
            remedy="Correct time.column or time.format.",
        ) from error


def unreadable(path: Path, error: Exception, expected: str) -> SourceError:
    """Say that a file cannot be read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return SourceError(
        f"cannot be read ({reason or type(error).__name__})",
        where=str(path),
        expected=expected,
        remedy="Check the path, its permissions, and whether the file is complete.",
    )
