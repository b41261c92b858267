"""A dense network in numpy alone: for tests, as a fallback and to compare with.

A row's sums are added up in one fixed order in float64, so that a batch gives
the same bytes as its rows alone, on every machine.
"""

from __future__ import annotations

import numpy as np

from edge_runtime.backends.faults import cannot_load, cannot_restore, check_batch, closed
from edge_runtime.bundle.arrays import read_arrays
from edge_runtime.errors import BundleError
from edge_runtime.ports import SessionOptions
from edge_runtime.types import StateKind, TensorSpec

__all__ = ["Reference", "ReferenceSession"]

_Layer = tuple[np.ndarray, np.ndarray]


class Reference:
    """Runs dense networks from ``.npz`` files; there is nothing to install."""

    name = "reference"

    def probe(self) -> str:
        """Return numpy's version."""
        return np.__version__

    def load(self, model: bytes, options: SessionOptions) -> ReferenceSession:
        """Open a network from verified bytes; ``options`` do not matter.

        The file holds ``w0`` (inputs, units) and ``b0`` (units), then ``w1``,
        ``b1`` and so on, float32. Every layer but the last ends in a ReLU.

        Raises:
            ModelError: The bytes are no such file.
        """
        del options
        try:
            return ReferenceSession(_layers(read_arrays(model, "model")))
        except BundleError as error:
            raise cannot_load(self.name, "reference", error.what, remedy=_REMEDY) from error
        except ValueError as error:
            raise cannot_load(self.name, "reference", error, remedy=_REMEDY) from error


class ReferenceSession:
    """One dense network; a `Session` for one worker, stateless.

    Args:
        layers: Weights (inputs, units) and biases (units) of each layer, in order.

    Attributes:
        inputs: float32, shape (1, inputs).
        outputs: float32, shape (1, units of the last layer).
    """

    state_kind: StateKind = "stateless"

    def __init__(self, layers: list[_Layer]) -> None:
        self._layers: list[_Layer] | None = layers
        self.inputs = (TensorSpec("input", (1, len(layers[0][0])), "float32"),)
        self.outputs = (TensorSpec("output", (1, len(layers[-1][1])), "float32"),)

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Answer ``batch``, shape (n, inputs), float32.

        Returns:
            Shape (n, units of the last layer), float32.

        Raises:
            ShapeError: Shape or dtype is not the network's.
            ModelError: The session is closed.
        """
        if self._layers is None:
            raise closed(Reference.name)
        check_batch(Reference.name, batch, self.inputs[0])
        values = batch
        for weights, bias in self._layers[:-1]:
            values = np.maximum(_dense(values, weights, bias), np.float32(0))
        return _dense(values, *self._layers[-1])

    def reset(self) -> None:
        """Do nothing: the network keeps no state."""

    def fork(self) -> ReferenceSession:
        """Return this session: there is no state to keep apart."""
        return self

    def state(self) -> bytes:
        """Return nothing: the network keeps no state."""
        return b""

    def restore(self, state: bytes) -> None:
        """Take nothing back.

        Raises:
            ModelError: There is something.
        """
        if state:
            raise cannot_restore(Reference.name, len(state), 0)

    def close(self) -> None:
        """Free the network; later calls raise `ModelError`."""
        self._layers = None


_REMEDY = "Write it with numpy.savez: w0, b0, w1, b1 and so on, float32."


def _dense(values: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    # No matrix product: BLAS adds up in an order that depends on the batch.
    total = np.broadcast_to(bias.astype(np.float64), (len(values), len(bias))).copy()
    for column, row in zip(values.T.astype(np.float64), weights.astype(np.float64), strict=True):
        total += column[:, None] * row
    return total.astype(np.float32)


def _layers(arrays: dict[str, np.ndarray]) -> list[_Layer]:
    count = len(arrays) // 2
    if not count or set(arrays) != {f"{kind}{i}" for kind in "wb" for i in range(count)}:
        raise ValueError(f"it holds the arrays {', '.join(sorted(arrays)) or 'none'}")
    layers = [(arrays[f"w{i}"], arrays[f"b{i}"]) for i in range(count)]
    size = None
    for number, (weights, bias) in enumerate(layers):
        _check_layer(number, weights, bias, size)
        size = len(bias)
    return layers


def _check_layer(number: int, weights: np.ndarray, bias: np.ndarray, size: int | None) -> None:
    if weights.dtype != np.float32 or bias.dtype != np.float32:
        raise ValueError(f"w{number} and b{number} are {weights.dtype} and {bias.dtype}")
    is_dense = weights.ndim == 2 and weights.size > 0 and bias.shape == weights.shape[1:]
    if not is_dense or len(weights) != (size or len(weights)):
        raise ValueError(f"w{number} and b{number} have shapes {weights.shape} and {bias.shape}")
