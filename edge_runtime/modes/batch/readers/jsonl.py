"""JSON lines of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import msgspec
import numpy as np

from edge_runtime.errors import EdgeError, SourceError
from edge_runtime.modes.batch.job import BatchJob, Schema
from edge_runtime.modes.batch.readers.block import Block, as_kept_dtype, time_of
from edge_runtime.sources.columns import no_column, times, unreadable
from edge_runtime.spec import StreamSpec

__all__ = ["JsonLinesReader"]

_BLOCK_BYTES = 1 << 20
_NAN = math.nan


class JsonLinesReader:
    """Reads one JSON object a line; kept members are text. See `Reader`.

    A member that a line leaves out, or that is null, is a missing value; one
    that the first block of lines never has is an error. Empty lines are no rows.
    """

    def __init__(self, job: BatchJob, need: StreamSpec) -> None:
        self._path = job.input
        self._time = time_of(job, need)
        self._channels = [job.columns.get(name, name) for name in need.names]
        self._keep = job.keep
        self._decoder = msgspec.json.Decoder(self._line_type())
        self.rows: int | None = None
        self.kept: Schema = dict.fromkeys(job.keep, "text")
        try:
            self._size = job.input.stat().st_size
            self._file: BinaryIO = job.input.open("rb")
        except OSError as error:
            raise unreadable(self._path, error, "a file of JSON lines") from error
        self._check_members()

    def blocks(self, first: int, rows: int) -> Iterator[Block]:
        """Yield all rows from row ``first`` on, a megabyte of lines at a time."""
        del rows
        self._file.seek(0)
        row = line = 0
        try:
            while lines := self._file.readlines(_BLOCK_BYTES):
                full = [one for one in lines if not one.isspace()]
                skipped = min(len(full), max(0, first - row))
                if len(full) > skipped:
                    yield self._block(self._decoded(full[skipped:], lines, line))
                row += len(full)
                line += len(lines)
        except EdgeError:
            raise
        except OSError as error:
            raise unreadable(self._path, error, "a file of JSON lines") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # --- lines ----------------------------------------------------------------------

    def _line_type(self) -> type[msgspec.Struct]:
        """Return a struct of what is needed: channels, then the time, then what is kept."""
        fields: list[tuple[str, Any, Any]] = []
        names: dict[str, str] = {}
        for i, channel in enumerate(self._channels):
            fields.append((f"c{i}", float | None, _NAN))
            names[f"c{i}"] = channel
        if self._time.column is not None:
            fields.append(("time", str | int | float | None, None))
            names["time"] = str(self._time.column)
        for i, name in enumerate(self._keep):
            fields.append((f"k{i}", Any, None))
            names[f"k{i}"] = name
        return msgspec.defstruct("Line", fields, rename=names, gc=False)

    def _decoded(self, full: list[bytes], lines: list[bytes], before: int) -> list[Any]:
        try:
            decode = self._decoder.decode
            return [decode(line) for line in full]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise self._bad_line(lines, before) from None

    def _bad_line(self, lines: list[bytes], before: int) -> SourceError:
        """Find, slowly, which line it was."""
        for number, line in enumerate(lines, before + 1):
            try:
                if not line.isspace():
                    self._decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                return SourceError(
                    str(error),
                    where=f"{self._path}:{number}",
                    expected="a JSON object with a number for each channel",
                    remedy="Correct the line; perhaps the file is truncated.",
                )
        return SourceError("a line cannot be read", where=str(self._path))

    def _block(self, rows: Sequence[Any]) -> Block:
        tuples = [msgspec.structs.astuple(row) for row in rows]
        width = len(self._channels)
        samples = np.array([row[:width] for row in tuples], np.float64).reshape(-1, width)
        time_ns = None
        rest = width
        if self._time.column is not None:
            instants = np.array([row[width] for row in tuples])
            time_ns = times(self._time, instants, len(rows), self._path)
            rest += 1
        return Block(
            as_kept_dtype(samples),
            time_ns,
            {
                name: np.array([*(_text(row[rest + i]) for row in tuples), None], object)[:-1]
                for i, name in enumerate(self._keep)
            },
            self._file.tell() / max(1, self._size),
        )

    # --- members --------------------------------------------------------------------

    def _check_members(self) -> None:
        """Look at the first block: a misspelt channel must not pass for missing values."""
        found: set[str] = set()
        lines = self._file.readlines(_BLOCK_BYTES)
        for line in lines:
            try:
                members = msgspec.json.decode(line) if not line.isspace() else {}
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue  # It is named, with its number, when its turn comes.
            found |= members.keys() if isinstance(members, dict) else set()
        time = [] if self._time.column is None else [str(self._time.column)]
        for name in [*self._channels, *time, *self._keep]:
            if found and name not in found:
                raise no_column(name, sorted(found), self._path)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()
