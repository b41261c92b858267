"""Where rows stay: Parquet segments, and the catalogue that says which of them count.

A row's identity is (device, incarnation, epoch, stream, seq). Rows of one
stream and epoch are taken in order: the *mark* is the first sequence number
that is not stored yet.

Delivery: `Store.ingest` returns acks only after the rows are in a synced
segment and one transaction has added it to the catalogue and moved the mark.
A frame that comes twice, overlaps, or comes too early changes nothing it
should not; several processes may ingest into one folder.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from edge_cloud.database import Database
from edge_cloud.revisions import current_rows
from edge_cloud.segments import (
    IDENTITY,
    concatenate,
    encode_segment,
    file_of,
    read_segment,
    shared_part,
    write_durably,
)
from edge_runtime.clock import SystemClock
from edge_runtime.errors import StoreError, WireError
from edge_runtime.pipeline import is_quality
from edge_runtime.ports import Clock
from edge_runtime.sync.board_times import forget_times
from edge_runtime.sync.frames import Kind, RowFrame, part_of
from edge_runtime.sync.messages import Ack
from edge_runtime.types import Table, check_name

__all__ = ["Extent", "Gap", "Segment", "Store", "StoreStatus", "bump", "check_frame"]

log = logging.getLogger(__name__)

# Another ingester may move a mark between our reading and our transaction.
_CONFLICTS_MAX = 50
# A reader starts again when a compaction removed a file under it.
_READ_TRIES = 5
_COMPACT_BYTES = 64 << 20
# Segments up to this size share a file with others of their group.
_SHARED_BYTES = 256 << 10

_Key = tuple[str, int, int, str]


class Segment(msgspec.Struct, frozen=True):
    """Rows of one device, stream and kind, as the catalogue names them.

    Attributes:
        id: Counts up; a compacted segment gets a new one.
        path: Where it is, for `read_segment`; several may share a file (`file_of`).
        device: Whose rows.
        stream: Outbox stream.
        kind: What the rows are.
        rows: How many.
        first_ns: Earliest event time in it.
        last_ns: Latest event time in it.
        is_compacted: Whether it replaced others.
    """

    id: int
    path: Path
    device: str
    stream: str
    kind: Kind
    rows: int
    first_ns: int
    last_ns: int
    is_compacted: bool


class Extent(msgspec.Struct, frozen=True):
    """How far one stream of one device reaches, in event time.

    Attributes:
        device: Whose rows.
        stream: Outbox stream.
        kind: What the rows are.
        first_ns: Event time of the first row that ever came.
        last_ns: Latest event time that came.
        rows: Rows that ever came.
    """

    device: str
    stream: str
    kind: Kind
    first_ns: int
    last_ns: int
    rows: int


class Gap(msgspec.Struct, frozen=True):
    """Rows that the device says are lost: ``seq0`` to ``seq0 + n`` (exclusive).

    Of thinned rows that many are lost among those from ``seq0`` on; what stayed is stored.
    """

    device: str
    incarnation: int
    epoch: int
    stream: str
    seq0: int
    n: int
    reason: str


class StoreStatus(msgspec.Struct, frozen=True):
    """What a store holds.

    Attributes:
        rows: Rows in live segments.
        segments: Number of live segments.
        bytes: Their size.
        gap_rows: Rows that devices reported as lost.
        counters: Everything counted, ``name`` → ``reason`` → n.
        extents: Every stream.
    """

    rows: int
    segments: int
    bytes: int
    gap_rows: int
    counters: dict[str, dict[str, int]]
    extents: list[Extent]


class _Part(msgspec.Struct, frozen=True, eq=False):
    """Rows of one epoch that become one segment."""

    key: _Key
    kind: Kind
    table: Table
    signature: tuple[object, ...]


class _Packet(msgspec.Struct, frozen=True, eq=False):
    """One file to write.

    Attributes:
        file: Where.
        content: What.
        entries: Its segments: the rows, the path in the catalogue, their share of the bytes.
    """

    file: Path
    content: bytes
    entries: list[tuple[_Part, Path, int]]


class _Beyond(msgspec.Struct, frozen=True):
    """Header fields that this version does not know, of rows ``seq0`` to ``seq0 + n``."""

    key: _Key
    seq0: int
    n: int
    fields: Mapping[str, Any]


class _Plan(msgspec.Struct, frozen=True, eq=False):
    """What a group of frames changes, given the marks it was made for."""

    parts: list[_Part]
    gaps: list[Gap]
    headers: list[_Beyond]
    before: dict[_Key, int]
    after: dict[_Key, int]
    early: set[_Key]


class Store:
    """A folder with ``catalogue.db`` and ``segments/``; callable from any thread.

    Args:
        folder: Made when missing.
        clock: For the time of receipt.
        at_step: Called after each durable step of an ingest (``segment``,
            ``catalogue``); fault tests end the process there.

    Raises:
        StoreError: The folder cannot be made or written to, or the catalogue is damaged
            or of a newer version.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        at_step: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = folder
        self._clock = clock or SystemClock()
        self._at_step = at_step or _ignore
        self._segments = folder / "segments"
        with _made(folder):
            self._segments.mkdir(parents=True, exist_ok=True)
        self.database = Database(folder / "catalogue.db")
        with _made(folder):
            self._lock = os.open(folder / "ingest.lock", os.O_RDWR | os.O_CREAT, 0o644)
        self._sweep()

    def close(self) -> None:
        """Release the catalogue; safe to call twice."""
        self.database.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # --- taking rows ----------------------------------------------------------------

    def ingest(self, frames: Sequence[RowFrame]) -> list[Ack]:
        """Store what is new in a group of frames, in as few files as they allow.

        Args:
            frames: In any order; each passed `check_frame`.

        Returns:
            One ack per device, epoch and stream among the frames. Everything
            below its ``upto`` is durable; ``must_resume`` says that a frame
            beyond ``upto`` was not kept.

        Raises:
            StoreError: The disk or the catalogue refuses; nothing is stored.
        """
        ordered = sorted(frames, key=lambda frame: (_key(frame), frame.seq0))
        for _ in range(_CONFLICTS_MAX):
            plan = self._plan(ordered)
            if not plan.parts and not plan.gaps:
                return _acks(plan)
            if self._commit(plan):
                return _acks(plan)
        raise self._conflict()

    def _conflict(self) -> StoreError:
        return StoreError(
            f"{_CONFLICTS_MAX} times another process changed the same rows first",
            where=str(self.folder),
            expected="at most a few ingesters per device",
            remedy="Use one shared subscription for all ingesters.",
        )

    def _plan(self, frames: Sequence[RowFrame]) -> _Plan:
        before = {key: self._mark(key) for key in dict.fromkeys(map(_key, frames))}
        plan = _Plan([], [], [], before, dict(before), set())
        for frame in frames:
            _take(plan, frame, self._clock.now_ns())
        return msgspec.structs.replace(plan, parts=_merged(plan.parts))

    def _mark(self, key: _Key) -> int:
        rows = self.database.rows(
            "SELECT upto FROM mark WHERE device=? AND incarnation=? AND epoch=? AND stream=?", key
        )
        return int(rows[0][0]) if rows else 0

    def _commit(self, plan: _Plan) -> bool:
        """Make a plan durable; False, and nothing changed, if a mark moved meanwhile."""
        packets = [self._packet(parts) for parts in _sharing(plan.parts)]
        files = [(packet.file, packet.content) for packet in packets]
        write_durably(files)
        self._at_step("segment")
        try:
            with self.database.transaction() as connection:
                is_ours = all(
                    _moved(connection, key, plan.before[key], upto)
                    for key, upto in plan.after.items()
                )
                if not is_ours:
                    raise _ConflictError
                for part, path, size in (entry for one in packets for entry in one.entries):
                    self._add(connection, part, path, size, state="live")
                    _extend(connection, part)
                _note_gaps(connection, plan.gaps, self._clock.now_ns())
                _note_headers(connection, plan.headers)
        except _ConflictError:
            _unlink(path for path, _ in files)
            return False
        except StoreError:
            _unlink(path for path, _ in files)
            raise
        self._at_step("catalogue")
        return True

    def _packet(self, parts: Sequence[_Part]) -> _Packet:
        """Encode one file, of one segment or of several."""
        file = self._path_of(parts[0])
        if len(parts) == 1:
            content = encode_segment(parts[0].table)
            return _Packet(file, content, [(parts[0], file, len(content))])
        file = file.with_name(f"shared-{secrets.token_hex(8)}.parquet")
        table = concatenate([part.table for part in parts])
        content = encode_segment(table)
        packet, first = _Packet(file, content, []), 0
        for part in parts:
            n = len(part.table)
            size = len(content) * n // len(table)
            packet.entries.append((part, shared_part(file, first, n), size))
            first += n
        return packet

    def _add(
        self, connection: sqlite3.Connection, part: _Part, path: Path, size: int, *, state: str
    ) -> None:
        device, incarnation, epoch, stream = part.key
        times, index = _times(part.table), part.table.columns.get("index")
        first, last = (-1, -1) if index is None else (int(index.min()), int(index.max()))
        connection.execute(
            "INSERT INTO segment (path, device, stream, kind, incarnation, epoch, seq0, day,"
            " bytes, rows, first_ns, last_ns, first_index, last_index, state)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                path.relative_to(self.folder).as_posix(),
                device,
                stream,
                part.kind,
                incarnation,
                epoch,
                int(part.table.columns["seq"].min()),
                path.parent.name.removeprefix("day="),
                size,
                len(part.table),
                int(times.min()),
                int(times.max()),
                first,
                last,
                state,
            ),
        )

    def _remove(self, connection: sqlite3.Connection, segments: Sequence[Segment]) -> list[Path]:
        """Take segments and what was scored from them out of the catalogue; return the files."""
        files = [segment.path for segment in segments]
        for segment in segments:
            gone = connection.execute("DELETE FROM segment WHERE id=?", (segment.id,))
            if gone.rowcount != 1:
                raise _ConflictError
            name = (segment.path.relative_to(self.folder).as_posix(),)
            shards = connection.execute("SELECT path FROM shard WHERE segment=?", name)
            files += [self.folder / row[0] for row in shards if row[0]]
            connection.execute("DELETE FROM shard WHERE segment=?", name)
        return files

    def _path_of(self, part: _Part) -> Path:
        device, _, epoch, stream = part.key
        day = _day(int(_times(part.table).min()))
        seq0 = int(part.table.columns["seq"][0])
        name = f"{device}-{epoch}-{seq0}-{secrets.token_hex(6)}.parquet"
        return self._segments / f"stream={stream}" / f"day={day}" / name

    # --- reading --------------------------------------------------------------------

    def segments(
        self,
        device: str | None = None,
        stream: str | None = None,
        kind: Kind | None = None,
        *,
        after: int = 0,
    ) -> list[Segment]:
        """Return the live segments whose id is above ``after``, in order of their ids."""
        return self._select(device=device, stream=stream, kind=kind, after=after)

    def rows(
        self,
        stream: str,
        *,
        kind: Kind = "estimate",
        device: str | None = None,
        first_ns: int | None = None,
        last_ns: int | None = None,
        columns: Sequence[str] | None = None,
        is_current: bool = False,
    ) -> Table:
        """Return the rows of a stream, distinct, in order of device and event time.

        Args:
            stream: Outbox stream.
            kind: What the rows are.
            device: Whose; None for all.
            first_ns: Earliest event time; None from the beginning.
            last_ns: Event time to stop before; None to the end.
            columns: Which; None takes those that all rows have in one shape.
            is_current: Whether only what stands is wanted: the last revision of every
                answer, unless it was taken back. It reads all columns.

        Raises:
            StoreError: A segment is damaged, or a named column is not in all of them.
        """
        if is_current:
            every = self.rows(stream, kind=kind, device=device, first_ns=first_ns, last_ns=last_ns)
            return _chosen(current_rows(every), columns)
        tables = self._read(
            lambda: self._select(
                device=device, stream=stream, kind=kind, first_ns=first_ns, last_ns=last_ns
            ),
            columns,
        )
        if not tables:
            return Table({})
        table = _ordered(concatenate(tables, _with_identity(tables, columns)))
        return _chosen(_between(table, first_ns, last_ns), columns)

    def read(self, segment: Segment, columns: Sequence[str] | None = None) -> Table:
        """Return the rows of one segment, as they were stored.

        Raises:
            FileNotFoundError: It was compacted or deleted meanwhile.
            StoreError: It is damaged.
        """
        return read_segment(segment.path, columns)

    def latest(
        self,
        device: str,
        stream: str,
        n: int,
        *,
        kind: Kind = "estimate",
        columns: Sequence[str] | None = None,
    ) -> Table:
        """Return the ``n`` rows with the latest event times, oldest first."""

        def newest() -> list[Segment]:
            found = self._select(device=device, stream=stream, kind=kind, order="last_ns DESC")
            counts = np.cumsum([segment.rows for segment in found])
            # One segment more than needed: neighbours may overlap in time.
            return found[: int(np.searchsorted(counts, n)) + 2]

        tables = self._read(newest, columns)
        if not tables:
            return Table({})
        table = _ordered(concatenate(tables, _with_identity(tables, columns)))
        return _chosen(table.rows(max(0, len(table) - n), len(table)), columns)

    def extents(self) -> list[Extent]:
        """Return how far every stream reaches."""
        rows = self.database.rows(
            "SELECT device, stream, kind, first_ns, last_ns, rows FROM stream"
            " ORDER BY device, stream, kind"
        )
        return [Extent(*row) for row in rows]

    def extent(self, device: str, stream: str, kind: Kind = "estimate") -> Extent | None:
        """Return how far one stream reaches; None before its first row."""
        rows = self.database.rows(
            "SELECT device, stream, kind, first_ns, last_ns, rows FROM stream"
            " WHERE device=? AND stream=? AND kind=?",
            (device, stream, kind),
        )
        return Extent(*rows[0]) if rows else None

    def gaps(self) -> list[Gap]:
        """Return every gap that devices reported."""
        rows = self.database.rows(
            "SELECT device, incarnation, epoch, stream, seq0, n, reason FROM gap"
        )
        return [Gap(*row) for row in rows]

    def status(self) -> StoreStatus:
        """Count what is here."""
        rows, segments, size = self.database.rows(
            "SELECT coalesce(sum(rows), 0), count(*), coalesce(sum(bytes), 0) FROM segment"
        )[0]
        gap_rows = self.database.rows("SELECT coalesce(sum(n), 0) FROM gap")[0][0]
        return StoreStatus(rows, segments, size, gap_rows, self.counters(), self.extents())

    def export(self, path: Path, stream: str, *, kind: Kind = "estimate") -> int:
        """Write all rows of a stream as one Parquet file; return how many."""
        table = self.rows(stream, kind=kind)
        write_durably([(path, encode_segment(table))])
        return len(table)

    # --- counting -------------------------------------------------------------------

    def count(self, name: str, reason: str, n: int = 1) -> None:
        """Add to a durable counter."""
        with self.database.transaction() as connection:
            bump(connection, name, reason, n)

    def counters(self) -> dict[str, dict[str, int]]:
        """Return every durable counter."""
        counters: dict[str, dict[str, int]] = {}
        for name, reason, n in self.database.rows("SELECT name, reason, n FROM counter"):
            counters.setdefault(name, {})[reason] = n
        return counters

    # --- keeping house --------------------------------------------------------------

    def compact(self, *, by: Literal["day", "month"] = "day") -> int:
        """Merge small segments of one device, stream and period; readers go on meanwhile.

        Rows become distinct on their identity and ordered by event time.

        Returns:
            Number of files that went away.
        """
        groups: dict[tuple[str, ...], list[Segment]] = {}
        for segment in self.segments():
            day = segment.path.parent.name.removeprefix("day=")
            period = day if by == "day" else day[:7]
            group = (segment.device, segment.stream, segment.kind, period)
            if file_of(segment.path).stat().st_size < _COMPACT_BYTES:
                groups.setdefault(group, []).append(segment)
        return sum(self._merge(group) for group in groups.values() if len(group) > 1)

    def _merge(self, group: Sequence[Segment]) -> int:
        alike: dict[tuple[object, ...], list[tuple[Segment, Table]]] = {}
        for segment in group:
            table = read_segment(segment.path)
            alike.setdefault(_signature(segment.kind, table), []).append((segment, table))
        return sum(self._replace(pairs) for pairs in alike.values() if len(pairs) > 1)

    def _replace(self, pairs: Sequence[tuple[Segment, Table]]) -> int:
        old = [segment for segment, _ in pairs]
        table = _ordered(concatenate([table for _, table in pairs]))
        epochs = {int(epoch) for epoch in table.columns["epoch"]}
        key = (old[0].device, int(table.columns["incarnation"][-1]), max(epochs), old[0].stream)
        part = _Part(key, old[0].kind, table, ())
        path = self._path_of(part)
        content = encode_segment(table)
        write_durably([(path, content)])
        try:
            with self.database.transaction() as connection:
                gone = self._remove(connection, old)
                self._add(connection, part, path, len(content), state="compacted")
        except _ConflictError:
            # Another compaction was quicker with one of them.
            _unlink([path])
            return 0
        self._release(gone)
        return len(old) - 1

    def expire(self, keep_ns: int) -> int:
        """Delete segments that lie further back than ``keep_ns`` before their stream's newest row.

        Event time counts, so that replayed and late data are kept as long as live
        data. A compaction that changes the same segments at the same time wins.

        Returns:
            Number of segments.
        """
        oldest = {(e.device, e.stream, e.kind): e.last_ns - keep_ns for e in self.extents()}
        old = [
            segment
            for segment in self.segments()
            if segment.last_ns < oldest.get((segment.device, segment.stream, segment.kind), 0)
        ]
        try:
            with self.database.transaction() as connection:
                gone = self._remove(connection, old)
        except _ConflictError:
            return 0
        self._release(gone)
        return len(old)

    def delete_device(self, device: str) -> int:
        """Delete everything a device ever sent or got; return the number of rows.

        Its marks stay, so that a device that still runs goes on where it is.
        """
        check_name(device, "device")
        for _ in range(_CONFLICTS_MAX):
            old = self.segments(device)
            self._part_from_others(device, old)
            with contextlib.suppress(_ConflictError), self.database.transaction() as connection:
                gone = self._remove(connection, old)
                for table in _TABLES_BY_DEVICE:
                    connection.execute(f"DELETE FROM {table} WHERE device=?", (device,))  # noqa: S608
                break
        else:
            raise self._conflict()
        self._release(gone)
        forget_times(self.folder, device)
        return sum(segment.rows for segment in old)

    def _part_from_others(self, device: str, segments: Sequence[Segment]) -> None:
        """Give others' rows files of their own where they share one with ``segments``."""
        shared = {file_of(one.path) for one in segments if file_of(one.path) != one.path}
        for other in self.segments() if shared else []:
            if file_of(other.path) in shared and other.device != device:
                with contextlib.suppress(FileNotFoundError):
                    self._replace([(other, read_segment(other.path))])

    def _release(self, paths: Iterable[Path]) -> None:
        """Remove files of which no segment is left in the catalogue."""
        for file in {file_of(path) for path in paths}:
            name = file.relative_to(self.folder).as_posix().removesuffix(".parquet")
            left = self.database.rows(
                "SELECT 1 FROM segment WHERE path >= ? AND path < ? LIMIT 1",
                (f"{name}@", f"{name}A"),
            )
            if not left:
                file.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove files that no catalogue row names, unless somebody else may be writing them."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            return
        known = {file_of(segment.path) for segment in self.segments()}
        orphans = [
            path
            for path in self._segments.rglob("*")
            if path.suffix in (".parquet", ".tmp") and path not in known
        ]
        _unlink(orphans)
        if orphans:
            log.info("store.orphans_swept", extra={"files": len(orphans)})
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    # --- catalogue ------------------------------------------------------------------

    def _select(
        self,
        *,
        device: str | None,
        stream: str | None,
        kind: Kind | None,
        first_ns: int | None = None,
        last_ns: int | None = None,
        after: int | None = None,
        order: Literal["id", "last_ns DESC"] = "id",
    ) -> list[Segment]:
        tests = {
            "device=?": device,
            "stream=?": stream,
            "kind=?": kind,
            "last_ns>=?": first_ns,
            "first_ns<?": last_ns,
            "id>?": after,
        }
        wanted = {test: value for test, value in tests.items() if value is not None}
        where = " AND ".join(wanted) or "1"
        rows = self.database.rows(
            "SELECT id, path, device, stream, kind, rows, first_ns, last_ns, state"  # noqa: S608
            f" FROM segment WHERE {where} ORDER BY {order}",
            list(wanted.values()),
        )
        return [_segment(self.folder, row) for row in rows]

    def _read(
        self, select: Callable[[], list[Segment]], columns: Sequence[str] | None
    ) -> list[Table]:
        wanted = None if columns is None else [*IDENTITY, "end_ns", "time_ns", *columns]
        for _ in range(_READ_TRIES):
            with contextlib.suppress(FileNotFoundError):
                return [read_segment(segment.path, wanted) for segment in select()]
        raise StoreError(
            "segments vanish faster than they can be read",
            where=str(self.folder),
            expected="segments that the catalogue names",
            remedy="Restore the missing files from a backup.",
        )


