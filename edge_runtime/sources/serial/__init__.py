"""Sensors on a serial port: lines of text, or fixed binary frames."""

from edge_runtime.sources.serial.config import (
    Binary,
    Delimited,
    JsonLines,
    KeyValue,
    SequenceField,
    SerialConfig,
    Usb,
)
from edge_runtime.sources.serial.source import SerialSource

__all__ = [
    "Binary",
    "Delimited",
    "JsonLines",
    "KeyValue",
    "SequenceField",
    "SerialConfig",
    "SerialSource",
    "Usb",
]
