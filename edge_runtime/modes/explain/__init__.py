"""Why a result is what it is: its window answered again, stage by stage, and drawn."""

from edge_runtime.modes.explain.drawing import picture_of
from edge_runtime.modes.explain.explanation import Explanation
from edge_runtime.modes.explain.find import explain
from edge_runtime.modes.explain.found import Found
from edge_runtime.modes.explain.page import page_of
from edge_runtime.modes.explain.stages import Stage, limit_text

__all__ = ["Explanation", "Found", "Stage", "explain", "limit_text", "page_of", "picture_of"]
