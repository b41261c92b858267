"""Checksums of many frames at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

__all__ = ["CHECKSUMS", "Sum"]


class Sum(NamedTuple):
    """A checksum.

    Attributes:
        size_bytes: Its length in a frame.
        of: Maps bytes, shape (n, length), to checksums, shape (n,).
    """

    size_bytes: int
    of: Callable[[np.ndarray], np.ndarray]


def _sum8(rows: np.ndarray) -> np.ndarray:
    sums: np.ndarray = rows.sum(axis=1, dtype=np.uint8)
    return sums


def _xor8(rows: np.ndarray) -> np.ndarray:
    sums: np.ndarray = np.bitwise_xor.reduce(rows, axis=1)
    return sums


def _modbus(rows: np.ndarray) -> np.ndarray:
    """CRC-16/MODBUS: 0x8005 reflected, from 0xFFFF.

    Source: MODBUS over Serial Line V1.02, 6.2.2.
    """
    table = _table(0xA001, is_reflected=True)
    crc = np.full(len(rows), 0xFFFF, np.uint16)
    for column in rows.T:
        crc = (crc >> 8) ^ table[(crc ^ column) & 0xFF]
    return crc


def _ccitt(rows: np.ndarray) -> np.ndarray:
    """CRC-16/CCITT-FALSE, also IBM-3740: 0x1021, from 0xFFFF."""
    table = _table(0x1021, is_reflected=False)
    crc = np.full(len(rows), 0xFFFF, np.uint16)
    for column in rows.T:
        crc = (crc << 8) ^ table[(crc >> 8) ^ column]
    return crc


@cache
def _table(polynomial: int, *, is_reflected: bool) -> np.ndarray:
    """Return the remainder of every byte, shape (256,), uint16."""
    rest: np.ndarray = np.arange(256, dtype=np.uint16)
    if is_reflected:
        for _ in range(8):
            rest = (rest >> 1) ^ np.where(rest & 1, polynomial, 0).astype(np.uint16)
        return rest
    rest <<= 8
    for _ in range(8):
        rest = (rest << 1) ^ np.where(rest & 0x8000, polynomial, 0).astype(np.uint16)
    return rest


CHECKSUMS: Mapping[str, Sum] = MappingProxyType(
    {
        "sum8": Sum(1, _sum8),
        "xor8": Sum(1, _xor8),
        "crc16-modbus": Sum(2, _modbus),
        "crc16-ccitt": Sum(2, _ccitt),
    }
)
