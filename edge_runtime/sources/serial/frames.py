"""Messages that are binary frames of one length."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from edge_runtime.sources.live import Health
from edge_runtime.sources.serial.checksums import CHECKSUMS, Sum
from edge_runtime.sources.serial.config import Binary

__all__ = ["FrameDecoder", "dtype_of"]

_ITEM = re.compile(r"(\d*)([a-zA-Z])")
# Notation of Python's `struct` with standard sizes → NumPy.
_CODES = {
    **{"b": "i1", "B": "u1", "h": "i2", "H": "u2", "i": "i4", "I": "u4", "l": "i4", "L": "u4"},
    **{"q": "i8", "Q": "u8", "e": "f2", "f": "f4", "d": "f8"},
}


class FrameDecoder:
    """Finds frames in bytes and reads their numbers; keeps what is not whole yet.

    Frames that follow each other are checked and read all at once. Without a
    checksum, a frame counts once the sync bytes of the next one follow it: where a
    byte was lost, its numbers would be shifted.

    Args:
        config: What a frame looks like.
        names: The wanted fields.
        health: Told about bytes and frames that are wrong.
    """

    def __init__(self, config: Binary, names: Sequence[str], health: Health) -> None:
        self._sync = bytes.fromhex(config.sync)
        self._dtype = dtype_of(config.layout)
        self._columns = [f"f{config.fields.index(name)}" for name in names]
        self._sum = CHECKSUMS.get(config.checksum)
        self._order = "<" if config.order == "little" else ">"
        self._covered = 0 if config.covers == "frame" else len(self._sync)
        self._end = len(self._sync) + self._dtype.itemsize
        self._size = self._end + (self._sum.size_bytes if self._sum else 0)
        # What must follow a frame to prove it.
        self._proof = 0 if self._sum else len(self._sync)
        self._health = health
        self._rest = b""

    def push(self, received: bytes) -> np.ndarray:
        """Return the numbers of every frame that is now whole, shape (n, columns), float64."""
        self._rest += received
        found = []
        while len(self._rest) >= self._size + self._proof:
            rows = self._rows()
            good = self._count_good(rows)
            if good:
                found.append(self._numbers(rows[:good]))
                self._rest = self._rest[good * self._size :]
            else:
                self._resync()
        return np.concatenate(found) if found else np.empty((0, len(self._columns)))

    def _rows(self) -> np.ndarray:
        """Return what would be frames if the front is one, shape (n, size), uint8."""
        whole = (len(self._rest) - self._proof) // self._size
        return np.frombuffer(self._rest, np.uint8, whole * self._size).reshape(whole, -1)

    def _count_good(self, rows: np.ndarray) -> int:
        """Return how many good frames stand at the front."""
        sync = np.frombuffer(self._sync, np.uint8)
        is_good = (rows[:, : len(sync)] == sync).all(axis=1)
        is_good &= self._agrees(rows, self._sum) if self._sum else self._is_followed(is_good)
        return len(rows) if is_good.all() else int(is_good.argmin())

    def _is_followed(self, has_sync: np.ndarray) -> np.ndarray:
        """Return which frames have sync bytes behind them."""
        return np.append(
            has_sync[1:], self._rest.startswith(self._sync, len(has_sync) * self._size)
        )

    def _agrees(self, rows: np.ndarray, checksum: Sum) -> np.ndarray:
        """Return which frames have the checksum that they tell."""
        told = np.ascontiguousarray(rows[:, self._end :])
        told = told.view(f"{self._order}u{checksum.size_bytes}")[:, 0]
        agrees: np.ndarray = checksum.of(rows[:, self._covered : self._end]) == told
        return agrees

    def _resync(self) -> None:
        """Leave what stands at the front, count it, and go to the next sync bytes."""
        is_frame = self._sum is not None and self._rest.startswith(self._sync)
        self._health.fault("checksum" if is_frame else "framing")
        position = self._rest.find(self._sync, 1)
        # The last bytes may be the start of sync bytes.
        self._rest = self._rest[
            position if position > 0 else len(self._rest) - len(self._sync) + 1 :
        ]

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        packed = np.ascontiguousarray(rows[:, len(self._sync) : self._end])
        numbers = packed.view(self._dtype)[:, 0]
        return np.stack([numbers[name].astype(np.float64) for name in self._columns], axis=1)


def dtype_of(layout: str) -> np.dtype[np.void]:
    """Return the NumPy type of a `struct` layout, its numbers named f0 and so on."""
    order, formats, offsets, end = layout[0], [], [], 0
    for repeat, code in _ITEM.findall(layout[1:]):
        times = int(repeat or 1)
        if code == "x":
            end += times
            continue
        size_bytes = np.dtype(_CODES[code]).itemsize
        formats += [order + _CODES[code]] * times
        offsets += [end + size_bytes * number for number in range(times)]
        end += size_bytes * times
    names = [f"f{number}" for number in range(len(formats))]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": end})
