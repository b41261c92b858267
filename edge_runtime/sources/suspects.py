"""What live sources say about single readings: at the end of the scale, standing still."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from edge_runtime.errors import ConfigError
from edge_runtime.quality import Quality, marked
from edge_runtime.registry import closest
from edge_runtime.sources.live import Health

__all__ = ["Frozen", "FullScale", "Patience", "Scales", "check_scales", "note_suspects"]

# Fewer readings than this are no proof that a value stands still.
_LEAST_REPEATS = 3

Patience = Annotated[float, Meta(gt=0)] | None
"""Seconds for which the same readings are no fault; None where they never are."""

Scales = dict[str, tuple[float, float]]
"""Least and largest number of a channel; at either the true value may lie beyond."""


class Frozen:
    """Finds readings that have repeated those before them for too long.

    A living sensor is never still: its noise is larger than its smallest step.

    Args:
        patience_s: How long the same readings are no fault; None finds none.
        rate_hz: Readings a second.
    """

    def __init__(self, patience_s: float | None, rate_hz: float) -> None:
        self._least = math.inf if patience_s is None else max(_LEAST_REPEATS, patience_s * rate_hz)
        self._last: np.ndarray | None = None
        self._repeats = 0

    def find(self, raw: np.ndarray) -> np.ndarray | None:
        """Return which of the next readings stand still, shape (n,); None if none does.

        Args:
            raw: As the part gave them, all channels, shape (n, values), n at least 1.
        """
        if self._least == math.inf or self._moves_on(raw):
            return None
        before = raw[:1] if self._last is None else self._last
        if self._last is None:
            self._repeats = -1
        same = (raw == np.concatenate((before, raw[:-1]))).all(axis=1)
        positions = np.arange(len(raw))
        changed_at = np.maximum.accumulate(np.where(same, -1 - self._repeats, positions))
        repeats = positions - changed_at
        # A copy, not a view: the block behind it is somebody else's.
        self._last, self._repeats = raw[-1:].copy(), int(repeats[-1])
        found: np.ndarray = repeats >= self._least
        return found

    def _moves_on(self, raw: np.ndarray) -> bool:
        """Take a block that is too short for a fault and ends with a new value: nearly all are."""
        if self._repeats + len(raw) >= self._least or len(raw) < 2 or (raw[-1] == raw[-2]).all():
            return False
        self._last, self._repeats = raw[-1:].copy(), 0
        return True


class FullScale:
    """Finds readings at the end of a scale that is known from the configuration.

    Args:
        scales: Least and largest number by channel.
        names: Channels in order.
    """

    def __init__(self, scales: Mapping[str, tuple[float, float]], names: Sequence[str]) -> None:
        ends = [scales.get(name, (-math.inf, math.inf)) for name in names]
        self._low, self._high = np.array(ends).T
        self._is_known = any(name in scales for name in names)

    def find(self, samples: np.ndarray) -> np.ndarray | None:
        """Return which samples have a channel at its end, shape (n,); None if none can."""
        if not self._is_known:
            return None
        at_end = (samples <= self._low) | (samples >= self._high)
        # What has no end is never at it, not even where it is infinite.
        found: np.ndarray = (at_end & np.isfinite(samples)).any(axis=1)
        return found


def check_scales(scales: Mapping[str, tuple[float, float]], known: Sequence[str]) -> None:
    """Check that ends are in order, and of channels that there are.

    Raises:
        ConfigError: They are not.
    """
    for name, (low, high) in scales.items():
        if name not in known:
            raise ConfigError(
                f"full_scale names {name!r}",
                expected=f"one of {', '.join(known)}",
                remedy=closest(name, tuple(known)),
            )
        if not low < high:
            raise ConfigError(
                f"full_scale of {name!r} is {low:g} to {high:g}",
                expected="the least number first, then a larger one",
                remedy="Take both from the data sheet, in the unit of the messages.",
            )


def note_suspects(
    health: Health,
    count: int,
    *,
    saturated: np.ndarray | None = None,
    frozen: np.ndarray | None = None,
    lost: int | np.ndarray = 0,
) -> np.ndarray | None:
    """Count suspect readings by reason, and return the masks of a block; None without any.

    Args:
        health: Told how many there are.
        count: Readings in the block, at least 1.
        saturated: Which are at the end of their scale, shape (count,).
        frozen: Which stand still, shape (count,).
        lost: How many are missing before the first, or before each.
    """
    flags = []
    for holds, flag, reason in (
        (saturated, Quality.SATURATED, "saturated"),
        (frozen, Quality.FROZEN, "frozen"),
    ):
        if holds is not None and holds.any():
            health.fault(reason, int(np.count_nonzero(holds)))
            flags.append((holds, flag))
    if np.any(lost):
        gaps = lost if isinstance(lost, np.ndarray) else np.arange(count) == 0
        flags.append((gaps != 0, Quality.LOST_BEFORE))
    return marked(*flags)
