"""From the configuration of a signal to the signal."""

from __future__ import annotations

from edge_simulator.signals.recording import (
    GasTurbineConfig,
    RecordedConfig,
    load_gas_turbine,
    load_recorded,
)
from edge_simulator.signals.room import Room, RoomConfig
from edge_simulator.signals.rotating import Rotating, RotatingConfig
from edge_simulator.signals.signal import Signal
from edge_simulator.signals.sine import Sine, SineConfig

__all__ = ["SignalConfig", "build_signal"]

SignalConfig = RotatingConfig | RoomConfig | RecordedConfig | GasTurbineConfig | SineConfig


def build_signal(config: SignalConfig, seed: int) -> Signal:
    """Return the signal that a configuration declares; recordings are read.

    Args:
        config: What to build.
        seed: 0 to 2**64 - 1; signals of one seed and configuration are the same.

    Raises:
        ConfigError: A recording's columns, rows or rate do not fit.
        SourceError: A recording cannot be read.
    """
    match config:
        case RotatingConfig():
            return Rotating(config, seed)
        case RoomConfig():
            return Room(config, seed)
        case RecordedConfig():
            return load_recorded(config)
        case GasTurbineConfig():
            return load_gas_turbine(config)
        case SineConfig():
            return Sine(config)
