"""MQTT packets in a stream of bytes, known by their fixed header alone.

Source: MQTT 5.0, sections 2.1 and 3.3 (the same in 3.1.1): a byte with type and flags,
one to four bytes with the remaining length, and for PUBLISH the topic first.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Splitter", "is_publish", "tail_of", "truncated"]

_PUBLISH = 3
_LENGTH_BYTES = 4


class Splitter:
    """Cuts one direction of a connection into packets, whatever pieces it comes in.

    What is no MQTT is passed on as it comes: a length of more than four bytes ends
    the cutting for good.
    """

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._is_lost = False

    def push(self, piece: bytes) -> Iterator[bytes]:
        """Take bytes, and yield the packets that are whole now."""
        self._waiting += piece
        while self._waiting and (size := self._next_size()):
            yield bytes(self._waiting[:size])
            del self._waiting[:size]

    def _next_size(self) -> int:
        """Return the size of the next packet; 0 as long as it is not whole."""
        if self._is_lost:
            return len(self._waiting)
        length, used = _remaining(self._waiting)
        if used > _LENGTH_BYTES:
            self._is_lost = True
            return len(self._waiting)
        size = 1 + used + length
        return size if used and size <= len(self._waiting) else 0


def is_publish(packet: bytes) -> bool:
    """Whether it carries a message."""
    return packet[0] >> 4 == _PUBLISH


def tail_of(packet: bytes) -> int:
    """Return where the topic of a PUBLISH ends: what follows is id, properties, payload."""
    _, used = _remaining(packet)
    head = 1 + used
    return head + 2 + int.from_bytes(packet[head : head + 2], "big")


def truncated(packet: bytes, left: int) -> bytes:
    """Return a PUBLISH without its last bytes, as a well-formed packet.

    Args:
        packet: A whole PUBLISH.
        left: How many of the bytes behind its topic are left.
    """
    _, used = _remaining(packet)
    body = packet[1 + used : tail_of(packet) + left]
    return packet[:1] + _encoded(len(body)) + body


def _remaining(packet: bytes | bytearray) -> tuple[int, int]:
    """Return the remaining length and its bytes: 0 while incomplete, 5 if it is none."""
    length = 0
    for used, byte in enumerate(packet[1 : 1 + _LENGTH_BYTES], start=1):
        length |= (byte & 0x7F) << 7 * (used - 1)
        if byte < 0x80:
            return length, used
    is_whole = len(packet) > _LENGTH_BYTES
    return 0, _LENGTH_BYTES + 1 if is_whole else 0


def _encoded(length: int) -> bytes:
    digits = bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | 0x80 * (length > 0))
        if not length:
            return bytes(digits)