_TABLES_BY_DEVICE = (
    "stream",
    "gap",
    "header",
    "label",
    "life",
    "job",
    "layer_seq",
    "refresh",
)


class _ConflictError(Exception):
    """Another process changed the same catalogue rows first."""


def check_frame(frame: RowFrame) -> RowFrame:
    """Return ``frame`` if the store can keep it.

    Raises:
        WireError: A column has a name that the store uses, or rows have no event time.
    """
    where = f"frame of {frame.device}/{frame.stream}"
    taken = sorted(set(IDENTITY) & set(frame.table.columns))
    if taken:
        raise WireError(f"columns {taken}", where=where, expected="other names; these are taken")
    if frame.kind != "gap" and _time_column(frame.table) is None:
        raise WireError(
            f"columns {sorted(frame.table.columns)}",
            where=where,
            expected="an int64 column end_ns or time_ns",
        )
    return frame


def bump(connection: sqlite3.Connection, name: str, reason: str, n: int = 1) -> None:
    """Add to a durable counter inside a transaction."""
    connection.execute(
        "INSERT INTO counter VALUES (?,?,?)"
        " ON CONFLICT (name, reason) DO UPDATE SET n = n + excluded.n",
        (name, reason, n),
    )


def _segment(folder: Path, row: Sequence[Any]) -> Segment:
    identity, path, *rest, state = row
    return Segment(identity, folder / path, *[*rest, state == "compacted"])


