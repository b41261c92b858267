"""What this machine has and lacks: each thing is tried, and each lack has a remedy."""

from edge_runtime.doctor.finding import Finding, State
from edge_runtime.doctor.machine import look_around
from edge_runtime.doctor.runtimes import Extra, Health, Report, examine

__all__ = ["Extra", "Finding", "Health", "Report", "State", "examine", "look_around"]
