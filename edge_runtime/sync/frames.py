"""One publish is one frame: consecutive rows of one stream, in columns.

A frame is a MessagePack map ``{v, crc32, frame}``; ``frame`` is a map with the
header, the description of each column, and one zlib body. With ``json=True``
the same frame is one readable JSON object without a checksum.

Decoding trusts nothing: every size is checked before memory is taken.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime.errors import WireError
from edge_runtime.sync.columns import (
    MAX_DECODED_BYTES,
    Column,
    check_columns,
    describe,
    little_endian,
    pack_column,
    unpack_column,
)
from edge_runtime.sync.messages import Name, Number, check_size, decode, read, unknown_fields
from edge_runtime.types import ClockQuality, Table

__all__ = [
    "MAX_ROWS",
    "Kind",
    "RowFrame",
    "decode_frame",
    "decode_table",
    "encode_frame",
    "encode_table",
    "kept_rows",
    "part_of",
]

MAX_ROWS = 65536
"""Most rows of one frame."""

# Fewer rows are not worth the time on the hot path.
_PACKED_ROWS = 64
# The next levels cost twice the time and save a tenth.
_TABLE_LEVEL = 1

Kind = Literal["estimate", "decision", "gap"]
"""What the rows are; a gap says that rows are lost, and how many."""

Reason = Annotated[str, Meta(max_length=64)]
Rows = Annotated[int, Meta(ge=0, le=MAX_DECODED_BYTES)]
Columns = Annotated[tuple[Column, ...], Meta(max_length=64)]

_JSON_TYPES: dict[str, Any] = {
    "b": bool,
    "i": int,
    "u": int,
    "f": float | Literal["nan", "inf", "-inf"],
    "U": str,
}


class RowFrame(msgspec.Struct, frozen=True, eq=False):
    """Rows ``seq0`` to ``seq0 + n`` (exclusive) of one outbox stream.

    A row's identity is (device, incarnation, epoch, stream, seq).

    Attributes:
        device: Who made the rows.
        stream: Outbox stream.
        epoch: Process start that made them.
        incarnation: Of the device's ``state.db``.
        seq0: Sequence number of the first row; counts from 0 in each epoch.
        n: Number of rows that it covers, lost ones for a gap.
        every: Of these, only those whose number is a multiple of this are in the table;
            the others were thinned out and are lost.
        kind: What the rows are.
        table: The rows, ``n`` of them unless thinned; no columns for a gap.
        reason: Why the rows of a gap are lost; empty otherwise.
        clock: How far the times may be trusted.
        made_ns: When the newest of them was committed on the device.
        beyond: Header fields that this version does not know; kept when it is encoded again.
        v: Protocol version.
    """

    device: str
    stream: str
    epoch: int
    incarnation: int
    seq0: int
    n: int
    kind: Kind
    table: Table
    reason: str = ""
    clock: ClockQuality = "unsynced"
    made_ns: int = 0
    beyond: Mapping[str, Any] = {}
    v: int = 1
    every: int = 1

    @property
    def seqs(self) -> range:
        """Numbers of the rows in the table; empty for a gap."""
        first = self.seq0 + -self.seq0 % self.every
        return range(first, first if self.kind == "gap" else self.seq0 + self.n, self.every)


def kept_rows(seq0: int, n: int, every: int) -> int:
    """Count the multiples of ``every`` among ``n`` numbers from ``seq0`` on."""
    return -(-(seq0 + n) // every) - -(-seq0 // every)


def part_of(frame: RowFrame, first: int, last: int) -> RowFrame:
    """Return what a frame says of rows ``first`` to ``last`` (exclusive).

    Where all of them were thinned out, that is a gap.
    """
    kept = kept_rows(first, last - first, frame.every)
    part = msgspec.structs.replace(frame, seq0=first, n=last - first)
    if frame.kind == "gap":
        return part
    if not kept:
        return msgspec.structs.replace(part, kind="gap", reason="thinned", table=Table({}), every=1)
    start = kept_rows(frame.seq0, first - frame.seq0, frame.every)
    return msgspec.structs.replace(part, table=frame.table.rows(start, start + kept))


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    device: Name
    stream: Name
    epoch: Number
    incarnation: Number
    seq0: Number
    n: Annotated[int, Meta(ge=1, le=2**53)]
    kind: Kind
    reason: Reason = ""
    clock: ClockQuality = "unsynced"
    made_ns: int = 0
    every: Annotated[int, Meta(ge=1, le=2**53)] = 1

    @property
    def held(self) -> int:
        """How many rows the table has."""
        return kept_rows(self.seq0, self.n, self.every)


class _Packed(_Header, frozen=True, kw_only=True):
    columns: Columns = ()
    body: bytes = b""


class _FrameEnvelope(msgspec.Struct, frozen=True):
    crc32: int
    frame: msgspec.Raw
    v: Literal[1] = 1


class _JsonColumn(msgspec.Struct, frozen=True):
    dtype: str
    rows: list[Any]
    shape: tuple[int, ...] = ()


class _ReadableFrame(_Header, frozen=True, kw_only=True):
    columns: Annotated[dict[str, _JsonColumn], Meta(max_length=64)]
    v: Literal[1] = 1


class _TableBytes(msgspec.Struct, frozen=True, array_like=True):
    n: Rows
    columns: Columns
    arrays: tuple[bytes, ...]
    # Instead of arrays: filtered as in a frame.
    packed: bytes = b""


def encode_frame(frame: RowFrame, *, json: bool = False) -> bytes:
    """Return the payload of one frame; every bit of the table survives.

    Args:
        frame: At most `MAX_ROWS` rows.
        json: Write the readable form; of a NaN it keeps no payload bits.

    Raises:
        WireError: It breaks a limit, such as `MAX_PAYLOAD_BYTES`, or has other rows than ``n``.
    """
    _check_rows(frame)
    payload = _to_json(frame) if json else _to_msgpack(frame)
    return check_size(payload, f"frame of {frame.stream}")


def decode_frame(payload: bytes) -> RowFrame:
    """Read one frame, in either form, strictly and within bounds.

    Raises:
        WireError: Anything is not as declared, whatever the bytes are.
    """
    check_size(payload, "frame")
    frame = _from_json(payload) if payload[:1] == b"{" else _from_msgpack(payload)
    _check_rows(frame)
    return frame


def encode_table(table: Table) -> bytes:
    """Return the rows as the outbox keeps them: a few quickly, many packed as in a frame.

    Raises:
        WireError: A column's type cannot be carried, or the rows unfold to too many bytes.
    """
    return _packed_table(table) if len(table) >= _PACKED_ROWS else _plain_table(table)


def _packed_table(table: Table) -> bytes:
    pairs = [pack_column(name, values) for name, values in table.columns.items()]
    columns = tuple(column for column, _ in pairs)
    check_columns(columns, len(table))
    body = zlib.compress(b"".join(raw for _, raw in pairs), _TABLE_LEVEL)
    return msgspec.msgpack.encode(_TableBytes(len(table), columns, (), body))


def _plain_table(table: Table) -> bytes:
    arrays = [little_endian(values) for values in table.columns.values()]
    columns = tuple(map(describe, table.columns, arrays))
    check_columns(columns, len(table))
    packed = _TableBytes(len(table), columns, tuple(array.tobytes() for array in arrays))
    return msgspec.msgpack.encode(packed)


def decode_table(payload: bytes) -> Table:
    """Read `encode_table`'s bytes; the arrays are read-only.

    Raises:
        WireError: They are not what `encode_table` wrote.
    """
    packed = read(payload, _TableBytes)
    if packed.packed:
        return _unpack(packed.columns, packed.n, packed.packed)
    check_columns(packed.columns, packed.n)
    if len(packed.arrays) != len(packed.columns):
        raise WireError(f"{len(packed.arrays)} arrays", expected=f"{len(packed.columns)}")
    pairs = zip(packed.columns, packed.arrays, strict=True)
    return Table({column.name: _view(column, packed.n, array) for column, array in pairs})


def _view(column: Column, n: int, array: bytes) -> np.ndarray:
    if len(array) != column.decoded_bytes(n):
        raise WireError(
            f"column {column.name!r} has {len(array)} bytes",
            where="table",
            expected=f"{column.decoded_bytes(n)}",
        )
    return np.frombuffer(array, column.dtype).reshape(n, *column.shape)


def _check_rows(frame: RowFrame) -> None:
    columns = frame.table.columns
    held = len(frame.table)
    is_whole = not columns if frame.kind == "gap" else 0 < len(frame.seqs) == held <= MAX_ROWS
    if not is_whole or frame.n < 1:
        raise WireError(
            f"{frame.kind} of {frame.n} rows has {len(frame.table)} in {len(columns)} columns",
            where=f"frame of {frame.stream}",
            expected=f"1 to {MAX_ROWS} rows in columns, or a gap without columns",
        )


def _check_announced(header: _Packed | _ReadableFrame) -> None:
    """Look at the number of rows before anything is made of it; only a gap has more."""
    if header.columns and header.held > MAX_ROWS:
        raise WireError(
            f"{header.kind} of {header.held} rows",
            where=f"frame of {header.stream}",
            expected=f"at most {MAX_ROWS}",
        )


def _header_fields(frame: RowFrame | _Header) -> dict[str, Any]:
    return {name: getattr(frame, name) for name in _Header.__struct_fields__}


def _with_beyond(frame: _Header, beyond: Mapping[str, Any]) -> object:
    return {**beyond, **msgspec.structs.asdict(frame)} if beyond else frame


# --- MessagePack ----------------------------------------------------------------


def _to_msgpack(frame: RowFrame) -> bytes:
    packed = [pack_column(name, values) for name, values in frame.table.columns.items()]
    columns = tuple(column for column, _ in packed)
    check_columns(columns, frame.n)
    body = zlib.compress(b"".join(raw for _, raw in packed)) if packed else b""
    packed_frame = _Packed(columns=columns, body=body, **_header_fields(frame))
    inner = msgspec.msgpack.encode(_with_beyond(packed_frame, frame.beyond))
    return msgspec.msgpack.encode(_FrameEnvelope(zlib.crc32(inner), msgspec.Raw(inner)))


def _from_msgpack(payload: bytes) -> RowFrame:
    envelope = decode(payload, _FrameEnvelope)
    inner = bytes(envelope.frame)
    if zlib.crc32(inner) != envelope.crc32:
        raise WireError("checksum does not match", where="frame")
    packed = read(inner, _Packed)
    _check_announced(packed)
    table = _unpack(packed.columns, packed.held, packed.body) if packed.columns else Table({})
    beyond = unknown_fields(inner, _Packed)
    return RowFrame(table=table, beyond=beyond, **_header_fields(packed))


def _unpack(described: Columns, n: int, body: bytes) -> Table:
    total = check_columns(described, n)
    raw = memoryview(_inflate(body, total))
    columns, first = {}, 0
    for column in described:
        columns[column.name] = unpack_column(column, n, bytes(raw[first : first + column.size]))
        first += column.size
    return Table(columns)


def _inflate(body: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        # One byte more than announced is room for zlib's end mark, never for a bomb.
        raw = inflater.decompress(body, size + 1)
    except zlib.error as error:
        raise WireError(f"body does not inflate: {error}", where="frame") from error
    if len(raw) != size or not inflater.eof or inflater.unused_data:
        raise WireError(f"body inflates to {len(raw)} bytes", where="frame", expected=f"{size}")
    return raw


# --- JSON -----------------------------------------------------------------------


def _to_json(frame: RowFrame) -> bytes:
    columns = {
        name: _JsonColumn(values.dtype.str, _json_rows(values), values.shape[1:])
        for name, values in (
            (name, little_endian(values)) for name, values in frame.table.columns.items()
        )
    }
    readable = _ReadableFrame(columns=columns, **_header_fields(frame))
    return msgspec.json.encode(_with_beyond(readable, frame.beyond))


def _json_rows(values: np.ndarray) -> list[Any]:
    rows: list[Any] = values.reshape(-1).tolist()
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return rows
    return [row if math.isfinite(row) else str(row) for row in rows]


def _from_json(payload: bytes) -> RowFrame:
    parsed = decode(payload, _ReadableFrame)
    _check_announced(parsed)
    described = [(_json_described(name, column)) for name, column in parsed.columns.items()]
    check_columns(described, parsed.held)
    columns = {
        column.name: _json_array(column, parsed.held, parsed.columns[column.name].rows)
        for column in described
    }
    beyond = unknown_fields(payload, _ReadableFrame)
    return RowFrame(table=Table(columns), beyond=beyond, **_header_fields(parsed))


def _json_described(name: str, column: _JsonColumn) -> Column:
    try:
        return msgspec.convert([name, column.dtype, column.shape], Column)
    except msgspec.ValidationError as error:
        raise WireError(f"column {name[:64]!r}: {error}", where="frame") from error


def _json_array(column: Column, n: int, rows: list[Any]) -> np.ndarray:
    kind = _JSON_TYPES[column.dtype[1]]
    try:
        values = msgspec.convert(rows, list[kind])  # type: ignore[valid-type]
        return np.array(values, column.dtype).reshape(n, *column.shape)
    except (msgspec.ValidationError, ValueError, OverflowError) as error:
        raise WireError(f"column {column.name!r}: {error}", where="frame") from error
