"""Keyed streams: one source of many devices, each answered as if it were alone."""

from edge_runtime.modes.keyed.status import KeyedStatus
from edge_runtime.modes.keyed.stream import KeyedLimits, KeyedStream

__all__ = ["KeyedLimits", "KeyedStatus", "KeyedStream"]
