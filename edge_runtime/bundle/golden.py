"""Golden vectors: windows and the answers a bundle must give for them."""

from __future__ import annotations

import msgspec
import numpy as np

from edge_runtime.bundle.arrays import read_arrays, write_arrays
from edge_runtime.errors import BundleError

__all__ = ["Golden", "read_golden", "write_golden"]


class Golden(msgspec.Struct, frozen=True, eq=False):
    """Windows, and the answer of the base alone for each.

    Attributes:
        inputs: Windows, shape (n, length, channels), in the source's dtype.
        outputs: ``Estimates.score`` without layers, shape (n, k), float64.
    """

    inputs: np.ndarray
    outputs: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)


def read_golden(content: bytes, where: str = "golden.npz") -> Golden:
    """Read golden vectors within the limits of a bundle, never unpickling.

    Raises:
        BundleError: They are unsound, empty, or of another shape or dtype.
    """
    arrays = read_arrays(content, where)
    if set(arrays) != {"inputs", "outputs"}:
        raise _unfit(where, f"holds the arrays {sorted(arrays)}", "'inputs' and 'outputs'")
    inputs, outputs = arrays["inputs"], arrays["outputs"]
    if inputs.ndim != 3 or outputs.ndim != 2 or len(inputs) != len(outputs) or not len(inputs):
        raise _unfit(
            where,
            f"has inputs {inputs.shape} and outputs {outputs.shape}",
            "inputs (n, length, channels) and outputs (n, labels), n at least 1",
        )
    if inputs.dtype.kind not in "iuf" or outputs.dtype != np.float64:
        raise _unfit(
            where,
            f"has inputs of {inputs.dtype} and outputs of {outputs.dtype}",
            "inputs of real numbers and outputs of float64",
        )
    if not np.isfinite(outputs).all():
        raise _unfit(where, "has outputs that are not finite", "finite numbers")
    return Golden(inputs, outputs)


def write_golden(golden: Golden) -> bytes:
    """Write golden vectors; equal vectors give equal bytes."""
    outputs = np.asarray(golden.outputs, np.float64)
    return write_arrays({"inputs": golden.inputs, "outputs": outputs})


def _unfit(where: str, what: str, expected: str) -> BundleError:
    return BundleError(
        what, where=where, expected=expected, remedy="Make the golden vectors again."
    )
