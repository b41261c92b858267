"""What goes into the outbox and comes out of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from edge_runtime.sync.frames import Kind
from edge_runtime.types import ClockQuality, Table

__all__ = [
    "OVERHEAD_BYTES",
    "Batch",
    "Block",
    "Key",
    "LossReason",
    "OutboxStats",
    "Resume",
    "pieces",
]

Key = tuple[int, int, str]
"""Incarnation, epoch and stream: within them sequence numbers count up."""

LossReason = Literal[
    "quota",
    "thinned",
    "age",
    "disk_full",
    "corrupt",
    "too_large",
    "not_kept_by_cloud",
    "dropped_by_operator",
    "restart",
]
"""Why rows were dropped; sources may commit gaps with reasons of their own."""

OVERHEAD_BYTES = 128
"""What a block takes besides its body."""

_BLOCK_ROWS = 8192
_BLOCK_BYTES = 1 << 20


class Batch(msgspec.Struct, frozen=True, eq=False):
    """Rows to commit, in order, of one stream.

    Attributes:
        stream: Outbox stream, such as ``vibration`` or ``vibration-decisions``.
        kind: What the rows are.
        table: The rows; no columns for a gap.
        clock: How far their times may be trusted.
        lost: Number of rows a gap stands for.
        reason: Why they are lost.
    """

    stream: str
    kind: Kind
    table: Table
    clock: ClockQuality = "unsynced"
    lost: int = 0
    reason: str = ""


class Block(msgspec.Struct, frozen=True, eq=False):
    """Consecutive rows as the outbox keeps them.

    Attributes:
        id: Position in the outbox; oldest first.
        stream: Outbox stream.
        kind: What the rows are.
        incarnation: Of the ``state.db`` when they were made.
        epoch: Process start that made them.
        seq0: Sequence number of the first row.
        n: Number of rows that it covers.
        every: Of these, only those whose number is a multiple of this are kept.
        made_ns: When they were committed.
        clock: How far their times may be trusted.
        reason: Why the rows of a gap are lost.
        body: ``encode_table`` of the rows; empty for a gap.
    """

    id: int
    stream: str
    kind: Kind
    incarnation: int
    epoch: int
    seq0: int
    n: int
    every: int
    made_ns: int
    clock: ClockQuality
    reason: str
    body: bytes


class Resume(msgspec.Struct, frozen=True):
    """Where a source goes on after a restart.

    Attributes:
        position: Index of the first sample not processed yet.
        snapshot: `Pipeline.snapshot` at that position.
        base: Digest of the base bundle that made it.
    """

    position: int
    snapshot: bytes | None
    base: str


class OutboxStats(msgspec.Struct, frozen=True):
    """What waits for the cloud.

    Attributes:
        rows: Rows not acknowledged yet, without gaps.
        bytes: Bytes they take.
        oldest_ns: When the oldest block was made; None when empty.
        discarded: Rows dropped since the file was created, by reason.
        written_bytes: What this process wrote to the disk for them.
    """

    rows: int
    bytes: int
    oldest_ns: int | None
    discarded: dict[str, int]
    written_bytes: int


def pieces(batch: Batch) -> Iterator[Batch]:
    """Cut a batch so that each part fits one block; an empty one has no parts."""
    n = len(batch.table)
    if batch.kind == "gap" and batch.lost:
        yield batch
    if n:
        size = sum(column.nbytes for column in batch.table.columns.values())
        step = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES * n // max(size, 1)))
        for first in range(0, n, step):
            table = batch.table.rows(first, first + step)
            yield msgspec.structs.replace(batch, table=table)
