"""The reference page leaves no key out, and what it shows works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from edge_runtime.config import load_device
from edge_simulator.signals import SensorFault, SignalConfig
from edge_simulator.signals.bearing import BearingConfig, GrowthConfig
from edge_simulator.signals.climate import AirConfig, RoomFault
from edge_simulator.signals.interval import Interval
from edge_simulator.signals.people import PeopleConfig
from edge_simulator.signals.rotating import AdcConfig, GearConfig, MountConfig, TemperatureConfig
from edge_simulator.signals.schedule import PointConfig
from edge_simulator.signals.weather import WeatherConfig
from edge_simulator.simulated import SimulatedConfig

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "simulator" / "signals.md"
PARTS: list[type[msgspec.Struct]] = [
    SimulatedConfig,
    *get_args(SignalConfig),
    *get_args(SensorFault),
    *get_args(RoomFault),
    AdcConfig,
    AirConfig,
    BearingConfig,
    GearConfig,
    GrowthConfig,
    Interval,
    MountConfig,
    PeopleConfig,
    PointConfig,
    TemperatureConfig,
    WeatherConfig,
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_kind_and_key_is_documented(part: type[msgspec.Struct]) -> None:
    """A new key needs its place on the page."""
    text = PAGE.read_text()
    names = {part.__struct_config__.tag, *part.__struct_fields__} - {None}

    assert [name for name in sorted(map(str, names)) if not re.search(rf"\b{name}\b", text)] == []


def test_the_device_that_is_shown_can_be_configured(tmp_path: Path) -> None:
    """The first example can be copied."""
    match = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert match
    (tmp_path / "device.yaml").write_text(match.group(1))

    source = load_device(tmp_path / "device.yaml").streams["vibration"].source

    assert (source["kind"], len(source["faults"])) == ("simulated", 2)
