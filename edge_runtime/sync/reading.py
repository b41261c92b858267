"""Looks into an outbox that may be in use: what waits, and what became of the rest."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.sync.blocks import Block
from edge_runtime.sync.database import read_database, translated
from edge_runtime.sync.frames import decode_table
from edge_runtime.sync.hold import is_held
from edge_runtime.sync.outbox import BLOCK_FIELDS, OUTBOX_MIGRATIONS, WAITING_ROWS
from edge_runtime.sync.runs import Runs, wear_bytes_per_day

__all__ = ["OutboxReader", "StreamWait", "Wait", "rows_of"]


class StreamWait(msgspec.Struct, frozen=True):
    """What waits of one stream and process start.

    Attributes:
        stream: Outbox stream.
        kind: What it is; ``gap`` for rows that are lost.
        epoch: Process start that made it.
        incarnation: Of ``state.db`` then.
        blocks: Number of blocks.
        rows: Rows that wait, or lost ones of gaps.
        bytes: What they take.
        first_seq: Number of the first row.
        upto_seq: Behind the number of the last row.
        oldest_ns: When the oldest was committed, by the device's clock.
        newest_ns: When the newest was.
        reasons: Why rows of gaps are lost.
    """

    stream: str
    kind: str
    epoch: int
    incarnation: int
    blocks: int
    rows: int
    bytes: int
    first_seq: int
    upto_seq: int
    oldest_ns: int
    newest_ns: int
    reasons: str


class Wait(msgspec.Struct, frozen=True):
    """An outbox as a whole.

    Attributes:
        rows: Rows that wait, without gaps.
        gap_rows: Rows in gaps that wait to be told.
        bytes: What they take, of the quota.
        file_bytes: The file and its log.
        discarded: Rows that left as gaps since the file was made, by stream and reason.
        wear_bytes_per_day: What both databases write in a day of running; None before
            there is a minute.
        wear_ran_s: Running time that this is taken from.
        set_aside: Corrupt files that were set aside, newest last.
        is_running: Whether a device runs on it now.
    """

    rows: int
    gap_rows: int
    bytes: int
    file_bytes: int
    discarded: dict[str, dict[str, int]]
    wear_bytes_per_day: int | None
    wear_ran_s: float
    set_aside: list[str]
    is_running: bool


class OutboxReader:
    """Reads ``outbox.db``; a device that writes to it meanwhile is not held up.

    Args:
        folder: The device's state folder.

    Raises:
        ConfigError: There is none, or its device has not migrated it yet.
        StoreError: It cannot be read, or a newer version wrote it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "outbox.db"
        self._connection = read_database(self._path, OUTBOX_MIGRATIONS)

    def close(self) -> None:
        """Let go of it; safe to call twice."""
        self._connection.close()

    def streams(self) -> list[StreamWait]:
        """Return what waits, by stream, kind and process start."""
        rows = self._all(
            "SELECT stream, kind, epoch, incarnation, count(*) AS blocks, "  # noqa: S608
            f"sum(CASE kind WHEN 'gap' THEN n ELSE {WAITING_ROWS} END) AS rows, "
            "sum(bytes) AS bytes, min(seq0) AS first_seq, max(seq0 + n) AS upto_seq, "
            "min(made_ns) AS oldest_ns, max(made_ns) AS newest_ns, "
            "coalesce(group_concat(DISTINCT nullif(reason, '')), '') AS reasons "
            "FROM block GROUP BY stream, kind, epoch, incarnation "
            "ORDER BY stream, min(id)"
        )
        return [StreamWait(**dict(row)) for row in rows]

    def wait(self) -> Wait:
        """Return the outbox as a whole."""
        with translated(self._path, "read"):
            runs = Runs.known(self._connection)
        rows, gap_rows, size = self._all(
            f"SELECT coalesce(sum({WAITING_ROWS}), 0), "  # noqa: S608 - a constant
            "coalesce(sum(CASE kind WHEN 'gap' THEN n END), 0), coalesce(sum(bytes), 0) FROM block"
        )[0]
        discarded: dict[str, dict[str, int]] = {}
        for stream, reason, n in self._all("SELECT stream, reason, n FROM discarded ORDER BY 1, 2"):
            discarded.setdefault(stream, {})[reason] = n
        files = self._path.parent.glob(f"{self._path.name}*")
        return Wait(
            rows=rows,
            gap_rows=gap_rows,
            bytes=size,
            file_bytes=sum(
                path.stat().st_size for path in files if path.suffix in (".db", ".db-wal")
            ),
            discarded=discarded,
            wear_bytes_per_day=wear_bytes_per_day(runs),
            wear_ran_s=sum(run.ran_ns for run in runs) / 1e9,
            set_aside=sorted(
                path.name for path in self._path.parent.glob(f"{self._path.name}.corrupt-*")
            ),
            is_running=is_held(self._path.parent),
        )

    def blocks(self, streams: Collection[str] = ()) -> Iterator[Block]:
        """Go through what waits, oldest first, in one consistent view.

        Args:
            streams: Outbox streams; all when empty.
        """
        places = ",".join("?" * len(streams))
        where = f"WHERE stream IN ({places})" if streams else ""
        with (
            translated(self._path, "read"),
            contextlib.closing(
                self._connection.execute(
                    f"SELECT {BLOCK_FIELDS} FROM block {where} ORDER BY id",  # noqa: S608
                    tuple(streams),
                )
            ) as rows,
        ):
            for row in rows:
                yield Block(*tuple(row)[:-2])

    def _all(self, statement: str) -> list[sqlite3.Row]:
        with translated(self._path, "read"):
            return self._connection.execute(statement).fetchall()


def rows_of(block: Block) -> Iterator[dict[str, Any]]:
    """Return a block as one object for each row; a gap is one object.

    Raises:
        WireError: Its body is damaged.
    """
    who = {
        "stream": block.stream,
        "kind": block.kind,
        "incarnation": block.incarnation,
        "epoch": block.epoch,
    }
    if block.kind == "gap":
        yield {**who, "seq": block.seq0, "n": block.n, "reason": block.reason}
        return
    columns = {name: rows.tolist() for name, rows in decode_table(block.body).columns.items()}
    first = block.seq0 + -block.seq0 % block.every
    for number, values in enumerate(zip(*columns.values(), strict=True)):
        yield {
            **who,
            "seq": first + number * block.every,
            **dict(zip(columns, values, strict=True)),
        }
