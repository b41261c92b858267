"""The operating point of a bundle, found on labelled recordings."""

from edge_runtime.intervals import rate_bounds, share_bounds
from edge_runtime.thresholds.calibrate import fitted_temperature, reject_band
from edge_runtime.thresholds.recordings import Recording, Rows, score_recordings
from edge_runtime.thresholds.search import Choices, Found, Point, Target, search
from edge_runtime.thresholds.truth import Event
from edge_runtime.thresholds.write import write_operating_point

__all__ = [
    "Choices",
    "Event",
    "Found",
    "Point",
    "Recording",
    "Rows",
    "Target",
    "fitted_temperature",
    "rate_bounds",
    "reject_band",
    "score_recordings",
    "search",
    "share_bounds",
    "write_operating_point",
]
