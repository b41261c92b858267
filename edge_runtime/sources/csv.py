"""Recordings in CSV."""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, TextIO, TypeVar

import numpy as np
from msgspec import Meta

from edge_runtime.errors import EdgeError, SourceError
from edge_runtime.sources.columns import choose, keys_of, position, unreadable
from edge_runtime.sources.instants import TimeConfig, parser_of
from edge_runtime.sources.recording import Recording, TableConfig, Track
from edge_runtime.spec import StreamSpec

__all__ = ["CsvConfig", "CsvRows", "CsvSource", "NumberedRows", "read_csv"]

_BLOCK_ROWS = 8192
_READABLE = "a CSV file in UTF-8"

T = TypeVar("T")
NumberedRows = Sequence[tuple[int, list[str]]]
"""Cells of rows, each with the line it ends on."""


class CsvConfig(TableConfig, frozen=True, kw_only=True):
    """Options of a CSV file; empty lines are no rows.

    Attributes:
        delimiter: What parts the cells.
        has_header: Whether the first line names the columns.
    """

    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    has_header: bool = True


class CsvSource(Recording):
    """Replays a CSV file as float64; empty cells are NaN."""

    Config = CsvConfig

    def __init__(self, config: CsvConfig) -> None:
        super().__init__(config, lambda need: read_csv(config, need))


def read_csv(config: CsvConfig, need: StreamSpec) -> Track:
    """Read the needed columns of a CSV file up to ``last_row``.

    Raises:
        ConfigError: It has no such columns.
        SourceError: It cannot be read; a cell is named as ``file:line:column``.
    """
    try:
        with config.path.open(encoding="utf-8-sig", newline="") as file:
            return _track(CsvRows(file, config, need), config.time)
    except EdgeError:
        raise
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(config.path, error, _READABLE) from error


class CsvRows:
    """Reads the needed columns of an open CSV file, block by block.

    Args:
        file: Opened with ``newline=""``; read by this object alone.
        config: What the file looks like.
        need: The channels.

    Attributes:
        names: Columns of the file, in order.

    Raises:
        ConfigError: There are no such columns.
        SourceError: The file is empty.
    """

    def __init__(self, file: TextIO, config: CsvConfig, need: StreamSpec) -> None:
        self._config = config
        self._rows = csv.reader(file, delimiter=config.delimiter, strict=True)
        first = next((row for row in self._rows if row), None)
        if first is None:
            raise unreadable(config.path, ValueError("the file is empty"), _READABLE)
        self.names = first if config.has_header else [str(i) for i in range(len(first))]
        self._pending = [] if config.has_header else [(self._rows.line_num, first)]
        self._channels = [self._position(column) for column in choose(config, need)]
        column = config.time.column
        self._time = None if column is None else self._position(column)
        self._key = None if config.key is None else self._position(config.key)

    @property
    def has_keys(self) -> bool:
        """Whether a column names devices."""
        return self._key is not None

    def _position(self, column: str | int) -> int:
        return position(column, self.names, self._config.path)

    def blocks(self, first: int = 0) -> Iterator[NumberedRows]:
        """Yield data rows from row ``first`` on, up to ``last_row``.

        Raises:
            SourceError: A row has more or fewer cells than there are columns.
        """
        reader = self._rows
        numbered: Iterable[tuple[int, list[str]]] = (
            (reader.line_num, row) for row in reader if row
        )
        rows = itertools.islice(
            itertools.chain(self._pending, numbered), first, self._config.last_row
        )
        while block := list(itertools.islice(rows, _BLOCK_ROWS)):
            self._check_widths(block)
            yield block

    def _check_widths(self, rows: NumberedRows) -> None:
        width = len(self.names)
        for line, row in rows:
            if len(row) != width:
                raise SourceError(
                    f"the row has {len(row)} cells",
                    where=f"{self._config.path}:{line}",
                    expected=f"{width}",
                    remedy="Perhaps the file is truncated, or the delimiter is another.",
                )

    def samples(self, rows: NumberedRows) -> np.ndarray:
        """Return the channels of a block, shape (n, channels), float64."""
        block = np.empty((len(rows), len(self._channels)))
        for i, column in enumerate(self._channels):
            block[:, i] = self._parse(rows, column, _number, "a number")
        return block

    def times(self, rows: NumberedRows) -> np.ndarray | None:
        """Return the times of a block, shape (n,), int64 ns; None without a time column."""
        if self._time is None:
            return None
        time = self._config.time
        parse = parser_of(time.format)
        return np.array(
            self._parse(rows, self._time, parse, f"a time in format {time.format}"), np.int64
        )

    def keys(self, rows: NumberedRows) -> list[str]:
        """Return the cells that name the device of a block's rows; none without such a column."""
        return [] if self._key is None else [row[self._key] for _, row in rows]

    def _parse(
        self, rows: NumberedRows, column: int, parse: Callable[[str], T], expected: str
    ) -> list[T]:
        try:
            return [parse(row[column]) for _, row in rows]
        except (ValueError, OverflowError):
            # Once more, slower, to say which cell it was.
            return [self._cell(line, row, column, parse, expected) for line, row in rows]

    def _cell(
        self, line: int, row: list[str], column: int, parse: Callable[[str], T], expected: str
    ) -> T:
        try:
            return parse(row[column])
        except (ValueError, OverflowError) as error:
            raise SourceError(
                f"cell of column {self.names[column]!r} is {row[column][:60]!r}",
                where=f"{self._config.path}:{line}:{column + 1}",
                expected=expected,
                remedy="Correct the cell, or leave it empty where a sample is missing.",
            ) from error


def _track(rows: CsvRows, time: TimeConfig) -> Track:
    samples: list[np.ndarray] = []
    times: list[np.ndarray] = []
    names: list[str] = []
    for block in rows.blocks():
        samples.append(rows.samples(block))
        names += map(sys.intern, rows.keys(block))
        found = rows.times(block)
        if found is not None:
            times.append(found)
    joined = np.concatenate(samples) if samples else rows.samples([])
    keys = keys_of(names) if rows.has_keys else None
    if time.column is None:
        return Track(time.grid(len(joined)), joined, keys=keys)
    time_ns = np.concatenate(times) if times else np.empty(0, np.int64)
    return Track(time_ns, joined, keys=keys)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        if text.strip():
            raise
        return float("nan")
