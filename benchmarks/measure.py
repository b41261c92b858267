"""How benchmarks time: the package's own way, which ``tune`` uses too."""

from __future__ import annotations

from edge_runtime.timing import Timing, interleaved

__all__ = ["Timing", "interleaved"]
