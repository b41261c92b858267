"""A run of ONNX Runtime can be ended from another thread."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from edge_runtime.backends import load_session
from edge_runtime.backends.onnx import OnnxSession
from edge_runtime.errors import ModelError

ENDLESS, HARMLESS = np.array([[1, 1]], np.float32), np.array([[-1, 2]], np.float32)
LIMIT_S = 90.0


@pytest.fixture
def session(onnx: Any) -> OnnxSession:
    """Loop for ever if the first value is positive, else answer the input."""
    body = onnx.graph(
        [onnx.node("Identity", ["go"], ["go_on"]), onnx.node("Identity", ["v"], ["v_out"])],
        [onnx.value("i", [], 7), onnx.value("go", [], 9), onnx.value("v", [1, 2])],
        [onnx.value("go_on", [], 9), onnx.value("v_out", [1, 2])],
    )
    model = onnx.model(
        [
            onnx.node("Gather", ["x", "zero"], ["first"], [onnx.attribute("axis", i=1)]),
            onnx.node("ReduceMax", ["first"], ["most"], [onnx.attribute("keepdims", i=0)]),
            onnx.node("Greater", ["most", "nought"], ["go"]),
            onnx.node("Loop", ["", "go", "x"], ["y"], [onnx.attribute("body", graph=body)]),
        ],
        [onnx.value("x", [1, 2])],
        [onnx.value("y", [1, 2])],
        [
            onnx.constant("zero", np.array([0], np.int64), 7),
            onnx.constant("nought", np.array(0, np.float32)),
        ],
    )
    loaded = load_session(None, "onnx", model)
    assert isinstance(loaded, OnnxSession)
    return loaded


def test_an_endless_run_ends_when_interrupted_and_the_next_one_works(session: OnnxSession) -> None:
    """The call raises, and the same session answers again as before, twice over."""
    for _ in range(2):
        ends: list[Exception] = []

        def run(ends: list[Exception] = ends) -> None:
            try:
                session.run(ENDLESS)
            except ModelError as error:
                ends.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        session.interrupt()
        thread.join(LIMIT_S)

        assert not thread.is_alive()
        assert "terminate" in str(ends[0])
        assert session.run(HARMLESS).tolist() == HARMLESS.tolist()
