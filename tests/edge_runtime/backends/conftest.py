"""Tiny models made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def probe_onnx(onnx: Any) -> bytes:
    """Make y = 2 x_0 - x_1 + 0.5, the model that stands in the package."""
    return onnx.model(
        [onnx.node("Gemm", ["x", "w", "b"], ["y"])],
        [onnx.value("x", ["n", 2])],
        [onnx.value("y", ["n", 1])],
        [
            onnx.constant("w", np.array([[2], [-1]], np.float32)),
            onnx.constant("b", np.array([0.5], np.float32)),
        ],
    )


@pytest.fixture
def probe_tflite(tflite_builder: Callable[[], Any]) -> bytes:
    """Make y = 2 x_0 - x_1 + 0.5, the model that stands in the package."""
    builder = tflite_builder()
    x = builder.tensor("x", [1, 2], is_free=True)
    w = builder.tensor("w", [1, 2], np.array([[2, -1]], np.float32))
    b = builder.tensor("b", [1], np.array([0.5], np.float32))
    y = builder.tensor("y", [1, 1], is_free=True)
    builder.operator("FULLY_CONNECTED", [x, w, b], [y], builder.schema.FullyConnectedOptionsT())
    return builder.pack([x], [y])


@pytest.fixture(scope="session")
def lstm(
    tflite_builder: Callable[[], Any],
) -> Callable[[np.random.Generator, int, int], tuple[bytes, Lstm]]:
    """Give what makes an LSTM as a TFLite file, and the same in numpy."""

    def make(random: np.random.Generator, inputs: int, cells: int) -> tuple[bytes, Lstm]:
        numbers = Lstm(random, inputs, cells)
        return numbers.pack(tflite_builder()), numbers

    return make


class Lstm:
    """One LSTM layer, one step a call; its memory is two variable tensors of the file.

    Source: Hochreiter and Schmidhuber 1997, with forget gate: gates i, f, g, o.
    """

    def __init__(self, random: np.random.Generator, inputs: int, cells: int) -> None:
        self._inputs, self._cells = inputs, cells
        self._w = random.normal(0, 0.5, (4, cells, inputs)).astype(np.float32)
        self._r = random.normal(0, 0.5, (4, cells, cells)).astype(np.float32)
        self._b = random.normal(0, 0.5, (4, cells)).astype(np.float32)
        self.reset()

    def reset(self) -> None:
        self._h, self._c = np.zeros((2, self._cells), np.float32)

    def step(self, x: np.ndarray) -> np.ndarray:
        i, f, g, o = self._w @ x + self._r @ self._h + self._b
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        self._c = f * self._c + i * np.tanh(g)
        self._h = o * np.tanh(self._c)
        return self._h

    def pack(self, builder: Any) -> bytes:
        x = builder.tensor("x", [1, 1, self._inputs])
        gates = "ifgo"
        w = [builder.tensor(f"w{n}", m.shape, m) for n, m in zip(gates, self._w, strict=True)]
        r = [builder.tensor(f"r{n}", m.shape, m) for n, m in zip(gates, self._r, strict=True)]
        b = [builder.tensor(f"b{n}", m.shape, m) for n, m in zip(gates, self._b, strict=True)]
        h, c = (builder.tensor(n, [1, self._cells], is_variable=True) for n in "hc")
        y = builder.tensor("y", [1, 1, self._cells])
        options = builder.schema.UnidirectionalSequenceLSTMOptionsT()
        options.fusedActivationFunction = builder.schema.ActivationFunctionType.TANH
        absent = -1
        inputs = [x, *w, *r, *3 * [absent], *b, absent, absent, h, c, *4 * [absent]]
        builder.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [y], options)
        return builder.pack([x], [y])
