"""Parity: the same rows through every mode, and the proof that the answers are the same bytes."""

from edge_runtime.modes.parity.answers import Answers, Difference
from edge_runtime.modes.parity.prove import Leg, ParityReport, prove_parity
from edge_runtime.modes.parity.rows import Rows, golden_rows, read_rows

__all__ = [
    "Answers",
    "Difference",
    "Leg",
    "ParityReport",
    "Rows",
    "golden_rows",
    "prove_parity",
    "read_rows",
]
