"""Reads and writes the fields of Protocol Buffers messages, without a schema.

Source: the Protocol Buffers encoding, https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["Span", "field", "number_field", "read_varint", "spans", "text_of"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


class Span(NamedTuple):
    """A field of a message: its number, its undecoded value, and all its bytes."""

    number: int
    value: Any
    raw: memoryview


def spans(message: memoryview) -> Iterator[Span]:
    """Yield every field of a message.

    Raises:
        ValueError: The bytes are no message.
    """
    place = 0
    while place < len(message):
        start = place
        key, place = read_varint(message, place)
        number, wire_type = key >> 3, key & 7
        value: Any
        if wire_type == _VARINT:
            value, place = read_varint(message, place)
        else:
            length, place = _length(message, place, wire_type)
            if place + length > len(message):
                raise ValueError("it ends in the middle of a field")
            value = message[place : place + length]
            place += length
        yield Span(number, value, message[start:place])


def read_varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return the number at ``place`` and the place after it.

    Raises:
        ValueError: It does not end.
    """
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("it ends in the middle of a number")
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError("a number is too long")


def text_of(value: memoryview) -> str:
    """Return a text field; bytes that are no UTF-8 are replaced."""
    return bytes(value).decode("utf-8", "replace")


def field(number: int, content: bytes) -> bytes:
    """Return a field that holds bytes, a text or a message."""
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def number_field(number: int, value: int) -> bytes:
    """Return a field that holds an integer, 0 to 2^63 - 1."""
    return _varint(number << 3 | _VARINT) + _varint(value)


def _length(message: memoryview, place: int, wire_type: int) -> tuple[int, int]:
    if wire_type == _BYTES:
        return read_varint(message, place)
    if wire_type not in _FIXED_BYTES:
        raise ValueError(f"a field has the unknown wire type {wire_type}")
    return _FIXED_BYTES[wire_type], place


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