def _ignore(_step: str) -> None:
    pass


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Say what the system refused of a store's folder."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"no store can be made there: {error.strerror}",
            where=str(folder),
            expected="a folder that may be written to, or a path at which one may be made",
            remedy="Correct 'store' in cloud.yaml.",
        ) from error


# --- planning an ingest -------------------------------------------------------------


def _key(frame: RowFrame) -> _Key:
    return frame.device, frame.incarnation, frame.epoch, frame.stream


def _take(plan: _Plan, frame: RowFrame, received_ns: int) -> None:
    """Add what is new in one frame to the plan."""
    key, upto = _key(frame), plan.after[_key(frame)]
    last = frame.seq0 + frame.n
    if frame.seq0 > upto:
        plan.early.add(key)
        return
    if last <= upto:
        return
    new = part_of(frame, upto, last)
    lost = new.n - len(new.seqs)
    if lost:
        plan.gaps.append(Gap(*key, upto, lost, new.reason or "thinned"))
    if len(new.seqs):
        table = _identified(new, received_ns)
        plan.parts.append(_Part(key, frame.kind, table, _signature(frame.kind, table)))
    if frame.beyond:
        plan.headers.append(_Beyond(key, upto, last - upto, frame.beyond))
    plan.after[key] = last


def _identified(frame: RowFrame, received_ns: int) -> Table:
    n = len(frame.seqs)
    identity = {
        "device": np.full(n, frame.device),
        "incarnation": np.full(n, frame.incarnation, np.int64),
        "epoch": np.full(n, frame.epoch, np.int64),
        "seq": np.array(frame.seqs, np.int64),
        "_received_ns": np.full(n, received_ns, np.int64),
    }
    return Table({**identity, **frame.table.columns})


