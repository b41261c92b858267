"""Long batches, cut so that a runtime's working memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_runtime.types import TensorSpec

__all__ = ["BLOCK_ROWS", "in_blocks", "no_rows"]

BLOCK_ROWS = 8192
"""No block that ``Choice.block`` may ask for is cut; a longer batch is, so that working
memory does not grow with the batch."""


def in_blocks(
    answer: Callable[[np.ndarray], np.ndarray], batch: np.ndarray, rows: int
) -> np.ndarray:
    """Answer ``batch`` in blocks of at most ``rows`` rows, in order."""
    if len(batch) <= rows:
        return answer(batch)
    starts = range(0, len(batch), rows)
    return np.concatenate([answer(batch[start : start + rows]) for start in starts])


def no_rows(output: TensorSpec) -> np.ndarray:
    """Return the answer to an empty batch, shape (0, …)."""
    return np.empty((0, *output.shape[1:]), output.dtype)
