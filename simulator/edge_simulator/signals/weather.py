"""Outside: temperature by season and hour, moisture and pressure."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from msgspec import Meta

from edge_simulator.signals.noise import Wander
from edge_simulator.signals.part import NotNegative, Part

__all__ = ["DAY_S", "Weather", "WeatherConfig", "saturation_g_m3"]

DAY_S = 86_400
"""Seconds of a day."""


_YEAR_DAYS = 365.25
# The coldest day comes about three weeks after the solstice, the warmest hour at three.
_COLDEST_DAY, _WARMEST_S = 15.0, 15 * 3600.0
_TURN = 2 * np.pi


class WeatherConfig(Part, frozen=True, kw_only=True):
    """The weather outside; defaults are those of a mild climate.

    Attributes:
        mean_celsius: Mean of the year.
        season_celsius: From there to the mean of the warmest day.
        day_celsius: From a day's mean to its warmest hour.
        wander_celsius: Standard deviation of what comes and goes within days.
        humidity_percent: Relative humidity.
        pressure_hpa: Mean pressure.
        wander_hpa: Standard deviation of what comes and goes within days.
    """

    mean_celsius: float = 10.0
    season_celsius: NotNegative = 9.0
    day_celsius: NotNegative = 4.0
    wander_celsius: NotNegative = 2.0
    humidity_percent: Annotated[float, Meta(ge=0, le=100)] = 75.0
    pressure_hpa: Annotated[float, Meta(gt=0)] = 1013.0
    wander_hpa: NotNegative = 8.0


class Weather:
    """The weather at any time; times are seconds since a midnight, and must grow.

    Args:
        config: The climate.
        day_of_year: Day that begins at that midnight, 0 for the first of January.
        seed: 0 to 2**64 - 1.
    """

    def __init__(self, config: WeatherConfig, *, day_of_year: int, seed: int) -> None:
        self._config = config
        self._day_of_year = day_of_year
        self._warmth = Wander(seed, "outside temperature", period_s=DAY_S / 2)
        self._pressure = Wander(seed, "pressure", period_s=DAY_S)

    def celsius(self, time_s: np.ndarray) -> np.ndarray:
        """Return the temperature, °C."""
        config = self._config
        days = self._day_of_year + time_s / DAY_S - _COLDEST_DAY
        season = -config.season_celsius * np.cos(_TURN * days / _YEAR_DAYS)
        hour = config.day_celsius * np.cos(_TURN * (time_s - _WARMEST_S) / DAY_S)
        wandering = config.wander_celsius * self._warmth.at(time_s)
        return config.mean_celsius + season + hour + wandering

    def vapour_g_m3(self, celsius: np.ndarray) -> np.ndarray:
        """Return the water in the air at these temperatures, g/m³."""
        return self._config.humidity_percent / 100 * saturation_g_m3(celsius)

    def pressure_hpa(self, time_s: np.ndarray) -> np.ndarray:
        """Return the pressure, hPa."""
        return self._config.pressure_hpa + self._config.wander_hpa * self._pressure.at(time_s)


def saturation_g_m3(celsius: np.ndarray) -> np.ndarray:
    """Return the water that air can hold above a surface of water, g/m³.

    e = 6.112 hPa exp(17.62 t / (243.12 °C + t)), and w = 216.7 g K / (m³ hPa) e / T.
    Source: WMO-No. 8, annex 4.B (Magnus); the ideal gas law with 461.5 J/(kg K).
    """
    pressure_hpa = 6.112 * np.exp(17.62 * celsius / (243.12 + celsius))
    vapour: np.ndarray = 216.7 * pressure_hpa / (celsius + 273.15)
    return vapour
