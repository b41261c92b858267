"""Units of channels, and times that go on."""

from __future__ import annotations

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.sources.i2c.readings import CELSIUS, Timeline, Unit, units_of
from edge_runtime.sources.live import Health
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import FakeClock

KNOWN = {"temperature": CELSIUS, "humidity": {"%": Unit(1.0)}}


def _units(*channels: ChannelSpec) -> list[Unit]:
    return units_of(StreamSpec(channels, 1.0), KNOWN, "part")


def test_units_come_in_the_order_of_the_model() -> None:
    """A channel without a unit comes in the first one."""
    found = _units(
        ChannelSpec("humidity"), ChannelSpec("temperature", "K"), ChannelSpec("temperature")
    )

    assert found == [Unit(1.0), Unit(1.0, 273.15), Unit(1.0)]


def test_an_unknown_channel_is_refused_with_the_known_ones() -> None:
    """The closest name is offered."""
    with pytest.raises(ConfigError, match="one of temperature, humidity") as caught:
        _units(ChannelSpec("humidty"))

    assert "'humidity'" in caught.value.remedy


def test_an_unknown_unit_is_refused_with_the_known_ones() -> None:
    """Nothing is guessed."""
    with pytest.raises(ConfigError, match="does not come in '°F'; expected one of °C, K"):
        _units(ChannelSpec("temperature", "°F"))


def test_an_outage_is_counted_and_leaves_one_gap() -> None:
    """A source that failed goes on as if it had been open all the time."""
    clock, health = FakeClock(), Health()
    timeline = Timeline(clock, health)
    timeline.begin(10.0)
    timeline.lose_until(clock.monotonic_ns())
    clock.advance(0.1)
    before = timeline.stamp(1, clock.monotonic_ns()).time_ns[-1]
    timeline.fail()
    clock.advance(5.0)
    timeline.begin(10.0)
    timeline.lose_until(clock.monotonic_ns())
    clock.advance(0.1)
    after = timeline.stamp(1, clock.monotonic_ns()).time_ns[-1]

    assert health.report().lost_samples == 50
    assert after - before == 51 * 100_000_000


def test_a_source_that_was_closed_on_purpose_loses_nothing() -> None:
    """Nobody wanted the samples in between."""
    clock, health = FakeClock(), Health()
    timeline = Timeline(clock, health)
    for _ in range(2):
        timeline.begin(10.0)
        timeline.lose_until(clock.monotonic_ns())
        clock.advance(5.0)

    assert health.report().lost_samples == 0
