"""Who is in a room, and when they open its window."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from msgspec import Meta

from edge_simulator.signals.noise import Noise
from edge_simulator.signals.part import Part

__all__ = ["People", "PeopleConfig"]

_WORKING_DAYS, _WEEK_DAYS = 5, 7
_COME_S, _GO_S, _SPREAD_S = 8 * 3600.0, 17 * 3600.0, 3600.0
_MOST_AIRINGS = 24


class PeopleConfig(Part, frozen=True, kw_only=True):
    """Who is in the room on the first five days of seven.

    Attributes:
        count: How many, from about 8 to about 17 o'clock.
        airings: How often a day they open the window.
        airing_s: For how long.
    """

    count: Annotated[int, Meta(ge=0, le=1000)] = 2
    airings: Annotated[int, Meta(ge=0, le=_MOST_AIRINGS)] = 3
    airing_s: Annotated[float, Meta(ge=0)] = 600.0


class People:
    """The habits of some people; every day is drawn by its number.

    Args:
        config: Who they are.
        seed: 0 to 2**64 - 1.
    """

    def __init__(self, config: PeopleConfig, seed: int) -> None:
        self._config = config
        self._noise = Noise(seed, "people", columns=2 + _MOST_AIRINGS)

    def present(self, day: int, time_s: np.ndarray) -> np.ndarray:
        """Return how many are there at times of one day, s since its midnight; int64."""
        come, go = self._hours(day)
        return self._config.count * ((come <= time_s) & (time_s < go)).astype(np.int64)

    def is_airing(self, day: int, time_s: np.ndarray) -> np.ndarray:
        """Return whether the window is open at times of one day, s since its midnight."""
        come, go = self._hours(day)
        drawn = self._noise.uniform(day, 1)[0, 2 : 2 + self._config.airings]
        # Whoever opens the window closes it before going home.
        opened = come + drawn * max(go - come - self._config.airing_s, 0)
        since = time_s[:, None] - opened
        is_near = (since >= 0) & (since < self._config.airing_s)
        is_open: np.ndarray = np.logical_or.reduce(is_near, axis=1)
        return is_open & (self.present(day, time_s) > 0)

    def _hours(self, day: int) -> tuple[float, float]:
        """Return from when to when they are there."""
        if day % _WEEK_DAYS >= _WORKING_DAYS:
            return 0.0, 0.0
        early, late = self._noise.uniform(day, 1)[0, :2] - 0.5
        return _COME_S + early * _SPREAD_S, _GO_S + late * _SPREAD_S
