"""Features of a window, in NumPy alone.

Every value of a pure feature depends on its own window only, to the last bit:
no matrix product and no reduction runs across windows or frames, sums are
float64 over contiguous rows, and ``log`` sees contiguous arrays (strided ones
may take another code path).
"""

from edge_runtime.pipeline.features.extract import Extractor, compute, shape_of

__all__ = ["Extractor", "compute", "shape_of"]
