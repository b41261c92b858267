"""The room keeps its balances, and what is wrong with it shows."""

from __future__ import annotations

import numpy as np
import pytest

from edge_simulator.signals.climate import STEP_S, AirConfig, Climate, Nodes, OpenWindow, StuckValve
from edge_simulator.signals.interval import Interval
from edge_simulator.signals.people import People, PeopleConfig
from edge_simulator.signals.room import Room, RoomConfig
from edge_simulator.signals.weather import Weather, WeatherConfig, saturation_g_m3

DAY_S = 86_400
DAY = DAY_S // STEP_S
WEEK = 7 * DAY
AIR = AirConfig()
# Nothing changes outside: what is left follows from the room alone.
CALM = WeatherConfig(
    mean_celsius=5, season_celsius=0, day_celsius=0, wander_celsius=0, wander_hpa=0
)


def _nodes(count: int = WEEK, *, seed: int = 1, **options: object) -> Nodes:
    config = RoomConfig(**options)  # type: ignore[arg-type]
    climate = Climate(
        config.air,
        weather=Weather(config.weather, day_of_year=config.day_of_year, seed=seed),
        people=People(config.people, seed),
        faults=config.faults,
    )
    return climate.nodes(0, count)


def _between(values: np.ndarray) -> np.ndarray:
    """Return means from node to node; over a minute the room's exponentials are straight."""
    return (values[1:] + values[:-1]) / 2


def test_heat_is_stored_or_lost_and_never_made() -> None:
    """Heating and people less what walls and air carry out is what the room stores."""
    room = _nodes()
    steps = len(room.celsius) - 1
    loss_w_k = 1 / AIR.walls_k_per_w + 1211 * AIR.volume_m3 * room.changes_per_s[:steps]
    out_w = loss_w_k * (_between(room.celsius) - room.outside_celsius[:steps])

    stored_j = np.cumsum((room.heat_w[:steps] - out_w) * STEP_S)

    expected_j = AIR.heat_j_per_k * (room.celsius[1:] - room.celsius[0])
    assert np.abs(stored_j - expected_j).max() < 1e-4 * room.heat_w.sum() * STEP_S


def test_water_is_stored_or_aired_out_and_never_made() -> None:
    """What people give off less what the air carries out is what stays."""
    room = _nodes()
    steps = len(room.celsius) - 1
    out_g_s = (
        AIR.volume_m3
        * room.changes_per_s[:steps]
        * (_between(room.vapour_g_m3) - room.outside_g_m3[:steps])
    )

    stored_g = np.cumsum((room.vapour_g_s[:steps] - out_g_s) * STEP_S)

    expected_g = AIR.volume_m3 * (room.vapour_g_m3[1:] - room.vapour_g_m3[0])
    assert np.abs(stored_g - expected_g).max() < 1e-3 * np.abs(out_g_s).sum() * STEP_S


def test_without_heating_the_room_cools_with_its_time_constant() -> None:
    """First order: after R C the difference to outside has fallen to 1/e."""
    room = _nodes(
        2 * DAY,
        weather=CALM,
        people=PeopleConfig(count=0),
        faults=(StuckValve(opening=0.0),),
    )
    leak = 1 / AIR.walls_k_per_w + 1211 * AIR.volume_m3 * AIR.changes_per_h / 3600

    time_s = STEP_S * np.arange(2 * DAY)
    expected = 5 + (room.celsius[0] - 5) * np.exp(-time_s * leak / AIR.heat_j_per_k)
    assert room.celsius == pytest.approx(expected, abs=1e-9)


def test_a_valve_stuck_open_ends_where_loss_and_heating_meet() -> None:
    """The equilibrium is outside plus power over conductance."""
    room = _nodes(
        10 * DAY,
        weather=CALM,
        people=PeopleConfig(count=0),
        faults=(StuckValve(opening=0.5),),
    )
    leak = 1 / AIR.walls_k_per_w + 1211 * AIR.volume_m3 * AIR.changes_per_h / 3600

    assert room.celsius[-1] == pytest.approx(5 + 0.5 * AIR.heater_w / leak, abs=1e-3)


