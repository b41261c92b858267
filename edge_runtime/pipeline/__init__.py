"""The pure pipeline: frames in, estimates and decisions out."""

from edge_runtime.pipeline.cascade import models_of, scorer_of
from edge_runtime.pipeline.features import compute, shape_of
from edge_runtime.pipeline.pipeline import Pipeline
from edge_runtime.pipeline.quantise import dequantise, quantise
from edge_runtime.pipeline.records import decisions_table, estimates_table, is_quality, with_quality
from edge_runtime.pipeline.score import BATCH
from edge_runtime.pipeline.timeline import KeyedPipelines, TimedPipeline
from edge_runtime.pipeline.together import answer_together
from edge_runtime.pipeline.trace import Asked, Trace, TracedPipeline
from edge_runtime.ports import Timing

__all__ = [
    "BATCH",
    "AnyPipeline",
    "Asked",
    "KeyedPipelines",
    "Pipeline",
    "TimedPipeline",
    "Trace",
    "TracedPipeline",
    "answer_together",
    "compute",
    "decisions_table",
    "dequantise",
    "estimates_table",
    "is_quality",
    "models_of",
    "quantise",
    "scorer_of",
    "shape_of",
    "timed_if_asked",
    "with_quality",
]

AnyPipeline = Pipeline | TimedPipeline


def timed_if_asked(pipeline: Pipeline, timing: Timing | None = None) -> AnyPipeline:
    """Return a pipeline for samples in any order where its bundle has a grid, else itself."""
    return pipeline if pipeline.spec.stream.grid is None else TimedPipeline(pipeline, timing)
