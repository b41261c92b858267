"""What a room's air does: heat and water over the days, solved once on a fixed grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta

from edge_simulator.signals.interval import ALWAYS, Interval, indicator, stretches
from edge_simulator.signals.part import NotNegative, Part, Positive
from edge_simulator.signals.people import People
from edge_simulator.signals.weather import DAY_S, Weather, saturation_g_m3

__all__ = ["STEP_S", "AirConfig", "Climate", "Nodes", "OpenWindow", "RoomFault", "StuckValve"]

STEP_S = 60
"""Seconds from one node of the grid to the next."""


_STEPS = DAY_S // STEP_S
_MORNING_S, _EVENING_S = 6 * 3600, 22 * 3600
# Density times specific heat of air at 20 °C and 1013 hPa: 1.204 kg/m³ · 1006 J/(kg K).
_AIR_J_PER_M3_K = 1211.0
# One seated person at very light work gives off 70 W sensible and 45 W latent heat, the
# latter as water of 2454 J/g. Source: ASHRAE Handbook Fundamentals, "Nonresidential cooling
# and heating load calculations", table 1.
_PERSON_W, _PERSON_G_PER_S = 70.0, 45 / 2454
_FIRST_HUMIDITY = 0.5


class AirConfig(Part, frozen=True, kw_only=True):
    """The room and its heating.

    Attributes:
        volume_m3: Of the air.
        walls_k_per_w: Resistance of the walls to heat.
        heat_j_per_k: What air, furniture and the inner side of the walls store.
        changes_per_h: How often the air is changed with closed windows.
        airing_per_h: The same with an open window.
        heater_w: Power of the heating with an open valve.
        day_celsius: What the thermostat holds from 6 to 22 o'clock.
        night_celsius: What it holds at night.
        band_celsius: From where it opens the valve to where it closes it.
    """

    volume_m3: Positive = 60.0
    walls_k_per_w: Positive = 0.02
    heat_j_per_k: Positive = 2e6
    changes_per_h: Positive = 0.5
    airing_per_h: Positive = 8.0
    heater_w: NotNegative = 2000.0
    day_celsius: float = 21.0
    night_celsius: float = 18.0
    band_celsius: Positive = 0.6


class _RoomFault(Part, frozen=True, kw_only=True, tag_field="kind"):
    """Something that is wrong with the room.

    Attributes:
        active: When, in seconds since the first sample.
    """

    active: tuple[Interval, ...] = ALWAYS


class StuckValve(_RoomFault, frozen=True, kw_only=True, tag="stuck_valve"):
    """The valve of the heating does not obey the thermostat.

    Attributes:
        opening: Where it is stuck: 0 closed, 1 open.
    """

    opening: Annotated[float, Meta(ge=0, le=1)]


class OpenWindow(_RoomFault, frozen=True, kw_only=True, tag="open_window"):
    """Somebody forgot to close the window."""


RoomFault = StuckValve | OpenWindow


class Nodes(NamedTuple):
    """The room on the grid; all of shape (n,), float64.

    Attributes:
        celsius: Temperature at the node.
        vapour_g_m3: Water in the air at the node.
        outside_celsius: Temperature outside, until the next node.
        outside_g_m3: Water in the air outside, until the next node.
        heat_w: From heating and people, until the next node.
        vapour_g_s: Water from people, until the next node.
        changes_per_s: How fast the air is changed, until the next node.
    """

    celsius: np.ndarray
    vapour_g_m3: np.ndarray
    outside_celsius: np.ndarray
    outside_g_m3: np.ndarray
    heat_w: np.ndarray
    vapour_g_s: np.ndarray
    changes_per_s: np.ndarray


class _State(NamedTuple):
    """The room at one moment."""

    celsius: float
    vapour_g_m3: float
    is_heating: bool


class Climate:
    """Temperature and water in the air of one room.

    Heat: C dT/dt = (T_out - T) (1/R + c V n) + Q, with c the heat of a volume of air.
    Water: V dw/dt = V n (w_out - w) + S. What acts is constant from node to node, so each
    step is the exact solution, an exponential towards the equilibrium. Days are solved in
    order and kept, 80 kB each: node k is the same, whenever it is asked for.

    Args:
        air: The room.
        weather: Outside; node 0 is at its midnight.
        people: Inside.
        faults: What is wrong with the room.
    """

    def __init__(
        self, air: AirConfig, *, weather: Weather, people: People, faults: tuple[RoomFault, ...]
    ) -> None:
        self._air = air
        self._weather = weather
        self._people = people
        self._faults = faults
        self._time_s = np.arange(_STEPS, dtype=np.float64) * STEP_S
        is_day = (self._time_s >= _MORNING_S) & (self._time_s < _EVENING_S)
        self._goals = np.where(is_day, air.day_celsius, air.night_celsius)
        vapour = _FIRST_HUMIDITY * saturation_g_m3(np.array([air.night_celsius]))
        self._last = _State(air.night_celsius, float(vapour[0]), is_heating=False)
        self._days: list[Nodes] = []

    def nodes(self, first: int, count: int) -> Nodes:
        """Return ``count`` nodes from ``first`` on, at least one; solves days not yet known."""
        begin, end = first // _STEPS, (first + count - 1) // _STEPS + 1
        while len(self._days) < end:
            day, self._last = self._solved(len(self._days), self._last)
            self._days.append(day)
        rows = slice(first - begin * _STEPS, first - begin * _STEPS + count)
        columns = zip(*self._days[begin:end], strict=True)
        return Nodes(*(np.concatenate(parts)[rows] for parts in columns))

    def _solved(self, day: int, begin: _State) -> tuple[Nodes, _State]:
        """Return a day's nodes, and the state in which it ends."""
        air = self._air
        outside = self._weather.celsius(day * DAY_S + self._time_s)
        outside_vapour = self._weather.vapour_g_m3(outside)
        people = self._people.present(day, self._time_s)
        changes = np.where(self._is_open(day), air.airing_per_h, air.changes_per_h) / 3600
        celsius, heat_w, is_heating = self._warmed(
            begin, outside, changes, people * _PERSON_W, self._stuck(day)
        )
        vapour_g_s = people * _PERSON_G_PER_S
        goals = outside_vapour + vapour_g_s / air.volume_m3 / changes
        vapour = _followed(begin.vapour_g_m3, goals, np.exp(-STEP_S * changes))
        nodes = Nodes(
            celsius[:-1], vapour[:-1], outside, outside_vapour, heat_w, vapour_g_s, changes
        )
        return nodes, _State(float(celsius[-1]), float(vapour[-1]), is_heating)

    def _is_open(self, day: int) -> np.ndarray:
        """Return whether the window is open, until each next node."""
        is_open = self._people.is_airing(day, self._time_s)
        for fault in self._faults:
            if isinstance(fault, OpenWindow):
                is_open = is_open | (_inside(fault, day) > 0)
        return is_open

    def _stuck(self, day: int) -> np.ndarray:
        """Return where the valve is stuck, until each next node; NaN where it is not."""
        stuck = np.full(_STEPS, np.nan)
        for fault in self._faults:
            if isinstance(fault, StuckValve):
                stuck[_inside(fault, day) > 0] = fault.opening
        return stuck

    def _warmed(
        self,
        begin: _State,
        outside: np.ndarray,
        changes: np.ndarray,
        people_w: np.ndarray,
        stuck: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return a day's temperatures, the heat until each next node, and whether it heats on."""
        air = self._air
        loss_w_k = 1 / air.walls_k_per_w + _AIR_J_PER_M3_K * air.volume_m3 * changes
        kept = np.exp(-STEP_S * loss_w_k / air.heat_j_per_k)
        now, is_heating = begin.celsius, begin.is_heating
        celsius, heat_w = [now], []
        for goal, away, loss, share, warmth, valve in _steps(
            self._goals, outside, loss_w_k, kept, people_w, stuck
        ):
            is_heating = self._is_cold(now, goal, is_heating)
            heat = warmth + (is_heating if math.isnan(valve) else valve) * air.heater_w
            equilibrium = away + heat / loss
            now = equilibrium + (now - equilibrium) * share
            celsius.append(now)
            heat_w.append(heat)
        return np.array(celsius), np.array(heat_w), is_heating

    def _is_cold(self, celsius: float, goal: float, is_heating: bool) -> bool:
        """Return what the thermostat wants; between its two limits it stays with what it did."""
        side = 1 if is_heating else -1
        return celsius < goal + side * self._air.band_celsius / 2


def _followed(begin: float, goals: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return what tends to each goal for one step, keeping a share of the distance."""
    values = [begin]
    for goal, share in _steps(goals, kept):
        values.append(goal + (values[-1] - goal) * share)
    return np.array(values)


def _steps(*columns: np.ndarray) -> Iterator[tuple[float, ...]]:
    """Yield rows as Python's own numbers: they are several times as fast one by one."""
    return zip(*(column.tolist() for column in columns), strict=True)


def _inside(fault: RoomFault, day: int) -> np.ndarray:
    """Return 1 at the nodes of a day at which a fault is active, else 0."""
    return indicator(stretches(fault.active, 1 / STEP_S), day * _STEPS, _STEPS)
