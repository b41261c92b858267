"""Rows on the device's disk until the cloud has them durably.

One SQLite row is one block: consecutive rows of one stream. A commit writes
records, source position and pipeline snapshot in one transaction. What must be
dropped turns into a gap block, which is delivered like any other.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.ports import Clock
from edge_runtime.sync.ballast import Ballast
from edge_runtime.sync.blocks import Batch, Block, Key, LossReason, OutboxStats, Resume
from edge_runtime.sync.database import open_database, translated
from edge_runtime.sync.entries import NO_MARKS, Entries, Entry, become_gap, join_gaps
from edge_runtime.sync.frames import Kind
from edge_runtime.sync.holdings import Holdings
from edge_runtime.sync.log import Log
from edge_runtime.sync.losing import Losses, lost_rows
from edge_runtime.sync.room import OutboxFullError, Room
from edge_runtime.sync.runs import Runs
from edge_runtime.sync.tables import (
    BLOCK_FIELDS,
    FIRST_ID,
    OF_STREAMS,
    OUTBOX_MIGRATIONS,
    WAITING_ROWS,
    Which,
)
from edge_runtime.sync.transactions import Transactions
from edge_runtime.types import Table

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

_MIB = 1 << 20
_PENDING_BLOCKS = 512


def _ignore(_step: str) -> None:
    pass


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
        self._clock = clock
        self._guard = threading.RLock()
        self._held = Holdings(config, limits)
        self._log = Log(path, connection, most_growth_bytes=ballast.size_bytes // 2 or None)
        self._transactions = Transactions(connection, self._log, is_synced=is_synced)
        self._losses = Losses(connection)
        self._runs = Runs(connection, incarnation, epoch, clock)
        self._entries = Entries(
            connection,
            transactions=self._transactions,
            log=self._log,
            losses=self._losses,
            runs=self._runs,
            incarnation=incarnation,
            epoch=epoch,
            at_step=at_step,
        )
        self._room = Room(
            path,
            connection,
            transactions=self._transactions,
            log=self._log,
            held=self._held,
            losses=self._losses,
            runs=self._runs,
            ballast=ballast,
        )
        self.epoch = epoch
        self.incarnation = incarnation
        self.set_aside: Path | None = None
        self.was_cut_off = self._runs.was_cut_off

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
        marks: Mapping[str, bytes] = NO_MARKS,
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
        marks: Mapping[str, bytes] = NO_MARKS,
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
            rows, next_seq = self._entries.number(batches, now)
            self._room.refill()
            self._room.make_for(rows)
            entry = Entry(rows, next_seq, resumes, marks)
            try:
                self._store(entry)
            except OutboxFullError:
                if not must_fit:
                    raise
                self._store_what_fits(entry)
        self._at_step("commit")

    def begin(self) -> None:
        """Note that a device runs on this file from now on, until `end`.

        Raises:
            OutboxFullError: The disk is full.
            StoreError: The database failed.
        """

        def begin() -> None:
            with self._transactions.begin():
                self._runs.begin()

        with self._locked("begin"):
            self._room.despite_full_disk(0, begin)

    def end(self, state_written_bytes: int = 0) -> None:
        """Note that everything was committed that will be.

        Args:
            state_written_bytes: What ``state.db`` wrote in this run.
        """

        def end() -> None:
            with self._transactions.begin():
                self._runs.note(self._log.written_bytes, state_written_bytes, has_ended=True)

        with self._locked("end"):
            self._log.empty()
            self._room.despite_full_disk(0, end)

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
            self._room.despite_full_disk(0, lambda: self._entries.write(Entry(marks=marks)))

    def pending(
        self, after: int = FIRST_ID, limit_bytes: int = _MIB, *, which: Which = "all"
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
                self._room.despite_full_disk(0, lambda: self._room.lose(damaged, "corrupt"))
                taken, _ = self._read(after, limit_bytes, which)
        return [Block(*tuple(row)[:-2]) for row in taken]

    def newest_id(self) -> int:
        """Return the id of the newest block; below all ids when there is none."""
        with self._locked("read"):
            row = self._one("SELECT max(id) AS id FROM block")
        return FIRST_ID if row is None or row["id"] is None else int(row["id"])

    def acknowledge(self, marks: Mapping[Key, int]) -> dict[Key, int]:
        """Delete the blocks whose rows are all below the marks of their streams.

        Args:
            marks: First row that the cloud has not, by incarnation, epoch and stream.

        Returns:
            How many rows of each left, gaps included.
        """
        self._at_step("ack")
        with self._locked("acknowledge"):
            gone = self._room.despite_full_disk(0, lambda: self._entries.delete(marks))
            self._held.add_blocks([row for rows in gone.values() for row in rows], -1)
        self._at_step("delete")
        return {key: sum(row["n"] for row in rows) for key, rows in gone.items()}

    def discard(self, block: Block, reason: LossReason) -> None:
        """Turn one block into a gap."""
        with self._locked("discard"):
            row = self._one("SELECT * FROM block WHERE id = ? AND kind <> 'gap'", block.id)
            if row is not None:
                self._room.despite_full_disk(0, lambda: self._room.lose([row], reason))

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
            row = self._entries.row(batch, seq0=upto, now=now)
            # Before all others: the cloud takes nothing else of this stream until it has this.
            row |= {"id": first["id"] - 1, "incarnation": incarnation, "epoch": epoch}
            self._room.despite_full_disk(0, lambda: self._entries.write(Entry([row])))
            self._held.add_blocks([row])
            return lost

    @property
    def losses_total(self) -> int:
        """How often blocks turned into gaps."""
        return self._room.losses_total

    @property
    def blocks_total(self) -> int:
        """Blocks written; as long as it stays the same, nothing new is pending."""
        return self._entries.blocks_total

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
            self._room.despite_full_disk(0, lambda: self._room.lose(victims, "dropped_by_operator"))
            return lost_rows(victims)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        with self._guard:
            self._connection.close()

    # --- writing --------------------------------------------------------------------

    def _prepare(self) -> None:
        with self._locked("prepare"):
            self._entries.prepare()
            for row in self._connection.execute(
                f"SELECT stream, sum(bytes), sum({WAITING_ROWS}) FROM block GROUP BY stream"  # noqa: S608
            ):
                self._held.add(*row)
            self._room.prepare()

    def _store(self, entry: Entry) -> None:
        size = sum(row["bytes"] for row in entry.rows)
        self._room.despite_full_disk(size, lambda: self._entries.write(entry))
        self._held.add_blocks(entry.rows)

    def _store_what_fits(self, entry: Entry) -> None:
        """Let the older half of the blocks be gaps, then half of the others, at last all."""
        rows, lost = entry.rows, 0
        mine = [row for row in rows if row["kind"] != "gap" and self._held.may_drop(row["stream"])]
        while mine:
            half = (len(mine) + 1) // 2
            victims, mine = mine[:half], mine[half:]
            lost += sum(row["n"] for row in victims)
            for row in victims:
                become_gap(row, "disk_full")
            with contextlib.suppress(OutboxFullError):
                self._store(entry._replace(rows=join_gaps(rows)))
                self._room.note_losses("disk_full", lost)
                return
        raise self._room.full()

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
                f"{OF_STREAMS[which]} ORDER BY id LIMIT {_PENDING_BLOCKS}",
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
