"""What the driver of a simulated sensor would say about its readings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edge_runtime.quality import Quality, marked
from edge_simulator.signals.faults import Saturation, SensorFault, Stuck
from edge_simulator.signals.interval import Stretch, active, stretches
from edge_simulator.signals.rotating import RotatingConfig
from edge_simulator.signals.signal import Signal

__all__ = ["Suspects"]

# As the drivers of real parts do it.
_LEAST_REPEATS = 3


class _Standing(NamedTuple):
    """When some channels repeat themselves."""

    where: list[Stretch]
    columns: list[int]


class _Ends(NamedTuple):
    """Readings at which some channels are at the end of their scale, while that is so."""

    where: list[Stretch]
    columns: list[int]
    ends: tuple[np.float32, np.float32]


class Suspects:
    """Marks samples of a signal: a pure function of their numbers, in any chunks.

    Only what a fault or a converter can have caused is looked at: a recording may well
    stand still.

    Args:
        signal: As the sensor gives it, faults included.
        config: Of the signal without faults.
        faults: What is wrong with the sensor.
        columns: Which of its channels are delivered.
        patience_s: How long the same readings are no fault; None never marks them.
    """

    def __init__(
        self,
        signal: Signal,
        config: object,
        faults: Sequence[SensorFault],
        columns: Sequence[int],
        *,
        patience_s: float | None,
    ) -> None:
        self._signal = signal
        self._columns = list(columns)
        self._least = math.ceil(max(_LEAST_REPEATS, (patience_s or 0) * signal.rate_hz))
        self._standing = [
            _Standing(stretches(fault.active, signal.rate_hz), self._places(fault.channels))
            for fault in faults
            if isinstance(fault, Stuck) and patience_s is not None
        ]
        self._ends = [
            self._clipped(fault, signal.rate_hz)
            for fault in faults
            if isinstance(fault, Saturation)
        ] + self._converter(config)

    def masks(self, first: int, samples: np.ndarray, present: np.ndarray) -> np.ndarray | None:
        """Return what is suspect about samples from ``first`` on; None if nothing is.

        Args:
            first: Number of the first one.
            samples: All channels, shape (n, channels).
            present: Which are delivered, shape (n + 1,): the one before first.
        """
        return marked(
            (self._saturated(first, samples), Quality.SATURATED),
            (self._frozen(first, samples), Quality.FROZEN),
            (present[1:] & ~present[:-1], Quality.LOST_BEFORE),
        )

    def _saturated(self, first: int, samples: np.ndarray) -> np.ndarray:
        found = np.zeros(len(samples), np.bool_)
        for where, columns, (low, high) in self._ends:
            for begin, end, _ in active(where, first, len(samples)):
                part = samples[begin - first : end - first, columns]
                found[begin - first : end - first] |= ((part == low) | (part == high)).any(axis=1)
        return found

    def _frozen(self, first: int, samples: np.ndarray) -> np.ndarray:
        """Find what has repeated itself for long enough on all channels, and still does."""
        stands = np.zeros((len(samples), len(self._signal.channels)), np.bool_)
        for where, columns in self._standing:
            for begin, end, began in active(where, first, len(samples)):
                # The fault repeats the sample before it; the first of all repeats itself.
                since = max(begin, max(began - 1, 0) + self._least)
                stands[since - first : max(since, end) - first, columns] = True
        found: np.ndarray = np.logical_and.reduce(stands[:, self._columns], axis=1)
        if found.any():
            found &= self._repeats(first, samples)
        return found

    def _repeats(self, first: int, samples: np.ndarray) -> np.ndarray:
        """Return which samples equal the one before: another fault may have moved them."""
        before = self._signal.read(max(first - 1, 0), 1)
        earlier = np.concatenate((before, samples[:-1]))[:, self._columns]
        same: np.ndarray = (samples[:, self._columns] == earlier).all(axis=1)
        return same

    # --- what there is to look at ---------------------------------------------------

    def _places(self, names: Sequence[str] | None) -> list[int]:
        known = [channel.name for channel in self._signal.channels]
        return [known.index(name) for name in (known if names is None else names)]

    def _clipped(self, fault: Saturation, rate_hz: float) -> _Ends:
        ends = np.float32(-fault.full_scale), np.float32(fault.full_scale)
        return _Ends(stretches(fault.active, rate_hz), self._delivered(fault.channels), ends)

    def _converter(self, config: object) -> list[_Ends]:
        if not isinstance(config, RotatingConfig) or config.adc is None:
            return []
        adc = config.adc
        ends = adc.convert(np.array([-math.inf, math.inf]))
        columns = self._delivered([mount.name for mount in config.mounts])
        return [_Ends([(0, None)], columns, (ends[0], ends[1]))]

    def _delivered(self, names: Sequence[str] | None) -> list[int]:
        return [place for place in self._places(names) if place in self._columns]
