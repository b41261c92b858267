"""Lost messages, told by a number in each of them."""

from __future__ import annotations

import numpy as np

from edge_runtime.sources.live import Health
from edge_runtime.sources.serial.config import SequenceField

__all__ = ["SequenceCheck"]

# What is farther away than this is no gap: the sensor has started over.
_MOST_GAP_S = 60.0


class SequenceCheck:
    """Compares the numbers of messages; used by one thread.

    Args:
        config: What the number is.
        rate_hz: Messages a second.
        health: Told about repeated, unnumbered and started-over messages.
    """

    def __init__(self, config: SequenceField, rate_hz: float, health: Health) -> None:
        self._config = config
        self._health = health
        half = config.modulus / config.step / 2
        self._most_lost = min(half, _MOST_GAP_S * rate_hz)
        self._last: float | None = None

    def check(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which messages are new, and how many are missing before each of these.

        Args:
            numbers: Shape (n,), float64, in the order of arrival.

        Returns:
            Shape (n,), bool; and shape (new messages,), int64.
        """
        modulus, step = self._config.modulus, self._config.step
        is_valid = (numbers >= 0) & (numbers < modulus)
        self._count("unparsable", ~is_valid)
        valid = numbers[is_valid]
        before = valid[:1] - step if self._last is None else np.array([self._last])
        growth = np.diff(valid, prepend=before) % modulus
        is_new = is_valid.copy()
        is_new[is_valid] = growth > 0
        self._count("repeated", growth == 0)
        lost = np.maximum(np.rint(growth[growth > 0] / step) - 1, 0)
        self._count("restarted", lost > self._most_lost)
        lost[lost > self._most_lost] = 0
        self._last = float(valid[-1]) if len(valid) else self._last
        return is_new, lost.astype(np.int64)

    def _count(self, reason: str, which: np.ndarray) -> None:
        count = int(np.count_nonzero(which))
        if count:
            self._health.fault(reason, count)
