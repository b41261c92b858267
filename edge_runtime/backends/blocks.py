"""How many rows a runtime is asked for at once: so many as answer like each alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_runtime.types import TensorSpec

__all__ = ["BLOCK_ROWS", "Answer", "RowsAtOnce", "in_blocks", "no_rows"]

BLOCK_ROWS = 8192
"""No block that ``Choice.block`` may ask for is cut; a longer batch is, so that working
memory does not grow with the batch."""

_PROOF_ROWS = 128

Answer = Callable[[np.ndarray], np.ndarray]


class RowsAtOnce:
    """Rows that one call may answer.

    Kernels for one row and for many may add up in another order: so do those of LiteRT
    for float32 on aarch64, and not those on x86-64. And some models let the rows of a
    batch depend on each other, such as those that scale all of them alike.

    Args:
        most: Where the batch axis is free; else 1.

    Attributes:
        most: What a call may have, if that number is proven; 1 once a proof has failed.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._proven = {1}

    def is_proven(self, count: int) -> bool:
        """Whether ``count`` rows at once are known to answer like each alone."""
        return count in self._proven

    def prove(self, tensor: TensorSpec, count: int, together: Answer, each: Answer) -> None:
        """Compare ``count`` rows at once with each alone; if they differ, never ask so again.

        Args:
            tensor: The input.
            count: Rows.
            together: Answers all rows in one call.
            each: Answers them one by one.
        """
        draw = np.random.default_rng(count)
        for _ in range(1 + _PROOF_ROWS // count):
            rows = _drawn(draw, (count, *tensor.shape[1:]), np.dtype(tensor.dtype))
            if together(rows).tobytes() != each(rows).tobytes():
                self.most = 1
                return
        self._proven.add(count)


def in_blocks(answer: Answer, batch: np.ndarray, rows: int) -> np.ndarray:
    """Answer ``batch`` in blocks of at most ``rows`` rows, in order."""
    if len(batch) <= rows:
        return answer(batch)
    starts = range(0, len(batch), rows)
    return np.concatenate([answer(batch[start : start + rows]) for start in starts])


def no_rows(output: TensorSpec) -> np.ndarray:
    """Return the answer to an empty batch, shape (0, …)."""
    return np.empty((0, *output.shape[1:]), output.dtype)


def _drawn(draw: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return values of very different sizes for a float tensor, all integers for another."""
    if dtype.kind == "f":
        return (draw.normal(size=shape) * 10.0 ** draw.integers(-2, 3, shape)).astype(dtype)
    limits = np.iinfo(dtype)
    return draw.integers(limits.min, limits.max, shape, dtype, endpoint=True)
