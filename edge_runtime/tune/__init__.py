"""Measures every way to run a bundle on this machine, and says which is best."""

from edge_runtime.tune.candidates import Candidate
from edge_runtime.tune.choose import Block, Row, Tuning, compared, ranked
from edge_runtime.tune.measure import tune

__all__ = ["Block", "Candidate", "Row", "Tuning", "compared", "ranked", "tune"]