def _merged(parts: Sequence[_Part]) -> list[_Part]:
    """Join neighbours of one epoch whose columns agree."""
    merged: list[list[_Part]] = []
    for part in parts:
        if merged and _are_alike(merged[-1][-1], part):
            merged[-1].append(part)
        else:
            merged.append([part])
    return [
        msgspec.structs.replace(run[0], table=concatenate([part.table for part in run]))
        for run in merged
    ]


def _sharing(parts: Sequence[_Part]) -> list[list[_Part]]:
    """Group small parts that may share a file: a thousand devices must not cost as many fsyncs."""
    groups: dict[tuple[object, ...], list[_Part]] = {}
    for number, part in enumerate(parts):
        size = sum(column.nbytes for column in part.table.columns.values())
        day = _day(int(_times(part.table).min()))
        alone = () if size <= _SHARED_BYTES else (number,)
        groups.setdefault((part.key[3], day, part.signature, *alone), []).append(part)
    return list(groups.values())


def _are_alike(left: _Part, right: _Part) -> bool:
    return left.key == right.key and left.signature == right.signature


def _signature(kind: Kind, table: Table) -> tuple[object, ...]:
    described = (
        (name, "U" if column.dtype.kind == "U" else column.dtype.str, column.shape[1:])
        for name, column in table.columns.items()
        if not is_quality(name, column)
    )
    return kind, *described


