"""Messages that are lines of text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from edge_runtime.sources.live import Health
from edge_runtime.sources.serial.config import Delimited, KeyValue

__all__ = ["DelimitedParser", "JsonParser", "KeyValueParser", "LineDecoder", "LineParser"]

# Anything else than text shows a wrong baud rate, or a byte that was lost.
_TEXT = re.compile(rb"[\t\x20-\x7e]*")
_NOTHING = float("nan")


class LineParser(Protocol):
    """Reads the wanted numbers of lines; raises ValueError where there are none."""

    def block(self, lines: Sequence[bytes]) -> np.ndarray:
        """Read clean lines, all at once: shape (n, numbers), float64."""
        ...

    def line(self, line: bytes) -> Sequence[float]:
        """Read one line that may leave numbers out."""
        ...


class LineDecoder:
    """Cuts bytes into lines and reads their numbers; keeps what is not whole yet.

    Args:
        parser: Reads the lines.
        columns: Numbers it gives for each line.
        most_bytes: Longest line.
        health: Told about lines that cannot be read.
    """

    def __init__(
        self, parser: LineParser, columns: int, *, most_bytes: int, health: Health
    ) -> None:
        self._parser = parser
        self._columns = columns
        self._most_bytes = most_bytes
        self._health = health
        self._rest = b""
        # Nobody knows whether the first bytes are the start of a line.
        self._is_midway = True

    def push(self, received: bytes) -> np.ndarray:
        """Return the numbers of every line that is now whole, shape (n, columns), float64."""
        lines = self._split(received)
        if not lines:
            return np.empty((0, self._columns))
        try:
            return self._parser.block(lines)
        except ValueError:
            # Once more, slower, to take what can be read.
            return self._one_by_one(lines)

    def _split(self, received: bytes) -> list[bytes]:
        pieces = (self._rest + received).split(b"\n")
        self._rest = pieces.pop()
        if pieces and self._is_midway:
            self._is_midway = False
            self._health.fault("framing")
            del pieces[0]
        if len(self._rest) > self._most_bytes:
            self._rest, self._is_midway = b"", True
        lines = [line for line in map(bytes.strip, pieces) if 0 < len(line) <= self._most_bytes]
        overlong = sum(len(piece.strip()) > self._most_bytes for piece in pieces)
        if overlong:
            self._health.fault("framing", overlong)
        return lines

    def _one_by_one(self, lines: Sequence[bytes]) -> np.ndarray:
        rows = [row for line in lines if (row := self._row(line)) is not None]
        return np.array(rows, np.float64).reshape(-1, self._columns)

    def _row(self, line: bytes) -> Sequence[float] | None:
        try:
            return self._parser.line(line)
        except ValueError:
            self._health.fault("unparsable" if _TEXT.fullmatch(line) else "framing")
            return None


class DelimitedParser:
    """Reads numbers in a fixed order.

    Args:
        config: What the lines look like.
        names: The wanted fields.
    """

    def __init__(self, config: Delimited, names: Sequence[str]) -> None:
        self._delimiter = None if config.delimiter == " " else config.delimiter
        self._fields = len(config.fields)
        self._columns = [config.fields.index(name) for name in names]

    def block(self, lines: Sequence[bytes]) -> np.ndarray:
        """Read clean lines; an empty field is a matter for `line`."""
        texts = [line.decode("ascii") for line in lines]
        if any(self._count(text) != self._fields for text in texts):
            raise ValueError("a line has another number of fields")
        rows: np.ndarray = np.loadtxt(
            texts, delimiter=self._delimiter, comments=None, usecols=self._columns, ndmin=2
        )
        return rows

    def line(self, line: bytes) -> Sequence[float]:
        """Read one line."""
        fields = line.decode("ascii").split(self._delimiter)
        if len(fields) != self._fields:
            raise ValueError("the line has another number of fields")
        return [_number(fields[column]) for column in self._columns]

    def _count(self, text: str) -> int:
        return len(text.split()) if self._delimiter is None else text.count(self._delimiter) + 1


class KeyValueParser:
    """Reads ``key=value`` pairs in any order.

    Args:
        config: What the lines look like.
        keys: The wanted keys.
    """

    def __init__(self, config: KeyValue, keys: Sequence[str]) -> None:
        self._delimiter = None if config.delimiter == " " else config.delimiter
        self._assign = config.assign
        self._keys = tuple(keys)

    def block(self, lines: Sequence[bytes]) -> np.ndarray:
        """Read lines that all can be read."""
        return np.array([self.line(line) for line in lines])

    def line(self, line: bytes) -> Sequence[float]:
        """Read one line."""
        pairs = (pair.partition(self._assign) for pair in line.decode().split(self._delimiter))
        found = {key.strip(): value for key, _, value in pairs}
        return _some([_number(found.get(key, "")) for key in self._keys])


class JsonParser:
    """Reads one JSON object a line.

    Args:
        keys: The wanted keys; others may hold anything.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        names = {f"f{number}": key for number, key in enumerate(keys)}
        fields = [(name, float | None, None) for name in names]
        kind = msgspec.defstruct("Line", fields, rename=names)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
        self._values: Callable[[Any], tuple[float | None, ...]] = msgspec.structs.astuple

    def block(self, lines: Sequence[bytes]) -> np.ndarray:
        """Read lines that all can be read."""
        return np.array([self.line(line) for line in lines])

    def line(self, line: bytes) -> Sequence[float]:
        """Read one line."""
        try:
            values = self._values(self._decoder.decode(line))
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError("the line is no such object") from error
        return _some([_NOTHING if value is None else value for value in values])


def _number(text: str) -> float:
    """Read a number; nothing at all is a missing one."""
    text = text.strip()
    # Python's own 1_000 is no sensor's.
    if "_" in text:
        raise ValueError(f"{text!r} is no number")
    return float(text) if text else _NOTHING


def _some(values: list[float]) -> list[float]:
    """Return values of which at least one is there."""
    if all(value != value for value in values):
        raise ValueError("the line has none of the wanted numbers")
    return values
