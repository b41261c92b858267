"""What a commit writes into the outbox: numbered blocks, positions and marks, all or nothing."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from edge_runtime.sync.blocks import OVERHEAD_BYTES, Batch, Key, LossReason, Resume, pieces
from edge_runtime.sync.frames import encode_table
from edge_runtime.sync.log import Log
from edge_runtime.sync.losing import Losses
from edge_runtime.sync.runs import Runs
from edge_runtime.sync.transactions import Transactions
from edge_runtime.types import check_name

__all__ = ["NO_MARKS", "Entries", "Entry", "become_gap", "join_gaps"]

NO_MARKS: Mapping[str, bytes] = {}
"""Of no sink."""


class Entry(NamedTuple):
    """What one transaction writes: blocks, the numbers after them, positions and sink marks."""

    rows: Sequence[dict[str, Any]] = ()
    next_seq: Mapping[str, int] = {}
    resumes: Mapping[str, Resume] = {}
    marks: Mapping[str, bytes] = NO_MARKS


class Entries:
    """Numbers rows of one epoch, writes them and deletes what was acknowledged.

    Used by one thread at a time.

    Args:
        connection: To the outbox, with rows by name.
        transactions: On that connection.
        log: Its write-ahead log.
        losses: Counts gaps that come as such.
        runs: Noted with a commit when it is time.
        incarnation: Of ``state.db``.
        epoch: Of this process start.
        at_step: Called before a commit with positions (``insert``).

    Attributes:
        blocks_total: Blocks written.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        transactions: Transactions,
        log: Log,
        losses: Losses,
        runs: Runs,
        incarnation: int,
        epoch: int,
        at_step: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._transactions = transactions
        self._log = log
        self._losses = losses
        self._runs = runs
        self._incarnation = incarnation
        self._epoch = epoch
        self._at_step = at_step
        self._next: dict[str, int] = {}
        self.blocks_total = 0

    def prepare(self) -> None:
        """Go on with the numbers of this epoch, where it was opened before."""
        self._next = dict(
            self._connection.execute(
                "SELECT stream, seq FROM next_seq WHERE incarnation = ? AND epoch = ?",
                (self._incarnation, self._epoch),
            ).fetchall()
        )

    def number(
        self, batches: Sequence[Batch], now: tuple[int, int]
    ) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Cut batches into blocks and give them their sequence numbers.

        Args:
            batches: In order per stream.
            now: Wall and monotonic time, ns.

        Returns:
            The blocks, and the number after them by stream, for an `Entry`.
        """
        rows = []
        next_seq: dict[str, int] = {}
        for piece in (piece for batch in batches for piece in pieces(batch)):
            seq0 = next_seq.get(piece.stream, self._next.get(piece.stream, 0))
            rows.append(self.row(piece, seq0=seq0, now=now))
            next_seq[piece.stream] = seq0 + rows[-1]["n"]
        return rows, next_seq

    def row(self, batch: Batch, *, seq0: int, now: tuple[int, int]) -> dict[str, Any]:
        """Return the block of one batch, its columns by name."""
        body = b"" if batch.kind == "gap" else encode_table(batch.table)
        return {
            "id": None,
            "incarnation": self._incarnation,
            "epoch": self._epoch,
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

    def write(self, entry: Entry) -> None:
        """Write all of it in one transaction.

        Raises:
            sqlite3.OperationalError: The disk is full; nothing was written.
        """
        rows, next_seq, resumes, marks = entry
        body_bytes = sum(len(row["body"]) for row in rows)
        with self._transactions.begin(is_durable=bool(rows or marks), body_bytes=body_bytes):
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
        self._next.update(next_seq)
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
            [(self._incarnation, self._epoch, *item) for item in next_seq.items()],
        )

    def delete(self, marks: Mapping[Key, int]) -> dict[Key, list[sqlite3.Row]]:
        """Delete the blocks whose rows are all below the marks; return them, without bodies."""
        where = "WHERE incarnation = ? AND epoch = ? AND stream = ? AND seq0 < ? AND seq0 + n <= ?"
        gone: dict[Key, list[sqlite3.Row]] = {}
        with self._transactions.begin(is_durable=False):
            for key, upto in marks.items():
                values = (*key, upto, upto)
                gone[key] = self._connection.execute(
                    f"SELECT stream, seq0, n, every, bytes, kind FROM block {where}",  # noqa: S608
                    values,
                ).fetchall()
                if gone[key]:
                    self._connection.execute(f"DELETE FROM block {where}", values)  # noqa: S608
        return gone


def become_gap(row: dict[str, Any], reason: LossReason) -> None:
    """Let a block that was not written yet be a gap."""
    row |= {"kind": "gap", "reason": reason, "body": b"", "crc32": 0, "bytes": OVERHEAD_BYTES}


def join_gaps(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return new blocks in which gaps of one reason that follow each other in a stream are one."""
    joined: list[dict[str, Any]] = []
    newest: dict[str, dict[str, Any]] = {}
    for row in rows:
        before = newest.get(row["stream"])
        if before is not None and _is_one_gap(before, row):
            before["n"] += row["n"]
        else:
            newest[row["stream"]] = dict(row)
            joined.append(newest[row["stream"]])
    return joined


def _is_one_gap(before: dict[str, Any], row: dict[str, Any]) -> bool:
    is_same = all(before[name] == row[name] for name in ("kind", "reason"))
    return is_same and row["kind"] == "gap" and before["seq0"] + before["n"] == row["seq0"]
