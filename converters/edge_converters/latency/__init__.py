"""How long a window takes on a board: estimated from what is published, or as it answered."""

from edge_converters.latency.answers import Answer, load_answers
from edge_converters.latency.estimate import estimate
from edge_converters.latency.target import BoardFile, TargetLatency, refined

__all__ = ["Answer", "BoardFile", "TargetLatency", "estimate", "load_answers", "refined"]