def test_thermostat_holds_its_band_and_does_not_chatter() -> None:
    """From noon to evening of a weekend the room stays in the band, switching now and then."""
    room = _nodes(weather=CALM)
    afternoon = slice(5 * DAY + DAY // 2, 5 * DAY + 21 * 60)
    celsius, heat_w = room.celsius[afternoon], room.heat_w[afternoon]

    # In one step of the grid the heating warms the room by at most 0.06 K.
    assert np.abs(celsius - AIR.day_celsius).max() < AIR.band_celsius / 2 + 0.06
    assert set(heat_w.tolist()) == {0.0, AIR.heater_w}
    assert 2 < np.count_nonzero(np.diff(heat_w)) < 40


def test_a_day_in_winter_costs_more_heat_than_one_in_spring() -> None:
    """Season reaches the heating."""
    winter, spring = _nodes(day_of_year=15), _nodes(day_of_year=105)

    assert winter.heat_w.sum() > 1.3 * spring.heat_w.sum()
    assert winter.outside_celsius.mean() < spring.outside_celsius.mean() - 5


def test_it_is_warmest_at_three_and_coldest_in_the_middle_of_january() -> None:
    """Hour and day follow from the sample's number."""
    weather = Weather(WeatherConfig(wander_celsius=0), day_of_year=0, seed=1)
    hours = weather.celsius(np.arange(24) * 3600.0)
    noons = weather.celsius((np.arange(365) + 0.5) * DAY_S)

    assert hours.argmax() == 15
    assert abs(int(noons.argmin()) - 15) <= 1
    assert noons.max() - noons.min() == pytest.approx(2 * 9, abs=0.01)


def test_people_come_on_working_days_and_open_the_window() -> None:
    """They bring heat and water, and fresh air three times a day; weekends are empty."""
    room = _nodes()
    opened = np.diff((room.changes_per_s > 1.0 / 3600).astype(int)) == 1

    per_day = opened[: WEEK - 1].nonzero()[0] // DAY
    assert np.bincount(per_day, minlength=7)[:5].min() >= 1
    assert np.bincount(per_day, minlength=7).max() <= 3
    assert set((per_day >= 5).tolist()) == {False}
    assert (room.vapour_g_s > 0).reshape(7, DAY).any(axis=1).tolist() == [True] * 5 + [False] * 2


def test_a_forgotten_window_cools_the_room_and_truth_says_so() -> None:
    """Room and truth change at the same sample, and the room recovers."""
    begin_s, end_s = 2 * DAY_S, 2 * DAY_S + 6 * 3600
    window = OpenWindow(active=(Interval(begin_s, end_s),))
    healthy, forgotten = Room(RoomConfig(), 1), Room(RoomConfig(faults=(window,)), 1)
    first, last = round(begin_s * 0.1), round(end_s * 0.1)

    assert forgotten.read(0, first).tobytes() == healthy.read(0, first).tobytes()
    colder = healthy.read(last, 1)[0, 0] - forgotten.read(last, 1)[0, 0]
    later = last + round(2 * DAY_S * 0.1)
    assert colder > 3
    assert forgotten.read(later, 1)[0, 0] == pytest.approx(healthy.read(later, 1)[0, 0], abs=1)
    truth = forgotten.truth(0, last + 10)
    assert truth.nonzero()[0].tolist() == list(range(first, last))


def test_humidity_is_that_of_the_water_in_the_air_and_at_most_100() -> None:
    """Warm air holds more water."""
    quiet = {"noise_celsius": 0, "noise_percent": 0, "noise_hpa": 0}
    room = Room(RoomConfig(rate_hz=1 / STEP_S, people=PeopleConfig(count=200), **quiet), 1)  # type: ignore[arg-type]
    nodes = _nodes(DAY, people=PeopleConfig(count=200))

    celsius, humidity, _ = room.read(0, DAY).T

    expected = np.minimum(100 * nodes.vapour_g_m3 / saturation_g_m3(nodes.celsius), 100)
    assert celsius == pytest.approx(nodes.celsius, abs=1e-4)
    assert humidity == pytest.approx(expected, abs=1e-3)
    assert humidity.max() == 100


def test_between_nodes_the_room_goes_straight() -> None:
    """At any rate the same room is read."""
    quiet = {"noise_celsius": 0, "noise_percent": 0, "noise_hpa": 0}
    fast = Room(RoomConfig(rate_hz=1.0, **quiet), 1).read(0, 6001)[:, 0]  # type: ignore[arg-type]

    nodes = _nodes(101).celsius
    assert fast == pytest.approx(np.interp(np.arange(6001) / 60, np.arange(101), nodes), abs=1e-4)


@pytest.mark.parametrize(("celsius", "g_m3"), [(0, 4.85), (10, 9.40), (20, 17.3), (30, 30.4)])
def test_air_holds_as_much_water_as_the_tables_say(celsius: float, g_m3: float) -> None:
    """Saturated vapour density over water, from steam tables."""
    assert saturation_g_m3(np.array([celsius]))[0] == pytest.approx(g_m3, rel=0.005)


def test_pressure_wanders_slowly_around_its_mean() -> None:
    """Over a year it is the climate's, and an hour changes it by little."""
    weather = Weather(WeatherConfig(), day_of_year=0, seed=1)

    pressure = weather.pressure_hpa(np.arange(365 * 24) * 3600.0)

    assert pressure.mean() == pytest.approx(1013, abs=2)
    assert 4 < pressure.std() < 9
    assert np.abs(np.diff(pressure)).max() < 5
