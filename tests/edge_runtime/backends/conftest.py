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
