"""A heated room as a sensor for temperature, humidity and pressure sees it."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from msgspec import Meta

from edge_runtime.spec import ChannelSpec
from edge_simulator.signals.blocks import BLOCK, Blocks
from edge_simulator.signals.climate import STEP_S, AirConfig, Climate, RoomFault
from edge_simulator.signals.interval import indicator, stretches
from edge_simulator.signals.noise import Noise
from edge_simulator.signals.part import NotNegative, Part
from edge_simulator.signals.people import People, PeopleConfig
from edge_simulator.signals.weather import Weather, WeatherConfig, saturation_g_m3

__all__ = ["Room", "RoomConfig"]


class RoomConfig(Part, frozen=True, kw_only=True, tag_field="kind", tag="room"):
    """A room; sample 0 is read at midnight before a working day.

    Attributes:
        rate_hz: Samples a second; the room is solved once a minute.
        air: The room and its heating.
        weather: Outside.
        people: Inside.
        faults: What is wrong with the room.
        day_of_year: Day of sample 0, 0 for the first of January.
        noise_celsius: Noise of the temperature, root mean square.
        noise_percent: Noise of the humidity.
        noise_hpa: Noise of the pressure.
    """

    rate_hz: Annotated[float, Meta(gt=0, le=1000)] = 0.1
    air: AirConfig = AirConfig()
    weather: WeatherConfig = WeatherConfig()
    people: PeopleConfig = PeopleConfig()
    faults: tuple[RoomFault, ...] = ()
    day_of_year: Annotated[int, Meta(ge=0, le=365)] = 15
    noise_celsius: NotNegative = 0.02
    noise_percent: NotNegative = 0.1
    noise_hpa: NotNegative = 0.02

    @property
    def channels(self) -> tuple[ChannelSpec, ...]:
        """Channels in order."""
        return (
            ChannelSpec("temperature", "°C"),
            ChannelSpec("humidity", "%"),
            ChannelSpec("pressure", "hPa"),
        )


class Room:
    """A room; truth is 1 while something is wrong with it.

    Between two nodes of its grid temperature and water go straight from one to the other.

    Args:
        config: The room.
        seed: 0 to 2**64 - 1.
    """

    length: int | None = None

    def __init__(self, config: RoomConfig, seed: int) -> None:
        self.channels = config.channels
        self.rate_hz = config.rate_hz
        self._weather = Weather(config.weather, day_of_year=config.day_of_year, seed=seed)
        self._climate = Climate(
            config.air,
            weather=self._weather,
            people=People(config.people, seed),
            faults=config.faults,
        )
        self._wrong = stretches(
            [interval for fault in config.faults for interval in fault.active], config.rate_hz
        )
        self._noise = Noise(seed, "room sensor", columns=len(self.channels))
        self._levels = np.array([config.noise_celsius, config.noise_percent, config.noise_hpa])
        self._samples = Blocks(self._block)

    def read(self, first: int, count: int) -> np.ndarray:
        """Return samples in °C, % and hPa; see `Signal`."""
        return self._samples.read(first, count)

    def truth(self, first: int, count: int) -> np.ndarray:
        """Return whether something is wrong with the room; see `Signal`."""
        return indicator(self._wrong, first, count)

    def _block(self, number: int) -> np.ndarray:
        first = number * BLOCK
        time_s = np.arange(first, first + BLOCK) / self.rate_hz
        celsius, vapour = self._air(time_s)
        humidity = np.minimum(100 * vapour / saturation_g_m3(celsius), 100.0)
        values = np.stack((celsius, humidity, self._weather.pressure_hpa(time_s)), axis=1)
        values += self._levels * self._noise.normal(first, BLOCK)
        return values.astype(np.float32)

    def _air(self, time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return temperature, °C, and water in the air, g/m³."""
        place = time_s / STEP_S
        first, last = int(place[0]), int(place[-1]) + 1
        nodes = self._climate.nodes(first, last - first + 1)
        grid = np.arange(first, last + 1)
        return np.interp(place, grid, nodes.celsius), np.interp(place, grid, nodes.vapour_g_m3)
