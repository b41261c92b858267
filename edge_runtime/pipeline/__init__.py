"""The pure pipeline: frames in, estimates and decisions out."""

from edge_runtime.pipeline.features import compute, shape_of
from edge_runtime.pipeline.pipeline import Pipeline
from edge_runtime.pipeline.quantise import dequantise, quantise
from edge_runtime.pipeline.records import decisions_table, estimates_table
from edge_runtime.pipeline.score import BATCH
from edge_runtime.pipeline.together import answer_together

__all__ = [
    "BATCH",
    "Pipeline",
    "answer_together",
    "compute",
    "decisions_table",
    "dequantise",
    "estimates_table",
    "quantise",
    "shape_of",
]
