"""What makes room in the outbox: which blocks go first, and the gaps that they leave."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Iterable, Sequence

from edge_runtime.sync.blocks import OVERHEAD_BYTES
from edge_runtime.sync.frames import decode_table, encode_table, kept_rows
from edge_runtime.types import Table

__all__ = ["Losses", "lost_rows"]

_CHOSEN = "id, incarnation, epoch, stream, seq0, n, every, kind, made_ns, monotonic_ns, bytes"
_AT_ONCE = 512


class Losses:
    """Choose blocks of the outbox, and turn them into gaps inside the caller's transaction.

    Args:
        connection: To the outbox, with rows by name.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def oldest(
        self, streams: Iterable[str], excess: float, *, every: int | None = None
    ) -> list[sqlite3.Row]:
        """Choose the oldest blocks whose loss frees so many bytes, or all there are.

        Args:
            streams: Outbox streams to choose from.
            excess: Bytes to free.
            every: Choose estimates to thin, which frees what is left out by this.
        """
        names = tuple(streams)
        wanted = "kind <> 'gap'" if every is None else "kind = 'estimate' AND every = 1"
        share = 1.0 if every is None else 1 - 1 / every
        places = ",".join("?" * len(names))
        chosen: list[sqlite3.Row] = []
        with contextlib.closing(
            self._connection.execute(
                f"SELECT {_CHOSEN} FROM block "  # noqa: S608 - constants
                f"WHERE {wanted} AND stream IN ({places}) ORDER BY id",
                names,
            )
        ) as rows:
            while excess > 0 and (row := rows.fetchone()) is not None:
                chosen.append(row)
                excess -= row["bytes"] * share
        return chosen

    def first_of(self, stream: str) -> sqlite3.Cursor:
        """Go through the oldest blocks of one stream, a few hundred at most."""
        return self._connection.execute(
            # The epochs of a stream are few, and within each the rows have an index.
            f"SELECT {', '.join('block.' + name for name in _CHOSEN.split(', '))} "  # noqa: S608
            "FROM next_seq CROSS JOIN block USING (incarnation, epoch, stream) "
            f"WHERE next_seq.stream = ? AND kind <> 'gap' ORDER BY block.id LIMIT {_AT_ONCE}",
            (stream,),
        )

    def lose(self, row: sqlite3.Row, reason: str) -> int:
        """Turn a block into a gap, one with those of its reason right before and behind it.

        Returns:
            By how much the number of gaps has grown: 1, 0, or -1 where it joined two.
        """
        self.count(row["stream"], reason, kept_rows(row["seq0"], row["n"], row["every"]))
        behind = self._take_out_behind(row, reason)
        n = row["n"] + behind
        if self._joined(row, n, reason):
            return -bool(behind)
        self._connection.execute(
            "UPDATE block SET kind = 'gap', reason = ?, n = ?, body = x'', crc32 = 0, bytes = ?, "
            "every = 1 WHERE id = ?",
            (reason, n, OVERHEAD_BYTES, row["id"]),
        )
        return 1 - bool(behind)

    def thin(self, row: sqlite3.Row, every: int) -> tuple[int, int]:
        """Keep the rows of a block whose number is a multiple of ``every``.

        Returns:
            Bytes that were freed, and rows that stay.
        """
        seq0, n = row["seq0"], row["n"]
        kept = kept_rows(seq0, n, every)
        body, crc32 = self._connection.execute(
            "SELECT body, crc32 FROM block WHERE id = ?", (row["id"],)
        ).fetchone()
        is_sound = zlib.crc32(body) == crc32
        if not (kept and is_sound):
            made = self.lose(row, "thinned" if is_sound else "corrupt")
            return row["bytes"] - made * OVERHEAD_BYTES, 0
        columns = decode_table(body).columns.items()
        thinned = encode_table(
            Table({name: rows[-seq0 % every :: every] for name, rows in columns})
        )
        size = len(thinned) + OVERHEAD_BYTES
        self._connection.execute(
            "UPDATE block SET body = ?, crc32 = ?, bytes = ?, every = ? WHERE id = ?",
            (thinned, zlib.crc32(thinned), size, every, row["id"]),
        )
        self.count(row["stream"], "thinned", n - kept)
        return row["bytes"] - size, kept

    def count(self, stream: str, reason: str, n: int) -> None:
        """Add to what was ever lost."""
        self._connection.execute(
            "INSERT INTO discarded VALUES (?, ?, ?) "
            "ON CONFLICT (stream, reason) DO UPDATE SET n = n + excluded.n",
            (stream, reason, n),
        )

    def _take_out_behind(self, row: sqlite3.Row, reason: str) -> int:
        """Delete the gap right behind a block; return of how many rows it was, 0 for none."""
        behind = self._connection.execute(
            "SELECT id, n FROM block WHERE incarnation = ? AND epoch = ? AND stream = ? "
            "AND seq0 = ? AND kind = 'gap' AND reason = ?",
            (row["incarnation"], row["epoch"], row["stream"], row["seq0"] + row["n"], reason),
        ).fetchone()
        if behind is None:
            return 0
        self._connection.execute("DELETE FROM block WHERE id = ?", (behind["id"],))
        return int(behind["n"])

    def _joined(self, row: sqlite3.Row, n: int, reason: str) -> bool:
        before = self._connection.execute(
            "SELECT id, kind, reason, seq0 + n AS upto FROM block WHERE incarnation = ? "
            "AND epoch = ? AND stream = ? AND seq0 < ? ORDER BY seq0 DESC LIMIT 1",
            (row["incarnation"], row["epoch"], row["stream"], row["seq0"]),
        ).fetchone()
        if before is None or tuple(before)[1:] != ("gap", reason, row["seq0"]):
            return False
        self._connection.execute("DELETE FROM block WHERE id = ?", (row["id"],))
        self._connection.execute("UPDATE block SET n = n + ? WHERE id = ?", (n, before["id"]))
        return True


def lost_rows(rows: Sequence[sqlite3.Row]) -> int:
    """Return how many rows these blocks hold."""
    return sum(kept_rows(row["seq0"], row["n"], row["every"]) for row in rows)
