"""The tables of ``outbox.db``, and what is read of them by more than one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

__all__ = ["BLOCK_FIELDS", "FIRST_ID", "OF_STREAMS", "OUTBOX_MIGRATIONS", "WAITING_ROWS", "Which"]

FIRST_ID = -(2**62)
"""Below the id of every block."""

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

OF_STREAMS: Mapping[Which, str] = {
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
