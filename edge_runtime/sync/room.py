"""Room in the outbox: quotas, ages and full disks, and what is given up for them."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from edge_runtime.errors import StoreError
from edge_runtime.sync.ballast import Ballast
from edge_runtime.sync.blocks import OVERHEAD_BYTES, LossReason
from edge_runtime.sync.database import is_full
from edge_runtime.sync.holdings import Holdings
from edge_runtime.sync.log import Log
from edge_runtime.sync.losing import Losses, lost_rows
from edge_runtime.sync.runs import Runs
from edge_runtime.sync.transactions import Transactions

__all__ = ["OutboxFullError", "Room"]

log = logging.getLogger(__name__)

T = TypeVar("T")

# Above the quota on purpose: eviction comes first, this is the last fence.
_FENCE = 1.5
_SPARE_PAGES = 256
_FULL_ATTEMPTS = 5


class OutboxFullError(StoreError):
    """The disk is full and nothing can be evicted; nothing was written, try again later."""


class Room:
    """Makes room for what comes; used by one thread at a time.

    Args:
        path: The file, for messages.
        connection: To it, with rows by name.
        transactions: On that connection.
        log: Its write-ahead log.
        held: What is stored; kept up to date for what is lost here.
        losses: Chooses blocks and turns them into gaps.
        runs: Tells how old a block is.
        ballast: Given up when the disk is full.

    Attributes:
        losses_total: How often blocks turned into gaps.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        *,
        transactions: Transactions,
        log: Log,
        held: Holdings,
        losses: Losses,
        runs: Runs,
        ballast: Ballast,
    ) -> None:
        self._path = path
        self._connection = connection
        self._transactions = transactions
        self._log = log
        self._held = held
        self._losses = losses
        self._runs = runs
        self._ballast = ballast
        self.losses_total = 0

    def prepare(self) -> None:
        """Let the file grow up to the fence, and put the ballast in its place."""
        self.limit_growth(_FENCE * self._held.quota_bytes)
        self._ballast.refill()
        self._take_pages()

    def refill(self) -> None:
        """Put the ballast back in its place, if there is room for it again."""
        if self._ballast.refill():
            # There is room again, or there was never too little.
            self.limit_growth(_FENCE * self._held.quota_bytes)
            self._take_pages()

    def _take_pages(self) -> None:
        """Make the file half as large as the ballast while there is room: it holds rows when not.

        A file that is small when the disk is full stays small, however much the log has.
        """
        wanted = min(self._ballast.size_bytes // 2, self._held.quota_bytes)
        missing = wanted - self._pragma("page_count") * self._pragma("page_size")
        with _unless_full():
            # Of a process that was killed here.
            self._run("DROP TABLE IF EXISTS filler")
            if missing > 0 and self._ballast.has_plenty:
                # Two transactions: SQLite writes nothing that is gone again at the end of one.
                self._run(f"CREATE TABLE filler AS SELECT zeroblob({missing})")
                self._run("DROP TABLE filler")
                self._restart_log()
                # Else its pages stay in memory for good.
                self._connection.execute("PRAGMA shrink_memory")

    def _run(self, statement: str) -> None:
        with self._transactions.begin(is_durable=False):
            self._connection.execute(statement)

    def make_for(self, coming: Sequence[dict[str, Any]]) -> None:
        """Drop what is too old, and what is too much with the blocks that come.

        Raises:
            OutboxFullError: What holds them back may not be dropped.
        """
        if self._log.lacks_room and self._ballast.release():
            # What waits in the log is still less than that; it only grows.
            self._restart_log()
            self.limit_growth(None)
        aged = list(self._aged())
        if aged:
            self.despite_full_disk(0, lambda: self.lose(aged, "age"))
        for excess in self._held.excesses(coming):
            left = self._evict(excess.streams, excess.bytes)
            if left > excess.spare_bytes and self._held.holds_back(excess.streams):
                raise self.full()

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
        self.despite_full_disk(0, lambda: self.lose(victims, "quota"))
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
                freed += self.despite_full_disk(0, do)
        return freed

    def _thin_out(self, victims: Sequence[sqlite3.Row], every: int) -> int:
        with self._transactions.begin():
            pairs = [self._losses.thin(row, every) for row in victims]
        for row, (freed, kept) in zip(victims, pairs, strict=True):
            self._held.add(row["stream"], -freed, kept - row["n"])
        self.note_losses("thinned", lost_rows(victims) - sum(kept for _, kept in pairs))
        return sum(freed for freed, _ in pairs)

    def despite_full_disk(self, coming: int, write: Callable[[], T]) -> T:
        """Write, and where the disk is full give things up until it works.

        Args:
            coming: Bytes that it takes.
            write: One transaction.

        Raises:
            OutboxFullError: Nothing is left to drop; nothing was written.
        """
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
        raise self.full()

    def full(self) -> OutboxFullError:
        """Return what to raise where there is no room."""
        return OutboxFullError(
            "the disk or the quota is full and nothing is left to drop",
            where=str(self._path),
            expected="free space",
            remedy="Free some space, or raise outbox.quota_mb; what was not stored is tried again.",
        )

    def _free_disk(self, coming: int) -> bool:
        """Give up the ballast, then the oldest blocks; False when neither helps."""
        had_ballast = self._ballast.release()
        # Before anything else takes what the ballast gave: into the file, which grows by no more.
        self._restart_log()
        if not self._lose_what_fits(self._disposable(max(2 * coming, self._held.bytes // 10, 1))):
            return had_ballast
        self._restart_log()
        self.limit_growth(None)
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
                self.lose(victims, "disk_full")
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
        with _unless_full():
            self._log.empty("RESTART")

    def limit_growth(self, size_bytes: float | None) -> None:
        """Let the file grow to a size, or not at all.

        On a full disk the last free bytes belong to the log: as long as the
        file itself need not grow, the log can always be emptied into it.
        """
        pages = self._pragma("page_count")
        if size_bytes is not None:
            pages = int(size_bytes) // self._pragma("page_size") + _SPARE_PAGES
        self._connection.execute(f"PRAGMA max_page_count={pages}")

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

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

    def lose(self, victims: Sequence[sqlite3.Row], reason: LossReason) -> None:
        """Turn blocks into gaps, joined with a gap right before them, and count them."""
        if not victims:
            return
        with self._transactions.begin():
            made = Counter[str]()
            for row in victims:
                made[row["stream"]] += self._losses.lose(row, reason)
        self._held.add_blocks(victims, -1)
        for stream, gaps in made.items():
            self._held.add(stream, gaps * OVERHEAD_BYTES, 0)
        self.note_losses(reason, lost_rows(victims))

    def note_losses(self, reason: LossReason, rows: int) -> None:
        """Count and log that blocks turned into gaps."""
        self.losses_total += 1
        log.warning("outbox.rows_discarded", extra={"reason": reason, "rows": rows})


@contextlib.contextmanager
def _unless_full() -> Iterator[None]:
    """Do something that can be left out on a full disk."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if not is_full(error):
            raise
