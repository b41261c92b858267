"""What really happened in a recording: events, from a column or from a file of intervals."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.errors import ConfigError
from edge_runtime.sources.instants import TimeFormat, parser_of

__all__ = ["Event", "Named", "column_events", "label_codes", "read_events"]

Named = dict[str | None, tuple["Event", ...]]
"""Events by the name of their recording; None where the file names none."""

_COLUMNS = ("start", "end", "label")
_SECONDS: TimeFormat = "unix_s"


class Event(msgspec.Struct, frozen=True, order=True):
    """Something that a label should have been started for.

    Attributes:
        start_ns: When it began.
        end_ns: When it was over, at or after its start.
        label: The label.
    """

    start_ns: int
    end_ns: int
    label: str


def label_codes(
    cells: Iterable[object], labels: Sequence[str], names: Mapping[str, str]
) -> np.ndarray:
    """Return the position of each cell's label, shape (n,), int64; -1 for no event.

    Args:
        cells: What the label column says, one a row.
        labels: Of the model.
        names: Label for each word of the column that is not a label itself.
    """
    code_of: dict[object, int] = {}
    codes = []
    for cell in cells:
        code = code_of.get(cell)
        if code is None:
            label = event_label(_word(cell), labels, names)
            code = code_of[cell] = -1 if label is None else labels.index(label)
        codes.append(code)
    return np.array(codes, np.int64)


def column_events(
    codes: np.ndarray, time_ns: np.ndarray, labels: Sequence[str]
) -> tuple[Event, ...]:
    """Return an event for each run of rows that have the same label.

    Args:
        codes: Position of each row's label, shape (n,); -1 for no event.
        time_ns: Of each row, shape (n,).
        labels: Of the model.
    """
    bounds = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]
    return tuple(
        Event(int(time_ns[first]), int(time_ns[last - 1]), labels[int(codes[first])])
        for first, last in itertools.pairwise(bounds)
        if last > first and codes[first] >= 0
    )


def _word(cell: object) -> str:
    """Return a cell as people write it: 1 for 1.0, nothing for a missing value."""
    if isinstance(cell, float | np.floating):
        return f"{cell:g}".replace("nan", "")
    return "" if cell is None else str(cell).strip()


def event_label(word: str, labels: Sequence[str], names: Mapping[str, str]) -> str | None:
    """Return the label that a word of the column stands for; None for no event.

    Where the model has one label, 1 and true stand for it.
    """
    if word in names:
        return names[word]
    if word in labels:
        return word
    return labels[0] if len(labels) == 1 and word.lower() in ("1", "true") else None


def read_events(
    path: Path, labels: Sequence[str], names: Mapping[str, str], time_format: TimeFormat | None
) -> Named:
    """Read a CSV file with the columns ``start``, ``end``, ``label`` and perhaps ``recording``.

    Args:
        path: The file.
        labels: Of the model; other words are events of something else, and left out.
        names: Label for each word that is not a label itself.
        time_format: How times are written; None for seconds from the recording's start.

    Raises:
        ConfigError: It cannot be read, lacks a column, or a row makes no sense.
    """
    parse = parser_of(time_format or _SECONDS)
    found: dict[str | None, list[Event]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise _wrong(path, 1, f"the column {missing[0]!r} is missing")
            for row in rows:
                label = event_label((row["label"] or "").strip(), labels, names)
                if label is not None:
                    event = _event(row, label, parse, f"{path}:{rows.line_num}")
                    found.setdefault(row.get("recording") or None, []).append(event)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _wrong(path, 1, f"cannot be read ({error})") from error
    return {name: _merged(events) for name, events in found.items()}


def _event(row: Mapping[str, str], label: str, parse: Callable[[str], int], where: str) -> Event:
    try:
        start_ns, end_ns = parse(row["start"] or ""), parse(row["end"] or "")
        if end_ns < start_ns:
            raise ValueError("it ends before it starts")
    except ValueError as error:
        raise ConfigError(
            f"the event from {row['start']!r} to {row['end']!r} makes no sense ({error})",
            where=where,
            expected="start and end, as --time-format says, or in seconds without --time",
            remedy="Correct the row.",
        ) from error
    return Event(start_ns, end_ns, label)


def _merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """Return events in order, those of one label that overlap as one."""
    done: dict[str, list[Event]] = {}
    for event in sorted(events):
        before = done.setdefault(event.label, [])
        if before and event.start_ns <= before[-1].end_ns:
            end_ns = max(event.end_ns, before[-1].end_ns)
            before[-1] = msgspec.structs.replace(before[-1], end_ns=end_ns)
        else:
            before.append(event)
    return tuple(sorted(event for one in done.values() for event in one))


def _wrong(path: Path, line: int, what: str) -> ConfigError:
    return ConfigError(
        what,
        where=f"{path}:{line}",
        expected="a CSV file with the columns start, end and label, perhaps recording",
        remedy="Write one row for each event.",
    )
