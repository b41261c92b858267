"""Noise by number: what is drawn depends on the place alone, never on what was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np

from edge_simulator.signals.blocks import BLOCK, Blocks

__all__ = ["Noise", "Wander"]

# Each block has a range of counters of its own, far more than it can use up.
_BLOCK_SHIFT = 128


class Noise:
    """Endless rows of independent random numbers from a counter-based generator.

    The generator is Philox 4x64 (Salmon et al. 2011, "Parallel random numbers: as easy
    as 1, 2, 3"): its key is the seed and the purpose, its counter the block's number.

    Args:
        seed: 0 to 2**64 - 1.
        purpose: Parts noises of one seed from each other.
        columns: Numbers in a row.
    """

    def __init__(self, seed: int, purpose: str, *, columns: int = 1) -> None:
        digest = hashlib.sha256(purpose.encode()).digest()
        self._key = seed << 64 | int.from_bytes(digest[:8], "little")
        self._shape = (BLOCK, columns)
        self._normal = Blocks(self._normal_block)
        self._uniform = Blocks(self._uniform_block)

    def normal(self, first: int, count: int) -> np.ndarray:
        """Return rows of mean 0 and standard deviation 1, shape (count, columns), float32."""
        return self._normal.read(first, count)

    def uniform(self, first: int, count: int) -> np.ndarray:
        """Return rows in [0, 1), shape (count, columns), float64."""
        return self._uniform.read(first, count)

    def _normal_block(self, number: int) -> np.ndarray:
        return self._generator(number).standard_normal(self._shape, np.float32)

    def _uniform_block(self, number: int) -> np.ndarray:
        return self._generator(number).random(self._shape)

    def _generator(self, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self._key, counter=number << _BLOCK_SHIFT))


class Wander:
    """A random function of time, as slow as the weather; mean 0, standard deviation 1.

    Independent normal values stand ``period_s`` apart; cosines lead from each to the next.

    Args:
        seed: As for `Noise`.
        purpose: As for `Noise`.
        period_s: From one value to the next.
    """

    def __init__(self, seed: int, purpose: str, *, period_s: float) -> None:
        self._noise = Noise(seed, purpose)
        self._period_s = period_s

    def at(self, time_s: np.ndarray) -> np.ndarray:
        """Return its values at times that grow, at least 0; same shape, float64."""
        place = time_s / self._period_s
        knot = np.floor(place).astype(np.int64)
        values = self._noise.normal(int(knot[0]), int(knot[-1] - knot[0]) + 2)[:, 0]
        weight = (1 - np.cos(np.pi * (place - knot))) / 2
        before, after = values[knot - knot[0]], values[knot - knot[0] + 1]
        # The mean of two independent values spreads less than each of them.
        spread = np.hypot(1 - weight, weight)
        between: np.ndarray = (before * (1 - weight) + after * weight) / spread
        return between
