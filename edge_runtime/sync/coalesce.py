"""From blocks on disk to frames on the wire.

Consecutive blocks of one stream become one frame as long as they look alike
and fit; a block that does not fit is cut into several frames. The order of a
stream's rows never changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from edge_runtime.errors import WireError
from edge_runtime.pipeline.records import is_quality, with_quality
from edge_runtime.sync.blocks import Block, Key
from edge_runtime.sync.frames import MAX_ROWS, RowFrame, decode_table, encode_frame, part_of
from edge_runtime.types import Table

__all__ = ["Parcel", "parcels"]

_RAW_BYTES = 256 * 1024


class Parcel(msgspec.Struct, frozen=True, eq=False):
    """One encoded frame.

    Attributes:
        key: Whose rows.
        seq0: First row.
        upto: Behind its last row.
        payload: The frame; empty when a row is too large for any frame.
        block: The block its first row came from.
    """

    key: Key
    seq0: int
    upto: int
    payload: bytes
    block: Block


def parcels(
    device: str, blocks: Sequence[Block], acked: Mapping[Key, int], *, json: bool = False
) -> Iterator[Parcel]:
    """Encode blocks as frames, oldest first.

    Args:
        device: Whose outbox it is.
        blocks: In the order of the outbox.
        acked: Rows below these numbers are left out.
        json: Write frames in the readable form.
    """
    for run in _runs(blocks):
        frame = _joined(device, run, acked.get(_key(run.blocks[0]), 0))
        if frame is not None:
            yield from _encoded(frame, run.blocks, json=json)


class _Run(msgspec.Struct):
    """Blocks that may share a frame.

    Attributes:
        blocks: At least one, each following the one before.
        tables: Their rows; a gap has none.
        n: Rows of all of them.
        size: Bytes of their bodies.
    """

    blocks: list[Block]
    tables: list[Table]
    n: int
    size: int

    def takes(self, block: Block, table: Table) -> bool:
        """Whether another block looks like these, follows them and fits."""
        last = self.blocks[-1]
        return (
            (last.kind, last.clock, last.every) == (block.kind, block.clock, block.every)
            and block.kind != "gap"
            and last.seq0 + last.n == block.seq0
            and self.n + block.n <= MAX_ROWS
            and self.size + len(block.body) <= _RAW_BYTES
            and _looks(self.tables[-1]) == _looks(table)
        )

    def add(self, block: Block, table: Table) -> None:
        """Append a block."""
        self.blocks.append(block)
        self.tables.append(table)
        self.n += block.n
        self.size += len(block.body)


def _key(block: Block) -> Key:
    return block.incarnation, block.epoch, block.stream


def _runs(blocks: Sequence[Block]) -> list[_Run]:
    """Group blocks that may share a frame."""
    runs: list[_Run] = []
    open_run: dict[Key, _Run] = {}
    for block in blocks:
        table = Table({}) if block.kind == "gap" else decode_table(block.body)
        run = open_run.get(_key(block))
        if run is None or not run.takes(block, table):
            run = open_run[_key(block)] = _Run([], [], 0, 0)
            runs.append(run)
        run.add(block, table)
    return runs


def _looks(table: Table) -> list[tuple[str, object, tuple[int, ...]]]:
    """Describe columns; text of any length looks the same, and so do rows with or without masks."""
    return [
        (name, "text" if column.dtype.kind == "U" else column.dtype, column.shape[1:])
        for name, column in table.columns.items()
        if not is_quality(name, column)
    ]


def _joined(device: str, run: _Run, acked: int) -> RowFrame | None:
    first, last = run.blocks[0], run.blocks[-1]
    upto = last.seq0 + last.n
    if acked >= upto:
        return None
    whole = RowFrame(
        device=device,
        stream=first.stream,
        epoch=first.epoch,
        incarnation=first.incarnation,
        seq0=first.seq0,
        n=upto - first.seq0,
        every=first.every,
        kind=first.kind,
        table=_table(run.tables),
        reason=first.reason,
        clock=first.clock,
        made_ns=last.made_ns,
    )
    return part_of(whole, max(first.seq0, acked), upto)


def _table(tables: Sequence[Table]) -> Table:
    if len(tables) == 1:
        return tables[0]
    columns = [table.columns for table in with_quality(tables)]
    return Table({name: np.concatenate([each[name] for each in columns]) for name in columns[0]})


def _encoded(frame: RowFrame, run: Sequence[Block], *, json: bool) -> Iterator[Parcel]:
    """Encode a frame, in halves where it is too large."""
    try:
        payload = b"" if _is_bulky(frame) else encode_frame(frame, json=json)
    except WireError:
        payload = b""
    if payload or len(frame.seqs) < 2:
        block = next(each for each in reversed(run) if each.seq0 <= frame.seq0)
        yield Parcel(_key(block), frame.seq0, frame.seq0 + frame.n, payload, block)
        return
    half, upto = frame.seqs[len(frame.seqs) // 2], frame.seq0 + frame.n
    for first, last in ((frame.seq0, half), (half, upto)):
        yield from _encoded(part_of(frame, first, last), run, json=json)


def _is_bulky(frame: RowFrame) -> bool:
    """Whether trying to compress it would be a waste of time."""
    raw = sum(column.nbytes for column in frame.table.columns.values())
    rows = len(frame.seqs)
    return rows > 1 and (raw > 2 * _RAW_BYTES or rows > MAX_ROWS)
