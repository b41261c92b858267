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
from edge_runtime.sync.blocks import Block
from edge_runtime.sync.frames import MAX_ROWS, RowFrame, decode_table, encode_frame
from edge_runtime.types import Table

__all__ = ["Key", "Parcel", "parcels"]

_RAW_BYTES = 256 * 1024

Key = tuple[int, int, str]
"""Incarnation, epoch and stream: within them sequence numbers count up."""


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
        frame = _joined(device, run, acked.get(_key(run[0]), 0))
        if frame is not None:
            yield from _encoded(frame, run, json=json)


def _key(block: Block) -> Key:
    return block.incarnation, block.epoch, block.stream


def _runs(blocks: Sequence[Block]) -> list[list[Block]]:
    """Group blocks that may share a frame."""
    runs: list[list[Block]] = []
    open_run: dict[Key, list[Block]] = {}
    for block in blocks:
        run = open_run.get(_key(block))
        if run is None or not _fits(run, block):
            run = open_run[_key(block)] = []
            runs.append(run)
        run.append(block)
    return runs


def _fits(run: Sequence[Block], block: Block) -> bool:
    last = run[-1]
    return (
        (last.kind, last.clock) == (block.kind, block.clock)
        and block.kind != "gap"
        and last.seq0 + last.n == block.seq0
        and sum(each.n for each in run) + block.n <= MAX_ROWS
        and sum(len(each.body) for each in run) + len(block.body) <= _RAW_BYTES
        and _looks(last) == _looks(block)
    )


def _looks(block: Block) -> list[tuple[str, object, tuple[int, ...]]]:
    """Describe a block's columns; text of any length looks the same."""
    return [
        (name, "text" if column.dtype.kind == "U" else column.dtype, column.shape[1:])
        for name, column in decode_table(block.body).columns.items()
    ]


def _joined(device: str, run: Sequence[Block], acked: int) -> RowFrame | None:
    first, last = run[0], run[-1]
    seq0 = max(first.seq0, acked)
    n = last.seq0 + last.n - seq0
    if n <= 0:
        return None
    return RowFrame(
        device=device,
        stream=first.stream,
        epoch=first.epoch,
        incarnation=first.incarnation,
        seq0=seq0,
        n=n,
        kind=first.kind,
        table=_table(run).rows(seq0 - first.seq0, MAX_ROWS),
        reason=first.reason,
        clock=first.clock,
        made_ns=last.made_ns,
    )


def _table(run: Sequence[Block]) -> Table:
    if run[0].kind == "gap":
        return Table({})
    tables = [decode_table(block.body).columns for block in run]
    return Table({name: np.concatenate([table[name] for table in tables]) for name in tables[0]})


def _encoded(frame: RowFrame, run: Sequence[Block], *, json: bool) -> Iterator[Parcel]:
    """Encode a frame, in halves where it is too large."""
    try:
        payload = b"" if _is_bulky(frame) else encode_frame(frame, json=json)
    except WireError:
        payload = b""
    if payload or frame.n == 1 or frame.kind == "gap":
        block = next(each for each in reversed(run) if each.seq0 <= frame.seq0)
        yield Parcel(_key(block), frame.seq0, frame.seq0 + frame.n, payload, block)
        return
    half = frame.n // 2
    for first, last in ((0, half), (half, frame.n)):
        part = msgspec.structs.replace(
            frame,
            seq0=frame.seq0 + first,
            n=last - first,
            table=frame.table.rows(first, last),
        )
        yield from _encoded(part, run, json=json)


def _is_bulky(frame: RowFrame) -> bool:
    """Whether trying to compress it would be a waste of time."""
    raw = sum(column.nbytes for column in frame.table.columns.values())
    return frame.n > 1 and (raw > 2 * _RAW_BYTES or frame.n > MAX_ROWS)
