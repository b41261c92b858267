"""Arrays that are made in whole blocks, so that no chunking can change a byte.

Vectorised functions may round differently in the last places of an array. Whoever
asks for whatever rows, they are always computed in the same block and then cut out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

__all__ = ["BLOCK", "Blocks", "check_range"]

BLOCK = 4096
"""Rows of a block."""

_KEPT = 4


class Blocks:
    """Rows of an endless array, made a block at a time; the last few blocks are kept.

    Args:
        make: Returns block ``number``: rows ``number * BLOCK`` on, shape (BLOCK, …).
            It must be a pure function.
    """

    def __init__(self, make: Callable[[int], np.ndarray]) -> None:
        def frozen(number: int) -> np.ndarray:
            block = make(number)
            block.flags.writeable = False
            return block

        self._block = functools.lru_cache(_KEPT)(frozen)

    def read(self, first: int, count: int) -> np.ndarray:
        """Return rows ``first`` to ``first + count``, read-only.

        Raises:
            ValueError: ``first`` or ``count`` is negative.
        """
        check_range(first, count)
        numbers = range(first // BLOCK, max(first, first + count - 1) // BLOCK + 1)
        parts = [self._part(number, first, first + count) for number in numbers]
        if len(parts) == 1:
            return parts[0]
        joined = np.concatenate(parts)
        joined.flags.writeable = False
        return joined

    def _part(self, number: int, first: int, last: int) -> np.ndarray:
        begin = number * BLOCK
        return self._block(number)[max(first - begin, 0) : max(last - begin, 0)]


def check_range(first: int, count: int, length: int | None = None) -> None:
    """Check that ``count`` rows from ``first`` on exist.

    Raises:
        ValueError: They begin before 0 or end after ``length``.
    """
    if first < 0 or count < 0 or (length is not None and first + count > length):
        end = "without end" if length is None else f"to {length}"
        raise ValueError(f"rows {first} to {first + count} of a signal from 0 {end}")
