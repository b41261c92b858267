"""How the kernel packs samples, and how they become physical values."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import numpy as np

from edge_runtime.errors import ConfigError

__all__ = ["Element", "Layout", "ScanType", "parse_type", "scan_dtype"]

# ABI sysfs-bus-iio, "…_type": [be|le]:[f|s|u]bits/storagebits[Xrepeat][>>shift].
_TYPE = re.compile(r"(be|le):([fsu])(\d+)/(\d+)(?:X(\d+))?(?:>>(\d+))?")
_KINDS = {"s": "i", "u": "u", "f": "f"}
_STORAGE_BITS = (8, 16, 32, 64)


class ScanType(msgspec.Struct, frozen=True):
    """How one element lies in the buffer.

    Attributes:
        dtype: NumPy code of the storage, such as ``<i2``.
        bits: Valid bits.
        shift: Bits below them.
        repeat: Numbers in the element.
    """

    dtype: str
    bits: int
    shift: int = 0
    repeat: int = 1

    @property
    def size_bytes(self) -> int:
        """Length in the buffer, which is also its alignment."""
        return np.dtype(self.dtype).itemsize * self.repeat

    @property
    def rails(self) -> tuple[int, ...]:
        """Raw values at which a part has reached the end of its range.

        Zero is an honest answer of an unsigned converter.
        """
        kind = np.dtype(self.dtype).kind
        if kind == "f":
            return ()
        if kind == "u":
            return ((1 << self.bits) - 1,)
        return -(1 << self.bits - 1), (1 << self.bits - 1) - 1

    def raw(self, stored: np.ndarray) -> np.ndarray:
        """Return the valid bits of stored numbers, sign extended.

        Bits around them may hold anything: they are shifted out on both sides.
        """
        numbers = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        spare = 8 * numbers.dtype.itemsize - self.bits
        if spare == 0 or numbers.dtype.kind == "f":
            return numbers
        return (numbers << (spare - self.shift)) >> spare


def parse_type(text: str, where: str) -> ScanType:
    """Read an element's ``_type``.

    Raises:
        ConfigError: It is of a kind that no driver is known to use.
    """
    match = _TYPE.fullmatch(text)
    if match:
        order, kind, *numbers = match.groups()
        bits, storage, repeat, shift = (int(number or 0) for number in numbers)
        repeat = max(repeat, 1)
        if _is_known(kind, bits, storage, repeat, shift):
            code = f"{'<' if order == 'le' else '>'}{_KINDS[kind]}{storage // 8}"
            return ScanType(code, bits, shift, repeat)
    raise ConfigError(
        f"the element has the type {text!r}",
        where=where,
        expected="a type such as le:s12/16>>4 with 8, 16, 32 or 64 bits of storage",
        remedy="Leave the element out, or read it with capture: poll.",
    )


def _is_known(kind: str, bits: int, storage: int, repeat: int, shift: int) -> bool:
    # The kernel's padding is defined for powers of two alone.
    is_even = storage in _STORAGE_BITS and repeat & (repeat - 1) == 0
    is_whole = kind != "f" or (bits == storage > 8 and shift == 0)
    return is_even and is_whole and 0 < bits <= storage - shift


def scan_dtype(types: Sequence[tuple[str, ScanType]]) -> np.dtype[np.void]:
    """Return the layout of one scan of the named elements, in the order of their index.

    Each element is aligned to its own length, and the whole to the longest one.
    Source: the kernel's iio_compute_scan_bytes.
    """
    offsets, end = [], 0
    for _, kind in types:
        offsets.append(_aligned(end, kind.size_bytes))
        end = offsets[-1] + kind.size_bytes
    return np.dtype(
        {
            "names": [name for name, _ in types],
            "formats": [(kind.dtype, (kind.repeat,)) for _, kind in types],
            "offsets": offsets,
            "itemsize": _aligned(end, max(kind.size_bytes for _, kind in types)),
        }
    )


class Element(msgspec.Struct, frozen=True):
    """Where a channel lies in a scan, and what its numbers mean.

    Attributes:
        name: Element, as in the kernel's file names without ``in_``.
        which: Which number of a repeated one.
        type: How it is stored.
        scale: Physical value of one step, in the kernel's unit.
        offset: Added to the raw value before scaling.
    """

    name: str
    which: int
    type: ScanType
    scale: float = 1.0
    offset: float = 0.0


class Layout:
    """Decodes whole blocks of scans.

    Args:
        elements: One for each channel, in the model's order.
        types: Every enabled element with its type, in the order of their index.
    """

    def __init__(self, elements: Sequence[Element], types: Sequence[tuple[str, ScanType]]) -> None:
        self.dtype = scan_dtype(types)
        self.names = [element.name for element in elements]
        kinds = dict.fromkeys(element.type for element in elements)
        self._groups = [_Group(kind, elements) for kind in kinds]

    def decode(self, scans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return physical values and which samples were at the end of the range.

        Args:
            scans: Shape (n,), dtype ``self.dtype``.

        Returns:
            Shape (n, channels), float32, in the kernel's units; and shape (n,), bool.
        """
        values = np.empty((len(scans), len(self.names)), np.float32)
        at_rail = np.zeros(len(scans), bool)
        for group in self._groups:
            group.decode(scans, values, at_rail)
        return values, at_rail


class _Group:
    """Channels of one type, decoded together: most parts have one, and few calls cost less."""

    def __init__(self, kind: ScanType, elements: Sequence[Element]) -> None:
        members = [(place, one) for place, one in enumerate(elements) if one.type == kind]
        self._type = kind
        self._stored = np.dtype(kind.dtype).newbyteorder("=")
        self._places = [(one.name, one.which) for _, one in members]
        self._columns = [column for column, _ in members]
        self._scales = np.array([one.scale for _, one in members])
        self._offsets = np.array([one.offset for _, one in members])

    def decode(self, scans: np.ndarray, values: np.ndarray, at_rail: np.ndarray) -> None:
        """Write this group's columns, and mark samples at the end of the range.

        Value = (raw + offset) · scale; ABI sysfs-bus-iio, "…_raw".
        """
        stored = np.empty((len(scans), len(self._places)), self._stored)
        for column, (name, which) in enumerate(self._places):
            stored[:, column] = scans[name][:, which]
        raw = self._type.raw(stored)
        for rail in self._type.rails:
            hits = raw == rail
            if hits.any():
                at_rail |= hits.any(axis=1)
        values[:, self._columns] = (raw + self._offsets) * self._scales


def _aligned(position: int, size_bytes: int) -> int:
    return -(-position // size_bytes) * size_bytes
