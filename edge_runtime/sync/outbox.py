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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from edge_runtime.errors import StoreError
from edge_runtime.ports import Clock
from edge_runtime.sync.ballast import Ballast
from edge_runtime.sync.blocks import Batch, Block, LossReason, OutboxStats, Resume, pieces
from edge_runtime.sync.database import open_database, translated
from edge_runtime.sync.frames import encode_table
from edge_runtime.types import Table, check_name

if TYPE_CHECKING:
    from edge_runtime.config import OutboxConfig

__all__ = ["Batch", "Block", "LossReason", "Outbox", "OutboxFullError", "OutboxStats", "Resume"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_MIB = 1 << 20
_OVERHEAD_BYTES = 128
_PENDING_BLOCKS = 512
_EVICT_ABOVE = 0.95
_EVICT_TO = 0.90
_WARN_ABOVE = 0.80
# Above the quota on purpose: eviction comes first, this is the last fence.
_FENCE = 1.5
_SPARE_PAGES = 256
_FULL_ATTEMPTS = 5
_FIRST_ID = -(2**62)
# A made_ns before this came from a clock that was never set: its age says nothing.
_CREDIBLE_NS = 946_684_800 * 10**9

_MIGRATIONS = (
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
)
_BLOCK_COLUMNS = (
    "id, stream, kind, incarnation, epoch, seq0, n, made_ns, clock, reason, body, crc32, bytes"
)


class OutboxFullError(StoreError):
    """The disk is full and nothing can be evicted; nothing was written, try again later."""


class Outbox:
    """The device's ``outbox.db``; one writer thread, one network thread.

    Delivery: a row leaves only by `acknowledge`, or as a gap that says so.
    With ``durable: group`` a power cut may undo the last commits as a whole,
    position and records together; with ``full`` it undoes none.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        *,
        epoch: int,
        incarnation: int,
        config: OutboxConfig,
        clock: Clock,
    ) -> None:
        self._path = path
        self._connection = connection
        self._config = config
        self._clock = clock
        self._guard = threading.RLock()
        self._quota = config.quota_mb * _MIB
        self._ballast = Ballast(path.with_name(path.name + ".ballast"), config.ballast_mb * _MIB)
        self._opened_ns = (clock.now_ns(), clock.monotonic_ns())
        self._next: dict[str, int] = {}
        self._rows = 0
        self._bytes = 0
        self._is_nearly_full = False
        self.epoch = epoch
        self.incarnation = incarnation
        self.set_aside: Path | None = None
        self.losses_total = 0

    @classmethod
    def open(
        cls, path: Path, *, epoch: int, incarnation: int, config: OutboxConfig, clock: Clock
    ) -> Outbox:
        """Open or create the file.

        A corrupt file is set aside (``set_aside`` says where) and a fresh one
        made: its rows and resume positions are lost, numbers go on in the new epoch.

        Args:
            path: The file; its folder is created.
            epoch: Of this process start; sequence numbers begin at 0 in it.
            incarnation: Of ``state.db``.
            config: Quotas and durability.
            clock: Dates the blocks.

        Raises:
            StoreError: It cannot be opened, or a newer version wrote it.
        """
        synchronous: Literal["NORMAL", "FULL"] = "FULL" if config.durable == "full" else "NORMAL"
        opened = open_database(path, _MIGRATIONS, synchronous=synchronous, clock=clock)
        outbox = cls(
            path,
            opened.connection,
            epoch=epoch,
            incarnation=incarnation,
            config=config,
            clock=clock,
        )
        outbox.set_aside = opened.set_aside
        outbox._prepare()
        return outbox

    def commit(
        self, *, source: str, position: int, snapshot: bytes, base: str, batches: Sequence[Batch]
    ) -> None:
        """Store what came of a source up to ``position``, all of it or nothing.

        A full disk costs the ballast, then the oldest blocks.

        Args:
            source: Pipeline stream.
            position: Index of the first sample not processed yet.
            snapshot: Pipeline state at ``position``.
            base: Digest of the base bundle.
            batches: Rows, in order per stream.

        Raises:
            OutboxFullError: Nothing is left to evict; nothing was written.
            StoreError: The database failed; nothing was written.
            WireError: A table cannot be carried; nothing was written.
        """
        now = (self._clock.now_ns(), self._clock.monotonic_ns())
        with self._locked("commit"):
            rows, next_seq = self._number(batches, now)
            size = sum(row["bytes"] for row in rows)
            self._make_room(size)
            resume = (source, position, snapshot, base)
            self._despite_full_disk(size, lambda: self._write(rows, next_seq, resume))
            self._next.update(next_seq)
            self._count(rows)
            if self._ballast.refill():
                self._limit_growth(_FENCE * self._quota)

    def resume(self, source: str) -> Resume | None:
        """Return where ``source`` goes on; None when it never committed."""
        with self._locked("read"):
            row = self._connection.execute(
                "SELECT position, snapshot, base FROM resume WHERE source = ?", (source,)
            ).fetchone()
        return None if row is None else Resume(*row)

    def pending(self, after: int = _FIRST_ID, limit_bytes: int = _MIB) -> list[Block]:
        """Return the oldest blocks behind the one with id ``after``.

        A block whose checksum fails becomes a gap on the way.

        Args:
            after: Id of the last block already seen.
            limit_bytes: Stop after that many bytes of body; at least one block is returned.
        """
        with self._locked("read"):
            taken, damaged = self._read(after, limit_bytes)
            if damaged:
                self._despite_full_disk(0, lambda: self._lose(damaged, "corrupt"))
                taken, _ = self._read(after, limit_bytes)
        return [Block(*tuple(row)[:-2]) for row in taken]

    def acknowledge(self, incarnation: int, epoch: int, stream: str, upto: int) -> int:
        """Delete the blocks of a stream whose rows are all below ``upto``.

        Returns:
            How many rows left, gaps included.
        """
        key = (incarnation, epoch, stream, upto, upto)
        with self._locked("acknowledge"):
            return self._despite_full_disk(0, lambda: self._delete(key))

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
            row = self._row(batch, seq0=upto, now=self._opened_ns)
            # Before all others: the cloud takes nothing else of this stream until it has this.
            row |= {"id": first["id"] - 1, "incarnation": incarnation, "epoch": epoch}
            self._despite_full_disk(0, lambda: self._write([row], {}, None))
            self._count([row])
            return lost

    def stats(self) -> OutboxStats:
        """Return what waits, and what was lost."""
        with self._locked("read"):
            oldest = self._one("SELECT made_ns FROM block ORDER BY id LIMIT 1")
            lost = self._connection.execute(
                "SELECT reason, sum(n) FROM discarded GROUP BY reason"
            ).fetchall()
        return OutboxStats(
            rows=self._rows,
            bytes=self._bytes,
            oldest_ns=None if oldest is None else oldest["made_ns"],
            discarded={row[0]: row[1] for row in lost},
        )

    def close(self) -> None:
        """Close the file; safe to call twice."""
        with self._guard:
            self._connection.close()

    # --- writing --------------------------------------------------------------------

    def _prepare(self) -> None:
        with self._locked("prepare"):
            self._connection.row_factory = sqlite3.Row
            self._limit_growth(_FENCE * self._quota)
            self._next = dict(
                self._connection.execute(
                    "SELECT stream, seq FROM next_seq WHERE incarnation = ? AND epoch = ?",
                    (self.incarnation, self.epoch),
                ).fetchall()
            )
            self._rows, self._bytes = self._connection.execute(
                "SELECT coalesce(sum(CASE kind WHEN 'gap' THEN 0 ELSE n END), 0), "
                "coalesce(sum(bytes), 0) FROM block"
            ).fetchone()
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
            "kind": batch.kind,
            "reason": batch.reason,
            "clock": batch.clock,
            "made_ns": now[0],
            "monotonic_ns": now[1],
            "bytes": len(body) + _OVERHEAD_BYTES,
            "crc32": zlib.crc32(body),
            "body": body,
        }

    def _write(
        self,
        rows: Sequence[dict[str, Any]],
        next_seq: dict[str, int],
        resume: tuple[str, int, bytes, str] | None,
    ) -> None:
        with self._transaction():
            self._connection.executemany(
                "INSERT INTO block VALUES (:id, :incarnation, :epoch, :stream, :seq0, :n, :kind, "
                ":reason, :clock, :made_ns, :monotonic_ns, :bytes, :crc32, :body)",
                rows,
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO next_seq VALUES (?, ?, ?, ?)",
                [(self.incarnation, self.epoch, *item) for item in next_seq.items()],
            )
            if resume is not None:
                self._connection.execute(
                    "INSERT OR REPLACE INTO resume VALUES (?, ?, ?, ?)", resume
                )

    def _count(self, rows: Sequence[Any], sign: int = 1) -> None:
        self._bytes += sign * sum(row["bytes"] for row in rows)
        self._rows += sign * sum(row["n"] for row in rows if row["kind"] != "gap")
        share = self._bytes / self._quota
        if (share > _WARN_ABOVE) != self._is_nearly_full:
            self._is_nearly_full = not self._is_nearly_full
            event = "outbox.nearly_full" if self._is_nearly_full else "outbox.has_room"
            log.warning(event, extra={"bytes": self._bytes, "quota_mb": self._config.quota_mb})

    def _delete(self, key: tuple[int, int, str, int, int]) -> int:
        where = "WHERE incarnation = ? AND epoch = ? AND stream = ? AND seq0 < ? AND seq0 + n <= ?"
        with self._transaction():
            gone = self._connection.execute(
                f"SELECT n, bytes, kind FROM block {where}",  # noqa: S608 - a constant
                key,
            ).fetchall()
            if gone:
                self._connection.execute(f"DELETE FROM block {where}", key)  # noqa: S608
        self._count(gone, -1)
        return sum(row["n"] for row in gone)

    # --- losing ---------------------------------------------------------------------

    def _make_room(self, coming: int) -> None:
        aged = list(self._aged())
        if aged:
            self._despite_full_disk(0, lambda: self._lose(aged, "age"))
        excess = self._bytes + coming - _EVICT_TO * self._quota
        if self._bytes + coming > _EVICT_ABOVE * self._quota:
            self._despite_full_disk(0, lambda: self._lose(self._oldest(excess), "quota"))

    def _despite_full_disk(self, coming: int, write: Callable[[], T]) -> T:
        for attempt in range(_FULL_ATTEMPTS):
            try:
                return write()
            except sqlite3.OperationalError as error:
                if not _is_full(error):
                    raise
                # The write-ahead log may be all that is in the way.
                if attempt and not self._free_disk(coming):
                    break
                self._restart_log()
        raise OutboxFullError(
            "the disk is full and nothing is left to drop",
            where=str(self._path),
            expected="free space",
            remedy="Free some space; what was not stored is tried again.",
        )

    def _free_disk(self, coming: int) -> bool:
        """Give up the ballast, then the oldest blocks; False when neither helps."""
        had_ballast = self._ballast.release()
        victims = self._oldest(max(2 * coming, self._bytes // 10, 1))
        try:
            self._lose(victims, "disk_full")
        except sqlite3.OperationalError as error:
            if not _is_full(error):
                raise
            return had_ballast
        self._restart_log()
        self._limit_growth(None)
        return had_ballast or bool(victims)

    def _restart_log(self) -> None:
        """Let the write-ahead log begin anew in the space it already has."""
        try:
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        except sqlite3.OperationalError as error:
            if not _is_full(error):
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

    def _oldest(self, excess: float) -> list[sqlite3.Row]:
        """Choose blocks of ``excess`` bytes to drop: oldest first, decisions last."""
        victims: list[sqlite3.Row] = []
        freed = 0
        for kind in ("estimate", "decision"):
            with contextlib.closing(
                self._connection.execute(
                    "SELECT id, incarnation, epoch, stream, seq0, n, kind, bytes FROM block "
                    "WHERE kind = ? ORDER BY id",
                    (kind,),
                )
            ) as rows:
                while freed < excess and (row := rows.fetchone()) is not None:
                    victims.append(row)
                    freed += row["bytes"]
        return victims

    def _aged(self) -> Iterator[sqlite3.Row]:
        if self._config.max_age_s is None:
            return
        oldest = self._connection.execute(
            "SELECT * FROM block WHERE kind <> 'gap' ORDER BY id LIMIT ?", (_PENDING_BLOCKS,)
        ).fetchall()
        for row in oldest:
            if self._age_ns(row) <= self._config.max_age_s * 1e9:
                return
            yield row

    def _age_ns(self, row: sqlite3.Row) -> int:
        """Tell a block's age without believing in jumps of the wall clock."""
        opened_ns, opened_monotonic_ns = self._opened_ns
        now_ns = self._clock.monotonic_ns()
        if (row["incarnation"], row["epoch"]) == (self.incarnation, self.epoch):
            return int(now_ns - row["monotonic_ns"])
        age_at_open_ns = opened_ns - row["made_ns"] if row["made_ns"] > _CREDIBLE_NS else 0
        return int(max(age_at_open_ns, 0) + now_ns - opened_monotonic_ns)

    def _lose(self, victims: Sequence[sqlite3.Row], reason: LossReason) -> None:
        """Turn blocks into gaps, joined with a gap right before them, and count them."""
        if not victims:
            return
        with self._transaction():
            made = sum(self._turn_into_gap(row, reason) for row in victims)
            self._connection.executemany(
                "INSERT INTO discarded VALUES (?, ?, ?) "
                "ON CONFLICT (stream, reason) DO UPDATE SET n = n + excluded.n",
                [(row["stream"], reason, row["n"]) for row in victims],
            )
        self._count(victims, -1)
        self._bytes += made * _OVERHEAD_BYTES
        self.losses_total += 1
        lost = sum(row["n"] for row in victims)
        log.warning("outbox.rows_discarded", extra={"reason": reason, "rows": lost})

    def _turn_into_gap(self, row: sqlite3.Row, reason: str) -> bool:
        """Return whether a gap of its own was made; False when it joined another."""
        if self._join_gap(row, reason):
            return False
        self._connection.execute(
            "UPDATE block SET kind = 'gap', reason = ?, body = x'', crc32 = 0, bytes = ? "
            "WHERE id = ?",
            (reason, _OVERHEAD_BYTES, row["id"]),
        )
        return True

    def _join_gap(self, row: sqlite3.Row, reason: str) -> bool:
        before = self._one(
            "SELECT id, kind, reason, seq0 + n AS upto FROM block WHERE incarnation = ? "
            "AND epoch = ? AND stream = ? AND seq0 < ? ORDER BY seq0 DESC LIMIT 1",
            row["incarnation"],
            row["epoch"],
            row["stream"],
            row["seq0"],
        )
        if before is None or tuple(before)[1:] != ("gap", reason, row["seq0"]):
            return False
        self._connection.execute("DELETE FROM block WHERE id = ?", (row["id"],))
        self._connection.execute(
            "UPDATE block SET n = n + ? WHERE id = ?", (row["n"], before["id"])
        )
        return True

    # --- reading --------------------------------------------------------------------

    def _read(self, after: int, limit_bytes: int) -> tuple[list[sqlite3.Row], list[sqlite3.Row]]:
        """Return sound blocks, and damaged ones."""
        sound: list[sqlite3.Row] = []
        damaged: list[sqlite3.Row] = []
        size = 0
        with contextlib.closing(
            self._connection.execute(
                f"SELECT {_BLOCK_COLUMNS} FROM block WHERE id > ? "  # noqa: S608 - a constant
                f"ORDER BY id LIMIT {_PENDING_BLOCKS}",
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
    def _transaction(self) -> Iterator[None]:
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield


def _is_full(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