def _acks(plan: _Plan) -> list[Ack]:
    return [
        Ack(device, incarnation, epoch, stream, upto, must_resume=key in plan.early)
        for key, upto in plan.after.items()
        for device, incarnation, epoch, stream in [key]
    ]


# --- inside a transaction -------------------------------------------------------------


def _moved(connection: sqlite3.Connection, key: _Key, before: int, upto: int) -> bool:
    """Compare-and-set one mark."""
    if not before:
        connection.execute("INSERT OR IGNORE INTO mark VALUES (?,?,?,?,0)", key)
    done = connection.execute(
        "UPDATE mark SET upto=? WHERE device=? AND incarnation=? AND epoch=? AND stream=?"
        " AND upto=?",
        (upto, *key, before),
    )
    return done.rowcount == 1


def _extend(connection: sqlite3.Connection, part: _Part) -> None:
    times = _times(part.table)
    connection.execute(
        "INSERT INTO stream VALUES (?,?,?,?,?,?) ON CONFLICT (device, stream, kind) DO UPDATE"
        " SET last_ns = max(last_ns, excluded.last_ns), rows = rows + excluded.rows",
        (
            part.key[0],
            part.key[3],
            part.kind,
            int(times.min()),
            int(times.max()),
            len(part.table),
        ),
    )


