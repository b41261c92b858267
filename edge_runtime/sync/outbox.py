"""Rows on the device's disk until the cloud has them durably.

One SQLite row is one block: consecutive rows of one stream. A commit writes
records, source position and pipeline snapshot in one transaction. What must be
dropped turns into a gap block, which is delivered like any other.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import msgspec

from edge_runtime.errors import StoreError
from edge_runtime.ports import Clock
from edge_runtime.sync.ballast import Ballast
from edge_runtime.sync.blocks import (
    OVERHEAD_BYTES,
    Batch,
    Block,
    Key,
    LossReason,
    OutboxStats,
    Resume,
    pieces,
)
from edge_runtime.sync.database import is_full, open_database, translated
from edge_runtime.sync.frames import Kind, encode_table
from edge_runtime.sync.holdings import Holdings
from edge_runtime.sync.log import Log
from edge_runtime.sync.losing import Losses, lost_rows
from edge_runtime.sync.runs import Runs
from edge_runtime.types import Table, check_name

if TYPE_CHECKING:
    from edge_runtime.config import Limits, OutboxConfig

__all__ = [
    "BLOCK_FIELDS",
    "OUTBOX_MIGRATIONS",
    "WAITING_ROWS",
    "Batch",
    "Block",
    "LossReason",
    "Outbox",
    "OutboxFullError",
    "OutboxStats",
    "Resume",
    "Which",
]

log = logging.getLogger(__name__)

T = TypeVar("T")

_MIB = 1 << 20
_PENDING_BLOCKS = 512
# Above the quota on purpose: eviction comes first, this is the last fence.
_FENCE = 1.5
_SPARE_PAGES = 256
_FULL_ATTEMPTS = 5
_FIRST_ID = -(2**62)
_NO_MARKS: Mapping[str, bytes] = {}

OUTBOX_MIGRATIONS = (
    """
    CREATE TABLE block (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        incarnation INTEGER NOT NULL, epoch INTEGER NOT NULL, stream TEXT NOT NULL,
        seq0 INTEGER NOT NULL, n INTEGER NOT NULL,
        kind TEXT NOT NULL, reason TEXT NOT NULL, clock TEXT NOT NULL,
        made_ns INTEGER NOT NULL, monotonic_ns INTEGER NOT NULL,
        bytes INTEGER NOT NULL, crc32 INTEGER NOT NULL, body BLOB NOT NULL,
        UNIQUE (incarnation, epoch, stream, seq0));
    CREATE TABLE next_seq (
        incarnation INTEGER, epoch INTEGER, stream TEXT, seq INTEGER NOT NULL,
        PRIMARY KEY (incarnation, epoch, stream)) WITHOUT ROWID;
    CREATE TABLE resume (
        source TEXT PRIMARY KEY, position INTEGER NOT NULL, snapshot BLOB, base TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE discarded (
        stream TEXT, reason TEXT, n INTEGER NOT NULL, PRIMARY KEY (stream, reason)) WITHOUT ROWID
    """,
    "CREATE TABLE sink_mark (sink TEXT PRIMARY KEY, mark BLOB NOT NULL) WITHOUT ROWID",
    """
    ALTER TABLE block ADD COLUMN every INTEGER NOT NULL DEFAULT 1;
    CREATE TABLE run (
        number INTEGER PRIMARY KEY, incarnation INTEGER NOT NULL, epoch INTEGER NOT NULL,
        opened_monotonic_ns INTEGER NOT NULL, ran_before_ns INTEGER NOT NULL,
        ran_ns INTEGER NOT NULL DEFAULT 0, written_bytes INTEGER NOT NULL DEFAULT 0,
        state_written_bytes INTEGER NOT NULL DEFAULT 0, has_ended INTEGER NOT NULL DEFAULT 0)
    """,
)
Which = Literal["all", "decisions", "others"]
"""Blocks of which streams; decisions have streams of their own, named after them."""

_OF_STREAMS: Mapping[Which, str] = {
    "all": "",
    "decisions": "AND stream LIKE '%-decisions'",
    "others": "AND stream NOT LIKE '%-decisions'",
}
# As `kept_rows`, of blocks that are no gaps.
WAITING_ROWS = (
    "CASE kind WHEN 'gap' THEN 0 "
    "ELSE (seq0 + n + every - 1) / every - (seq0 + every - 1) / every END"
)
BLOCK_FIELDS = (
    "id, stream, kind, incarnation, epoch, seq0, n, every, made_ns, clock, reason, body, crc32, "
    "bytes"
)


def _ignore(_step: str) -> None:
    pass


class _Entry(NamedTuple):
    """What one transaction writes: blocks, the numbers after them, positions and sink marks."""

    rows: Sequence[dict[str, Any]] = ()
    next_seq: Mapping[str, int] = {}
    resumes: Mapping[str, Resume] = {}
    marks: Mapping[str, bytes] = _NO_MARKS


class OutboxFullError(StoreError):
    """The disk is full and nothing can be evicted; nothing was written, try again later."""


class Outbox:
    """The device's ``outbox.db``; one writer thread, one network thread.

    Delivery: a row leaves only by `acknowledge`, or as a gap that says so. A commit
    with rows or marks is safe from a power cut when it returns; one that only moves a
    position, and an acknowledgement, may be undone by it as a whole.

    Attributes:
        epoch: Of this process start.
        incarnation: Of ``state.db``.
        set_aside: Where a corrupt file went; None if there was none.
        was_cut_off: Whether the last run before did not come to its `end`.
        losses_total: How often blocks turned into gaps.
        blocks_total: Blocks written; as long as it stays the same, nothing new is pending.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        *,
        epoch: int,
        incarnation: int,
        config: OutboxConfig,
        limits: Mapping[str, Limits],
        ballast: Ballast,
        clock: Clock,
        is_synced: bool,
        at_step: Callable[[str], None] = _ignore,
    ) -> None:
        self._path = path
        self._at_step = at_step
        self._connection = connection
        self._held = Holdings(config, limits)
        self._clock = clock
        self._guard = threading.RLock()
        self._ballast = ballast
        self._log = Log(path, connection)
        self._losses = Losses(connection)
        self._runs = Runs(connection, incarnation, epoch, clock)
        self._next: dict[str, int] = {}
        self._is_synced = is_synced
        self.epoch = epoch
        self.incarnation = incarnation
        self.set_aside: Path | None = None
        self.was_cut_off = self._runs.was_cut_off
        self.losses_total = 0
        self.blocks_total = 0

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        epoch: int,
        incarnation: int,
        config: OutboxConfig,
        clock: Clock,
        limits: Mapping[str, Limits] | None = None,
        is_synced: bool = True,
        at_step: Callable[[str], None] = _ignore,
    ) -> Outbox:
        """Open or create the file.

        A corrupt file is set aside (``set_aside`` says where) and a fresh one
        made: its rows and resume positions are lost, numbers go on in the new epoch.

        Args:
            path: The file; its folder is created.
            epoch: Of this process start; sequence numbers begin at 0 in it.
            incarnation: Of ``state.db``.
            config: Quotas and policy of the device.
            clock: Dates the blocks.
            limits: What holds for single outbox streams, by name.
            is_synced: False in a simulation, where no power cut reaches the real disk.
            at_step: Called at each step of a row (``insert`` before its commit,
                ``commit``, ``ack``, ``delete`` after its deletion); fault tests end the
                process there.

        Raises:
            StoreError: It cannot be opened, or a newer version wrote it.
        """
        ballast = Ballast(path.with_name(path.name + ".ballast"), config.ballast_mb * _MIB)
        opened = open_database(
            path,
            OUTBOX_MIGRATIONS,
            synchronous="FULL" if is_synced else "NORMAL",
            clock=clock,
            ballast=ballast,
        )
        opened.connection.row_factory = sqlite3.Row
        with translated(path, "open"):
            outbox = cls(
                path,
                opened.connection,
                epoch=epoch,
                incarnation=incarnation,
                config=config,
                limits=limits or {},
                ballast=ballast,
                clock=clock,
                is_synced=is_synced,
                at_step=at_step,
            )
        outbox.set_aside = opened.set_aside
        outbox._prepare()
        return outbox

    def commit(
        self,
        *,
        source: str,
        position: int,
        snapshot: bytes,
        base: str,
        batches: Sequence[Batch],
        marks: Mapping[str, bytes] = _NO_MARKS,
    ) -> None:
        """Store what came of one source up to ``position``; see `commit_all`.

        Args:
            source: Pipeline stream.
            position: Index of the first sample not processed yet.
            snapshot: Pipeline state at ``position``.
            base: Digest of the base bundle.
            batches: Rows, in order per stream.
            marks: How far each sink has come, by name.
        """
        self.commit_all({source: Resume(position, snapshot, base)}, batches, marks)

    def commit_all(
        self,
        resumes: Mapping[str, Resume],
        batches: Sequence[Batch],
        marks: Mapping[str, bytes] = _NO_MARKS,
        *,
        must_fit: bool = False,
    ) -> None:
        """Store what came of sources up to their positions, all of it or nothing.

        A full disk costs the ballast, then the oldest blocks of what may be dropped.

        Args:
            resumes: Where each source goes on.
            batches: Rows, in order per stream.
            marks: How far each sink has come, by name.
            must_fit: Where nothing is left to drop, let the oldest of these rows become
                gaps too, unless their policy is ``block``.

        Raises:
            OutboxFullError: Nothing is left to drop; nothing was written.
            StoreError: The database failed; nothing was written.
            WireError: A table cannot be carried; nothing was written.
        """
        now = (self._clock.now_ns(), self._clock.monotonic_ns())
        with self._locked("commit"):
            rows, next_seq = self._number(batches, now)
            if self._ballast.refill():
                # There is room again, or there was never too little.
                self._limit_growth(_FENCE * self._held.quota_bytes)
            self._make_room(rows)
            entry = _Entry(rows, next_seq, resumes, marks)
            try:
                self._store(entry)
            except OutboxFullError:
                if not must_fit:
                    raise
                self._store_what_fits(entry)
            self._next.update(next_seq)
            self._held.add_blocks(rows)
        self._at_step("commit")

    def begin(self) -> None:
        """Note that a device runs on this file from now on, until `end`.

        Raises:
            OutboxFullError: The disk is full.
            StoreError: The database failed.
        """

        def begin() -> None:
            with self._transaction():
                self._runs.begin()

        with self._locked("begin"):
            self._despite_full_disk(0, begin)

    def end(self, state_written_bytes: int = 0) -> None:
        """Note that everything was committed that will be.

        Args:
            state_written_bytes: What ``state.db`` wrote in this run.
        """

        def end() -> None:
            with self._transaction():
                self._runs.note(self._log.written_bytes, state_written_bytes, has_ended=True)

        with self._locked("end"):
            self._log.empty()
            self._despite_full_disk(0, end)

    def resume(self, source: str) -> Resume | None:
        """Return where ``source`` goes on; None when it never committed."""
        with self._locked("read"):
            row = self._connection.execute(
                "SELECT position, snapshot, base FROM resume WHERE source = ?", (source,)
            ).fetchone()
        return None if row is None else Resume(*row)

    def sink_marks(self) -> dict[str, bytes]:
        """Return how far each sink had come at the last commit, by name."""
        with self._locked("read"):
            return dict(map(tuple, self._connection.execute("SELECT sink, mark FROM sink_mark")))

    def keep_marks(self, marks: Mapping[str, bytes]) -> None:
        """Store how far sinks have come without a commit, before anything is written to them.

        Raises:
            OutboxFullError: The disk is full.
            StoreError: The database failed.
        """
        with self._locked("keep marks"):
            self._despite_full_disk(0, lambda: self._write(_Entry(marks=marks)))

    def pending(
        self, after: int = _FIRST_ID, limit_bytes: int = _MIB, *, which: Which = "all"
    ) -> list[Block]:
        """Return the oldest blocks behind the one with id ``after``.

        A block whose checksum fails becomes a gap on the way.

        Args:
            after: Id of the last block already seen.
            limit_bytes: Stop after that many bytes of body; at least one block is returned.
            which: Of all streams, of those with decisions, or of all the others.
        """
        with self._locked("read"):
            taken, damaged = self._read(after, limit_bytes, which)
            if damaged:
                self._despite_full_disk(0, lambda: self._lose(damaged, "corrupt"))
                taken, _ = self._read(after, limit_bytes, which)
        return [Block(*tuple(row)[:-2]) for row in taken]

    def newest_id(self) -> int:
        """Return the id of the newest block; below all ids when there is none."""
        with self._locked("read"):
            row = self._one("SELECT max(id) AS id FROM block")
        return _FIRST_ID if row is None or row["id"] is None else int(row["id"])

    def acknowledge(self, marks: Mapping[Key, int]) -> dict[Key, int]:
        """Delete the blocks whose rows are all below the marks of their streams.

        Args:
            marks: First row that the cloud has not, by incarnation, epoch and stream.

        Returns:
            How many rows of each left, gaps included.
        """
        self._at_step("ack")
        with self._locked("acknowledge"):
            gone = self._despite_full_disk(0, lambda: self._delete(marks))
        self._at_step("delete")
        return gone

    def discard(self, block: Block, reason: LossReason) -> None:
        """Turn one block into a gap."""
        with self._locked("discard"):
            row = self._one("SELECT * FROM block WHERE id = ? AND kind <> 'gap'", block.id)
            if row is not None:
                self._despite_full_disk(0, lambda: self._lose([row], reason))

    def fill(self, incarnation: int, epoch: int, stream: str, upto: int) -> int:
        """Cover rows that the cloud asks for again after they were acknowledged by a gap.

        Args:
            incarnation: Of the rows.
            epoch: Of the rows.
            stream: Of the rows.
            upto: First row the cloud has not.

        Returns:
            Number of rows covered; 0 when the outbox still has row ``upto`` or nothing behind it.
        """
        with self._locked("fill"):
            first = self._one(
                "SELECT min(seq0) AS seq0, (SELECT min(id) FROM block) AS id FROM block "
                "WHERE incarnation = ? AND epoch = ? AND stream = ?",
                incarnation,
                epoch,
                stream,
            )
            if first is None or first["seq0"] is None or first["seq0"] <= upto:
                return 0
            lost = int(first["seq0"] - upto)
            batch = Batch(stream, "gap", Table({}), lost=lost, reason="not_kept_by_cloud")
            now = (self._clock.now_ns(), self._clock.monotonic_ns())
            row = self._row(batch, seq0=upto, now=now)
            # Before all others: the cloud takes nothing else of this stream until it has this.
            row |= {"id": first["id"] - 1, "incarnation": incarnation, "epoch": epoch}
            self._despite_full_disk(0, lambda: self._write(_Entry([row])))
            self._held.add_blocks([row])
            return lost

    @property
    def rows(self) -> int:
        """Rows not acknowledged yet, without gaps; asks no database."""
        return self._held.rows

    def stats(self) -> OutboxStats:
        """Return what waits, and what was lost."""
        with self._locked("read"):
            oldest = self._one("SELECT made_ns FROM block ORDER BY id LIMIT 1")
            lost = self._connection.execute(
                "SELECT reason, sum(n) FROM discarded GROUP BY reason"
            ).fetchall()
            return OutboxStats(
                rows=self._held.rows,
                bytes=self._held.bytes,
                oldest_ns=None if oldest is None else oldest["made_ns"],
                discarded={row[0]: row[1] for row in lost},
                written_bytes=self._log.written_bytes,
            )

    def drop(self, chosen: Callable[[str, Kind, float], bool]) -> int:
        """Turn blocks that somebody wants gone into gaps.

        Args:
            chosen: Told outbox stream, kind and age in seconds of running; True drops.

        Returns:
            Number of rows dropped.
        """
        with self._locked("drop"):
            found = self._losses.oldest(self._held.streams, self._held.bytes + 1)
            victims = [
                row
                for row in found
                if chosen(row["stream"], row["kind"], self._runs.age_ns(row) / 1e9)
            ]
            self._despite_full_disk(0, lambda: self._lose(victims, "dropped_by_operator"))
            return lost_rows(victims)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        with self._guard:
            self._connection.close()

    # --- writing --------------------------------------------------------------------

    def _prepare(self) -> None:
        with self._locked("prepare"):
            self._limit_growth(_FENCE * self._held.quota_bytes)
            self._next = dict(
                self._connection.execute(
                    "SELECT stream, seq FROM next_seq WHERE incarnation = ? AND epoch = ?",
                    (self.incarnation, self.epoch),
                ).fetchall()
            )
            for row in self._connection.execute(
                f"SELECT stream, sum(bytes), sum({WAITING_ROWS}) FROM block GROUP BY stream"  # noqa: S608
            ):
                self._held.add(*row)
            self._ballast.refill()

    def _number(
        self, batches: Sequence[Batch], now: tuple[int, int]
    ) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Cut batches into blocks and give them their sequence numbers."""
        rows = []
        next_seq: dict[str, int] = {}
        for piece in (piece for batch in batches for piece in pieces(batch)):
            seq0 = next_seq.get(piece.stream, self._next.get(piece.stream, 0))
            rows.append(self._row(piece, seq0=seq0, now=now))
            next_seq[piece.stream] = seq0 + rows[-1]["n"]
        return rows, next_seq

    def _row(self, batch: Batch, *, seq0: int, now: tuple[int, int]) -> dict[str, Any]:
        body = b"" if batch.kind == "gap" else encode_table(batch.table)
        return {
            "id": None,
            "incarnation": self.incarnation,
            "epoch": self.epoch,
            "stream": check_name(batch.stream, "stream"),
            "seq0": seq0,
            "n": batch.lost if batch.kind == "gap" else len(batch.table),
            "every": 1,
            "kind": batch.kind,
            "reason": batch.reason,
            "clock": batch.clock,
            "made_ns": now[0],
            "monotonic_ns": now[1],
            "bytes": len(body) + OVERHEAD_BYTES,
            "crc32": zlib.crc32(body),
            "body": body,
        }

    def _store(self, entry: _Entry) -> None:
        size = sum(row["bytes"] for row in entry.rows)
        self._despite_full_disk(size, lambda: self._write(entry))

    def _store_what_fits(self, entry: _Entry) -> None:
        """Let the older half of the rows be gaps, then all of them."""
        rows = entry.rows
        mine = [row for row in rows if row["kind"] != "gap" and self._held.may_drop(row["stream"])]
        for victims in filter(None, (mine[: len(mine) // 2], mine)):
            for row in victims:
                row |= {"kind": "gap", "reason": "disk_full", "body": b"", "crc32": 0}
                row["bytes"] = OVERHEAD_BYTES
            with contextlib.suppress(OutboxFullError):
                self._store(entry)
                self._note_losses("disk_full", sum(row["n"] for row in victims))
                return
        raise self._full()

    def _write(self, entry: _Entry) -> None:
        rows, next_seq, resumes, marks = entry
        body_bytes = sum(len(row["body"]) for row in rows)
        with self._transaction(is_durable=bool(rows or marks), body_bytes=body_bytes):
            if rows:
                self._insert(rows, next_seq)
            for mark in marks.items():
                self._connection.execute("INSERT OR REPLACE INTO sink_mark VALUES (?, ?)", mark)
            for source, resume in resumes.items():
                self._connection.execute(
                    "INSERT OR REPLACE INTO resume VALUES (?, ?, ?, ?)",
                    (source, *msgspec.structs.astuple(resume)),
                )
            if self._runs.is_due:
                self._runs.note(self._log.written_bytes, has_ended=False)
            if resumes:
                self._at_step("insert")
        self.blocks_total += len(rows)

    def _insert(self, rows: Sequence[dict[str, Any]], next_seq: Mapping[str, int]) -> None:
        self._connection.executemany(
            "INSERT INTO block VALUES (:id, :incarnation, :epoch, :stream, :seq0, :n, :kind, "
            ":reason, :clock, :made_ns, :monotonic_ns, :bytes, :crc32, :body, :every)",
            rows,
        )
        for row in rows:
            # What the cloud lost was no loss of ours.
            if row["kind"] == "gap" and row["reason"] != "not_kept_by_cloud":
                self._losses.count(row["stream"], row["reason"], row["n"])
        self._connection.executemany(
            "INSERT OR REPLACE INTO next_seq VALUES (?, ?, ?, ?)",
            [(self.incarnation, self.epoch, *item) for item in next_seq.items()],
        )

    def _delete(self, marks: Mapping[Key, int]) -> dict[Key, int]:
        where = "WHERE incarnation = ? AND epoch = ? AND stream = ? AND seq0 < ? AND seq0 + n <= ?"
        gone: dict[Key, list[sqlite3.Row]] = {}
        with self._transaction(is_durable=False):
            for key, upto in marks.items():
                values = (*key, upto, upto)
                gone[key] = self._connection.execute(
                    f"SELECT stream, seq0, n, every, bytes, kind FROM block {where}",  # noqa: S608
                    values,
                ).fetchall()
                if gone[key]:
                    self._connection.execute(f"DELETE FROM block {where}", values)  # noqa: S608
        self._held.add_blocks([row for rows in gone.values() for row in rows], -1)
        return {key: sum(row["n"] for row in rows) for key, rows in gone.items()}

    # --- losing ---------------------------------------------------------------------

    def _make_room(self, coming: Sequence[dict[str, Any]]) -> None:
        aged = list(self._aged())
        if aged:
            self._despite_full_disk(0, lambda: self._lose(aged, "age"))
        for excess in self._held.excesses(coming):
            left = self._evict(excess.streams, excess.bytes)
            if left > excess.spare_bytes and self._held.holds_back(excess.streams):
                raise self._full()

    def _evict(self, streams: Sequence[str], excess: float) -> float:
        """Thin, then drop, what ranks lowest first; return the bytes that nothing was found for."""
        for names in self._held.ranks(streams):
            excess -= self._thin(names, excess)
            if excess <= 0:
                break
            excess -= self._drop_oldest(names, excess)
        return excess

    def _drop_oldest(self, streams: Sequence[str], excess: float) -> int:
        before = self._held.bytes
        victims = self._losses.oldest(streams, excess)
        self._despite_full_disk(0, lambda: self._lose(victims, "quota"))
        return before - self._held.bytes

    def _thin(self, streams: Sequence[str], excess: float) -> int:
        """Keep every n-th of old estimates, where that is the policy; return the bytes freed."""
        freed = 0
        for name in streams:
            limit = self._held.limit(name)
            if limit.policy != "thin":
                continue
            # Less may be freed than was reckoned with.
            while freed < excess:
                victims = self._losses.oldest([name], excess - freed, every=limit.keep_every)
                if not victims:
                    break
                do = partial(self._thin_out, victims, limit.keep_every)
                freed += self._despite_full_disk(0, do)
        return freed

    def _thin_out(self, victims: Sequence[sqlite3.Row], every: int) -> int:
        with self._transaction():
            pairs = [self._losses.thin(row, every) for row in victims]
        for row, (freed, kept) in zip(victims, pairs, strict=True):
            self._held.add(row["stream"], -freed, kept - row["n"])
        self._note_losses("thinned", lost_rows(victims) - sum(kept for _, kept in pairs))
        return sum(freed for freed, _ in pairs)

    def _despite_full_disk(self, coming: int, write: Callable[[], T]) -> T:
        for attempt in range(_FULL_ATTEMPTS):
            try:
                return write()
            except sqlite3.OperationalError as error:
                if not is_full(error):
                    raise
                # The write-ahead log may be all that is in the way.
                if attempt and not self._free_disk(coming):
                    break
                self._restart_log()
        raise self._full()

    def _full(self) -> OutboxFullError:
        return OutboxFullError(
            "the disk or the quota is full and nothing is left to drop",
            where=str(self._path),
            expected="free space",
            remedy="Free some space, or raise outbox.quota_mb; what was not stored is tried again.",
        )

    def _free_disk(self, coming: int) -> bool:
        """Give up the ballast, then the oldest blocks; False when neither helps."""
        had_ballast = self._ballast.release()
        if not self._lose_what_fits(self._disposable(max(2 * coming, self._held.bytes // 10, 1))):
            return had_ballast
        self._restart_log()
        self._limit_growth(None)
        return True

    def _disposable(self, excess: float) -> list[sqlite3.Row]:
        """Choose what may be dropped, lowest rank first; on a full disk there is no thinning."""
        chosen: list[sqlite3.Row] = []
        for names in self._held.ranks(self._held.streams):
            chosen += self._losses.oldest(names, excess - sum(row["bytes"] for row in chosen))
        return chosen

    def _lose_what_fits(self, victims: Sequence[sqlite3.Row]) -> bool:
        """Drop as many of these as the log has room for; the fewer, the less it takes."""
        while victims:
            try:
                self._lose(victims, "disk_full")
            except sqlite3.OperationalError as error:
                if not is_full(error):
                    raise
                self._restart_log()
                victims = victims[: len(victims) // 2]
            else:
                return True
        return False

    def _restart_log(self) -> None:
        """Let the write-ahead log begin anew in the space it already has."""
        try:
            self._log.empty("RESTART")
        except sqlite3.OperationalError as error:
            if not is_full(error):
                raise

    def _limit_growth(self, size_bytes: float | None) -> None:
        """Let the file grow to a size, or not at all.

        On a full disk the last free bytes belong to the log: as long as the
        file itself need not grow, the log can always be emptied into it.
        """
        pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
        if size_bytes is not None:
            page_bytes = self._connection.execute("PRAGMA page_size").fetchone()[0]
            pages = int(size_bytes) // page_bytes + _SPARE_PAGES
        self._connection.execute(f"PRAGMA max_page_count={pages}")

    def _aged(self) -> Iterator[sqlite3.Row]:
        for name in self._held.streams:
            limit_s = self._held.limit(name).max_age_s
            if limit_s is None:
                continue
            with contextlib.closing(self._losses.first_of(name)) as rows:
                for row in rows:
                    if self._runs.age_ns(row) <= limit_s * 1e9:
                        break
                    yield row

    def _lose(self, victims: Sequence[sqlite3.Row], reason: LossReason) -> None:
        """Turn blocks into gaps, joined with a gap right before them, and count them."""
        if not victims:
            return
        with self._transaction():
            made = Counter(row["stream"] for row in victims if self._losses.lose(row, reason))
        self._held.add_blocks(victims, -1)
        for stream, gaps in made.items():
            self._held.add(stream, gaps * OVERHEAD_BYTES, 0)
        self._note_losses(reason, lost_rows(victims))

    def _note_losses(self, reason: LossReason, rows: int) -> None:
        self.losses_total += 1
        log.warning("outbox.rows_discarded", extra={"reason": reason, "rows": rows})

    # --- reading --------------------------------------------------------------------

    def _read(
        self, after: int, limit_bytes: int, which: Which
    ) -> tuple[list[sqlite3.Row], list[sqlite3.Row]]:
        """Return sound blocks, and damaged ones."""
        sound: list[sqlite3.Row] = []
        damaged: list[sqlite3.Row] = []
        size = 0
        with contextlib.closing(
            self._connection.execute(
                f"SELECT {BLOCK_FIELDS} FROM block WHERE id > ? "  # noqa: S608 - constants
                f"{_OF_STREAMS[which]} ORDER BY id LIMIT {_PENDING_BLOCKS}",
                (after,),
            )
        ) as rows:
            while size < limit_bytes and (row := rows.fetchone()) is not None:
                is_sound = zlib.crc32(row["body"]) == row["crc32"]
                (sound if is_sound else damaged).append(row)
                size += len(row["body"])
        return sound, damaged

    def _one(self, statement: str, *values: object) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._connection.execute(statement, values).fetchone()
        return row

    @contextlib.contextmanager
    def _locked(self, doing: str) -> Iterator[None]:
        with self._guard, translated(self._path, doing):
            yield

    @contextlib.contextmanager
    def _transaction(self, *, is_durable: bool = True, body_bytes: int = 0) -> Iterator[None]:
        is_synced = is_durable and self._is_synced
        self._connection.execute(f"PRAGMA synchronous={'FULL' if is_synced else 'NORMAL'}")
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
        self._log.note(body_bytes)
