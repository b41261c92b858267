"""Labels: what was true at an event time, and since when that is known.

Rows are (device, stream, time_ns, value or label text, known_at_ns). Every
join is *as of* an instant: it sees only what was known by then.

Delivery: importing the same rows again changes nothing; a file is moved to
``labels-done`` only after its rows are durable.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import logging
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_cloud.store import Store, bump
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.types import check_name

__all__ = ["INBOX", "Label", "Labels", "latest_known", "read_labels"]

log = logging.getLogger(__name__)

INBOX = "labels-inbox"
"""Folder in the store whose CSV files are imported in order of their names."""

_DONE = "labels-done"
_POISON = "poison"
_COLUMNS = ("device", "stream", "time_ns", "time", "value", "known_at_ns", "known_at")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_LARGEST = 2**63 - 1


class Label(msgspec.Struct, frozen=True):
    """What was true for one row.

    Attributes:
        device: Device id.
        stream: Outbox stream of the estimates it judges.
        time_ns: ``end_ns`` of the estimate.
        value: A number, or the name of a label.
        known_at_ns: Nothing computed for an earlier instant may use it.
    """

    device: str
    stream: str
    time_ns: int
    value: float | str
    known_at_ns: int


class Labels:
    """The labels of one store; callable from any thread."""

    def __init__(self, store: Store, inbox: Path | None = None) -> None:
        self._store = store
        self._database = store.database
        self.inbox = inbox or store.folder / INBOX
        self.inbox.mkdir(parents=True, exist_ok=True)

    def add(self, labels: Iterable[Label]) -> int:
        """Keep labels in one transaction; return how many were new.

        Raises:
            StoreError: The catalogue refuses; none is kept.
        """
        with self._database.transaction() as connection:
            return _insert(connection, labels)

    def import_file(self, path: Path) -> int:
        """Import one CSV file; return how many labels were new.

        Raises:
            ConfigError: A line is wrong; nothing of the file is kept.
        """
        return self.add(read_labels(path))

    def scan_inbox(self) -> int:
        """Import what lies in the inbox, in order of names; return how many labels were new.

        A file with a wrong line goes to ``poison`` beside a text that says why,
        and is counted. A file whose name does not end in ``.csv`` is left alone.
        """
        return sum(self._take_file(path) for path in sorted(self.inbox.glob("*.csv")))

    def as_of(
        self, device: str, stream: str, now_ns: int, *, first_ns: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the numeric labels known at ``now_ns``, the latest version of each.

        Args:
            device: Device id.
            stream: Outbox stream.
            now_ns: Event time; what became known later does not exist.
            first_ns: Earliest event time wanted.

        Returns:
            ``time_ns``, shape (n,), int64, increasing; values, shape (n,), float64.
        """
        rows = self._database.rows(
            "SELECT time_ns, value FROM label WHERE device=? AND stream=? AND time_ns>=?"
            " AND known_at_ns<=? AND value IS NOT NULL ORDER BY time_ns, known_at_ns",
            (device, stream, first_ns, now_ns),
        )
        newest = dict(rows)
        times = np.fromiter(newest.keys(), np.int64, len(newest))
        return times, np.fromiter(newest.values(), np.float64, len(newest))

    def versions(
        self, device: str, stream: str, first_ns: int, now_ns: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return every version of the numeric labels since ``first_ns`` that ``now_ns`` knows.

        Returns:
            Time, instant known and value, ordered by time, then by the instant;
            `latest_known` picks from them as of any earlier instant.
        """
        rows = self._database.rows(
            "SELECT time_ns, known_at_ns, value FROM label WHERE device=? AND stream=?"
            " AND time_ns BETWEEN ? AND ? AND known_at_ns<=? AND value IS NOT NULL"
            " ORDER BY time_ns, known_at_ns",
            (device, stream, first_ns, now_ns, now_ns),
        )
        times, known, values = zip(*rows, strict=True) if rows else ((), (), ())
        return (
            np.array(times, np.int64),
            np.array(known, np.int64),
            np.array(values, np.float64),
        )

    def count(self) -> int:
        """Return how many labels are kept."""
        return int(self._database.rows("SELECT count(*) FROM label")[0][0])

    def without_row(self) -> dict[str, int]:
        """Count, by ``device/stream``, labels at instants for which no row is stored.

        They are kept: their rows may still come.
        """
        pairs = self._database.rows("SELECT DISTINCT device, stream FROM label")
        counts = {f"{device}/{stream}": self._missing(device, stream) for device, stream in pairs}
        return {name: n for name, n in counts.items() if n}

    def _missing(self, device: str, stream: str) -> int:
        labelled = self._database.rows(
            "SELECT DISTINCT time_ns FROM label WHERE device=? AND stream=?", (device, stream)
        )
        known = self._store.rows(stream, device=device, columns=["end_ns"]).columns
        times = np.array([row[0] for row in labelled], np.int64)
        stored = known.get("end_ns", np.empty(0, np.int64))
        return int((~np.isin(times, stored)).sum())

    def _take_file(self, path: Path) -> int:
        try:
            added = self.import_file(path)
        except ConfigError as error:
            # Another process on this store may have taken the file first.
            if path.exists():
                self._set_aside(path, error)
            return 0
        with contextlib.suppress(FileNotFoundError):
            _move(path, self._store.folder / _DONE)
        log.info("labels.imported", extra={"file": path.name, "labels": added})
        return added

    def _set_aside(self, path: Path, error: EdgeError) -> None:
        with self._database.transaction() as connection:
            bump(connection, "label_files_refused_total", "unreadable")
        moved = _move(path, self._store.folder / _POISON)
        moved.with_name(moved.name + ".why").write_text(f"{error}\n")
        log.warning("labels.refused", extra={"file": path.name, "why": str(error)})


def read_labels(path: Path) -> list[Label]:
    """Read a CSV file of labels.

    The header names ``device``, ``stream``, ``value``, then ``time_ns`` or
    ``time`` and ``known_at_ns`` or ``known_at``; the latter of each pair is
    ISO 8601, in UTC unless it says otherwise.

    Raises:
        ConfigError: ``file:line: …``, for the first wrong line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file, strict=True)
            _check_header(lines.fieldnames or (), path)
            return list(_parsed(lines, path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"the labels cannot be read: {error}",
            where=str(path),
            expected=f"CSV with the header {','.join(_COLUMNS)}",
            remedy="Write it again as CSV in UTF-8.",
        ) from error


def latest_known(
    times: np.ndarray, known: np.ndarray, values: np.ndarray, now_ns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pick what `Labels.versions` returned as of one instant: the newest version of each time."""
    seen = known <= now_ns
    times, values = times[seen], values[seen]
    is_last = np.ones(len(times), bool)
    is_last[:-1] = times[1:] != times[:-1]
    return times[is_last], values[is_last]


def _insert(connection: sqlite3.Connection, labels: Iterable[Label]) -> int:
    before = connection.total_changes
    connection.executemany(
        "INSERT OR IGNORE INTO label VALUES (?,?,?,?,?,?)",
        (
            (
                label.device,
                label.stream,
                label.time_ns,
                label.known_at_ns,
                None if isinstance(label.value, str) else label.value,
                label.value if isinstance(label.value, str) else None,
            )
            for label in labels
        ),
    )
    return connection.total_changes - before


def _check_header(names: Sequence[str], path: Path) -> None:
    has_all = {"device", "stream", "value"} <= set(names)
    has_times = bool({"time_ns", "time"} & set(names)) and bool(
        {"known_at_ns", "known_at"} & set(names)
    )
    unknown = [name for name in names if name not in _COLUMNS]
    if not has_all or not has_times or unknown:
        raise ConfigError(
            f"the header is {','.join(names) or 'missing'}",
            where=f"{path}:1",
            expected="device,stream,time_ns,value,known_at_ns (or time, known_at in ISO 8601)",
            remedy="Name the columns so.",
        )


def _parsed(lines: csv.DictReader[str], path: Path) -> Iterator[Label]:
    for line in lines:
        try:
            yield _label(line)
        except (ValueError, OverflowError, TypeError) as error:
            raise ConfigError(
                f"the label cannot be read: {error}",
                where=f"{path}:{lines.line_num}",
                expected="a device, a stream, a finite value, a time and when it became known",
                remedy="Correct the line; nothing of the file was imported.",
            ) from error


def _label(line: dict[str, str]) -> Label:
    if None in line or None in line.values():
        raise ValueError(f"{len([v for v in line.values() if v is not None])} cells")
    return Label(
        device=check_name(line["device"], "device"),
        stream=check_name(line["stream"], "stream"),
        time_ns=_instant(line, "time"),
        value=_value(line["value"]),
        known_at_ns=_instant(line, "known_at"),
    )


def _instant(line: dict[str, str], name: str) -> int:
    exact = line.get(f"{name}_ns")
    instant_ns = int(exact) if exact else _from_iso(line.get(name) or "")
    if abs(instant_ns) > _LARGEST:
        raise ValueError(f"{name} is {instant_ns}")
    return instant_ns


def _from_iso(text: str) -> int:
    instant = datetime.datetime.fromisoformat(text)
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=datetime.UTC)
    return (instant - _EPOCH) // datetime.timedelta(microseconds=1) * 1000


def _value(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return check_name(text, "label")
    if not math.isfinite(value):
        raise ValueError(f"value is {text!r}")
    return value


def _move(path: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    target = folder / path.name
    number = 1
    while target.exists():
        target = folder / f"{path.stem}.{number}{path.suffix}"
        number += 1
    return path.rename(target)
