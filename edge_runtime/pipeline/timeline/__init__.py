"""Event time: samples in any order in, windows in order out, and revisions of both."""

from edge_runtime.pipeline.timeline.keyed import KeyedPipelines
from edge_runtime.pipeline.timeline.timed import TimedPipeline

__all__ = ["KeyedPipelines", "TimedPipeline"]