def _note_gaps(connection: sqlite3.Connection, gaps: Iterable[Gap], received_ns: int) -> None:
    for gap in gaps:
        connection.execute(
            "INSERT OR IGNORE INTO gap VALUES (?,?,?,?,?,?,?,?)",
            (*msgspec.structs.astuple(gap), received_ns),
        )


def _note_headers(connection: sqlite3.Connection, headers: Iterable[_Beyond]) -> None:
    for header in headers:
        connection.execute(
            "INSERT OR IGNORE INTO header VALUES (?,?,?,?,?,?,?)",
            (*header.key, header.seq0, header.n, msgspec.msgpack.encode(header.fields)),
        )


# --- tables -----------------------------------------------------------------------


def _time_column(table: Table) -> np.ndarray | None:
    for name in ("end_ns", "time_ns"):
        column = table.columns.get(name)
        if column is not None and column.dtype == np.int64 and column.ndim == 1:
            return column
    return None


def _times(table: Table) -> np.ndarray:
    column = _time_column(table)
    return np.zeros(len(table), np.int64) if column is None else column


def _day(time_ns: int) -> str:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (epoch + datetime.timedelta(microseconds=time_ns // 1000)).strftime("%Y-%m-%d")


def _ordered(table: Table) -> Table:
    """Sort by device and event time, and keep each identity once."""
    columns = table.columns
    identity = [columns[name] for name in ("seq", "epoch", "incarnation", "device")]
    order = np.lexsort(identity)
    is_first = np.ones(len(order), bool)
    is_first[1:] = np.any([column[order][1:] != column[order][:-1] for column in identity], axis=0)
    kept = order[is_first]
    keys = [column[kept] for column in (*identity[:3], _times(table), columns["device"])]
    kept = kept[np.lexsort(keys)]
    return Table({name: column[kept] for name, column in columns.items()})


def _between(table: Table, first_ns: int | None, last_ns: int | None) -> Table:
    times = _times(table)
    keep = np.ones(len(times), bool)
    if first_ns is not None:
        keep &= times >= first_ns
    if last_ns is not None:
        keep &= times < last_ns
    return Table({name: column[keep] for name, column in table.columns.items()})


def _with_identity(tables: Sequence[Table], columns: Sequence[str] | None) -> list[str] | None:
    if columns is None:
        return None
    times = [name for name in ("end_ns", "time_ns") if name in tables[0].columns]
    return list(dict.fromkeys([*IDENTITY, *times, *columns]))


def _chosen(table: Table, columns: Sequence[str] | None) -> Table:
    if columns is None:
        return table
    return Table({name: table.columns[name] for name in columns})


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
