"""Where samples come from. File formats are plug-ins around one `Recording`."""

from edge_runtime.sources.instants import TimeConfig
from edge_runtime.sources.pace import Grid, Pace, RealTime, Unpaced
from edge_runtime.sources.recording import Recording, RecordingConfig, TableConfig, Track

__all__ = [
    "Grid",
    "Pace",
    "RealTime",
    "Recording",
    "RecordingConfig",
    "TableConfig",
    "TimeConfig",
    "Track",
    "Unpaced",
]
