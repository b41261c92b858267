"""Reads frames and messages by ``docs/reference/protocol.md`` alone: no module of ours, no NumPy.

It exists to prove that the document suffices, and shows what another language needs.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

MASK = 2**64 - 1
_NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
_NUMBERS |= {0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_LENGTHS = {0xC4: (1, bytes), 0xC5: (2, bytes), 0xC6: (4, bytes)}
_LENGTHS |= {0xD9: (1, str), 0xDA: (2, str), 0xDB: (4, str)}
_LENGTHS |= {0xDC: (2, list), 0xDD: (4, list), 0xDE: (2, dict), 0xDF: (4, dict)}


def unpack(payload: bytes) -> Any:
    """Read one MessagePack value, or JSON if it starts with ``{``."""
    if payload[:1] == b"{":
        return json.loads(payload)
    value, end = _value(payload, 0)
    assert end == len(payload), "bytes behind the message"
    return value


def _value(raw: bytes, at: int) -> tuple[Any, int]:
    head, at = raw[at], at + 1
    if head <= 0x7F or head >= 0xE0:
        return (head if head <= 0x7F else head - 256), at
    if head in _CONSTANTS:
        return _CONSTANTS[head], at
    if head in _NUMBERS:
        size = struct.calcsize(_NUMBERS[head])
        return struct.unpack_from(_NUMBERS[head], raw, at)[0], at + size
    if head in _LENGTHS:
        width, kind = _LENGTHS[head]
        length, at = int.from_bytes(raw[at : at + width], "big"), at + width
    elif head >= 0xA0:
        kind, length = str, head & 0x1F
    else:
        kind, length = (list, head & 0xF) if head >= 0x90 else (dict, head & 0xF)
    return _container(raw, at, kind, length)


def _container(raw: bytes, at: int, kind: type, length: int) -> tuple[Any, int]:
    if kind in (bytes, str):
        assert at + length <= len(raw), "the message is cut"
        piece = raw[at : at + length]
        return (piece.decode() if kind is str else piece), at + length
    found = []
    for _ in range(length * (2 if kind is dict else 1)):
        one, at = _value(raw, at)
        found.append(one)
    return (dict(zip(found[::2], found[1::2], strict=True)) if kind is dict else found), at


def read_frame(payload: bytes) -> dict[str, Any]:
    """Return a frame's header, and of each column its texts, or its bytes in hex."""
    envelope = unpack(payload)
    assert envelope["v"] == 1, "another version"
    if payload[:1] == b"{":
        return _readable(envelope)
    frame = envelope["frame"]
    start = payload.index(b"\xa5frame") + 6
    inner = payload[start : _value(payload, start)[1]]
    assert zlib.crc32(inner) == envelope["crc32"], "checksum"
    packed = frame.pop("body")
    body = zlib.decompress(packed) if frame["columns"] else packed
    columns, at = {}, 0
    for name, dtype, shape, how, size, order, digits, width in frame["columns"]:
        piece, at = body[at : at + size], at + size
        values = _column(piece, _held(frame), dtype, shape, (how, order, digits, width))
        columns[name] = {"dtype": dtype, "shape": shape, **values}
    assert at == len(body), "the body has another size"
    return {**frame, "columns": columns}


def _held(frame: dict[str, Any]) -> int:
    """Count the rows in the columns: the multiples of ``every`` among the frame's numbers."""
    first, every = frame["seq0"], frame.get("every", 1)
    return len([seq for seq in range(first, first + frame["n"]) if seq % every == 0])


def _column(
    packed: bytes, n: int, dtype: str, shape: list[int], how: tuple[str, int, int, int]
) -> dict[str, Any]:
    name, order, digits, width = how
    axes = 1
    for axis in shape:
        axes *= axis
    itemsize = width if name in ("integers", "decimals", "texts") else int(dtype[2:])
    planes = packed[: n * axes * itemsize]
    words = [planes[i :: n * axes] for i in range(n * axes)]
    if name == "texts":
        texts = unpack(packed[n * axes * width :])
        return {"texts": [texts[int.from_bytes(word, "little")] for word in _by_row(words, n)]}
    if name == "raw":
        return {"hex": b"".join(_by_row(words, n)).hex()}
    folded = [int.from_bytes(word, "little") for word in words]
    numbers = [(value >> 1) ^ (-(value & 1) & MASK) for value in folded]
    runs = [_summed(numbers[i * n : i * n + n], order) for i in range(axes)]
    flat = [_packed(value, dtype, digits, name) for run in runs for value in run]
    return {"hex": b"".join(_by_row(flat, n)).hex()}


def _by_row(flat: list[Any], n: int) -> list[Any]:
    """Turn axis after axis into row after row."""
    return [flat[i] for row in range(n) for i in range(row, len(flat), n)]


def _summed(values: list[int], order: int) -> list[int]:
    for _ in range(order):
        total = 0
        values = [total := (total + value) & MASK for value in values]
    return values


def _packed(value: int, dtype: str, digits: int, how: str) -> bytes:
    if how == "decimals":
        signed = value - 2**64 if value >> 63 else value
        return struct.pack("<f" if dtype == "<f4" else "<d", signed / 10.0**digits)
    return value.to_bytes(8, "little")[: int(dtype[2:])]


def _readable(frame: dict[str, Any]) -> dict[str, Any]:
    frame.pop("v")
    columns = {}
    for name, column in frame["columns"].items():
        code = {"<f4": "<f", "<f8": "<d", "<i8": "<q", "|u1": "<B"}[column["dtype"]]
        raw = b"".join(struct.pack(code, float(row)) for row in column.pop("rows"))
        columns[name] = {**column, "hex": raw.hex()}
    return {**frame, "columns": columns}


def ack_checksum(ack: dict[str, Any]) -> int:
    """Return what an acknowledgement's ``crc32`` must be."""
    names = ("device", "incarnation", "epoch", "stream", "upto")
    fields = [*(str(ack[name]) for name in names), str(int(ack["must_resume"]))]
    return zlib.crc32("/".join(fields).encode())


def as_json(value: Any) -> Any:
    """Return a message with its bytes as Base64, as the vectors write it."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    return [as_json(one) for one in value] if isinstance(value, list) else value
