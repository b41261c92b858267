"""What simulated sensors read: physical models and recordings, with their ground truth."""

from edge_simulator.signals.bearing import BearingConfig, GrowthConfig
from edge_simulator.signals.build import SignalConfig, build_signal
from edge_simulator.signals.climate import AirConfig, OpenWindow, RoomFault, StuckValve
from edge_simulator.signals.faults import (
    Drift,
    Dropout,
    Faulty,
    NoiseFault,
    Saturation,
    SensorFault,
    Spikes,
    Stuck,
    Swap,
    Unplug,
    distort,
)
from edge_simulator.signals.interval import Interval
from edge_simulator.signals.people import PeopleConfig
from edge_simulator.signals.recording import GasTurbineConfig, Recorded, RecordedConfig
from edge_simulator.signals.room import Room, RoomConfig
from edge_simulator.signals.rotating import (
    AdcConfig,
    GearConfig,
    MountConfig,
    Rotating,
    RotatingConfig,
    TemperatureConfig,
)
from edge_simulator.signals.schedule import PointConfig
from edge_simulator.signals.signal import Signal
from edge_simulator.signals.sine import Sine, SineConfig
from edge_simulator.signals.weather import WeatherConfig

__all__ = [
    "AdcConfig",
    "AirConfig",
    "BearingConfig",
    "Drift",
    "Dropout",
    "Faulty",
    "GasTurbineConfig",
    "GearConfig",
    "GrowthConfig",
    "Interval",
    "MountConfig",
    "NoiseFault",
    "OpenWindow",
    "PeopleConfig",
    "PointConfig",
    "Recorded",
    "RecordedConfig",
    "Room",
    "RoomConfig",
    "RoomFault",
    "Rotating",
    "RotatingConfig",
    "Saturation",
    "SensorFault",
    "Signal",
    "SignalConfig",
    "Sine",
    "SineConfig",
    "Spikes",
    "Stuck",
    "StuckValve",
    "Swap",
    "TemperatureConfig",
    "Unplug",
    "WeatherConfig",
    "build_signal",
    "distort",
]
