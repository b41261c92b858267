"""What tests of devices and plug-ins need: clocks, scripted sources, contract checks."""

from edge_runtime.testing.checks import (
    check_backend,
    check_live_source,
    check_sink,
    check_source,
    read_all,
)
from edge_runtime.testing.clock import FakeClock
from edge_runtime.testing.sources import Abort, End, Quiet, Samples, ScriptedSource, Step

__all__ = [
    "Abort",
    "End",
    "FakeClock",
    "Quiet",
    "Samples",
    "ScriptedSource",
    "Step",
    "check_backend",
    "check_live_source",
    "check_sink",
    "check_source",
    "read_all",
]
