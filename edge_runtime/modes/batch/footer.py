"""Joins Parquet files without decoding them: pages stay, one footer takes them all.

pyarrow refuses to append to a file, and writing everything a second time to join
the parts would double the cost. The pages of a part do not depend on where they
stand; only the footer names positions. It is a Thrift struct in the compact protocol.
Sources: apache/parquet-format, ``parquet.thrift``; Thrift, ``thrift-compact-protocol.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from edge_runtime.errors import StoreError

__all__ = ["MAGIC", "Part", "joined", "part_of"]

MAGIC = b"PAR1"
"""How a Parquet file begins and ends."""

# Field numbers of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData.
_NUM_ROWS, _ROW_GROUPS = 3, 4
_COLUMNS, _GROUP_OFFSET, _ORDINAL = 1, 5, 7
_COLUMN_OFFSET, _META = 2, 3
_PAGE_OFFSETS = (9, 10, 11)

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)

_Struct = dict[int, tuple[int, Any]]
"""Field number to type and value."""


class Part(msgspec.Struct, frozen=True):
    """One encoded Parquet file, taken apart.

    Attributes:
        pages: Everything between the magic number and the footer.
        footer: The footer; its positions count from the start of that file.
    """

    pages: bytes
    footer: bytes


def part_of(encoded: bytes) -> Part:
    """Take a Parquet file apart."""
    size = int.from_bytes(encoded[-8:-4], "little")
    end = len(encoded) - 8 - size
    return Part(encoded[len(MAGIC) : end], encoded[end:-8])


def joined(footers: Sequence[bytes], positions: Sequence[int]) -> bytes:
    """Return what follows the pages: one footer for all, its length and the magic number.

    Args:
        footers: Of each part, in order; at least one. All have one schema.
        positions: Where the pages of each part begin in the joined file.

    Raises:
        StoreError: A footer is damaged.
    """
    try:
        trees = [_Decoder(footer).struct() for footer in footers]
        for tree, position in zip(trees, positions, strict=True):
            _shift(tree, position - len(MAGIC))
    except (IndexError, KeyError, TypeError) as error:
        raise StoreError(
            "a stored Parquet footer is damaged",
            expected="what an earlier run stored",
            remedy="Start over with --fresh.",
        ) from error
    groups = [group for tree in trees for group in tree[_ROW_GROUPS][1][1]]
    for number, group in enumerate(groups):
        if _ORDINAL in group:
            group[_ORDINAL] = (group[_ORDINAL][0], number)
    whole = trees[0]
    whole[_NUM_ROWS] = (whole[_NUM_ROWS][0], sum(tree[_NUM_ROWS][1] for tree in trees))
    whole[_ROW_GROUPS] = (_LIST, (_STRUCT, groups))
    footer = _encoded_struct(whole)
    return footer + len(footer).to_bytes(4, "little") + MAGIC


def _shift(tree: _Struct, by: int) -> None:
    """Move every position in a footer."""
    for group in tree[_ROW_GROUPS][1][1]:
        _move(group, _GROUP_OFFSET, by)
        for column in group[_COLUMNS][1][1]:
            _move(column, _COLUMN_OFFSET, by)
            for field in _PAGE_OFFSETS:
                _move(column[_META][1], field, by)


def _move(struct: _Struct, field: int, by: int) -> None:
    if field in struct and struct[field][1] > 0:
        kind, value = struct[field]
        struct[field] = (kind, value + by)


class _Decoder:
    """Reads one struct of the compact protocol."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def struct(self) -> _Struct:
        fields: _Struct = {}
        number = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            number = number + step if step else self._zigzag()
            fields[number] = (kind, self._value(kind))
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind in _INTEGERS:
            return self._zigzag()
        if kind == _DOUBLE:
            return self._take(8)
        if kind == _BINARY:
            return self._take(self._varint())
        if kind in (_LIST, _SET):
            return self._list()
        if kind == _STRUCT:
            return self.struct()
        raise TypeError(kind)

    def _list(self) -> tuple[int, list[Any]]:
        head = self._byte()
        kind, count = head & 15, head >> 4
        if count == 15:
            count = self._varint()
        if kind in (_TRUE, _FALSE):
            return kind, [self._byte() for _ in range(count)]
        return kind, [self._value(kind) for _ in range(count)]

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _take(self, count: int) -> bytes:
        self._at += count
        return self._content[self._at - count : self._at]

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7

    def _zigzag(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)


def _encoded_struct(struct: _Struct) -> bytes:
    parts: list[bytes] = []
    before = 0
    for number, (kind, value) in struct.items():
        step = number - before
        is_short = 0 < step < 16
        parts.append(bytes([step << 4 | kind]) if is_short else bytes([kind]) + _zigzag(number))
        parts.append(_encoded(kind, value))
        before = number
    return b"".join(parts) + b"\0"


def _encoded(kind: int, value: Any) -> bytes:
    if kind in (_TRUE, _FALSE):
        return b""  # The kind is the value.
    if kind == _BYTE:
        return bytes([value])
    if kind in _INTEGERS:
        return _zigzag(value)
    if kind == _DOUBLE:
        return bytes(value)
    if kind == _BINARY:
        return _varint(len(value)) + bytes(value)
    if kind in (_LIST, _SET):
        return _encoded_list(*value)
    return _encoded_struct(value)


def _encoded_list(kind: int, values: list[Any]) -> bytes:
    count = len(values)
    head = bytes([count << 4 | kind]) if count < 15 else bytes([0xF0 | kind]) + _varint(count)
    if kind in (_TRUE, _FALSE):
        return head + bytes(values)
    return head + b"".join(_encoded(kind, value) for value in values)


def _zigzag(number: int) -> bytes:
    return _varint(number * 2 if number >= 0 else -number * 2 - 1)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)
