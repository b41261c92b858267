"""Inputs that never change become part of an ONNX model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends import load_session
from edge_runtime.backends.onnx import OnnxModel
from edge_runtime.backends.onnx_constants import with_constants
from edge_runtime.backends.onnx_graph import read_graph
from edge_runtime.errors import ModelError
from edge_runtime.ports import SessionOptions
from edge_runtime.spec import StateSpec, StateTensor

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

VOICE = Path(__file__).parents[2] / "data" / "models" / "silero_vad.onnx"
STATE = StateSpec(tensors=(StateTensor(input="state", output="stateN"),), constants={"sr": 16000.0})


def _scaled(element: int) -> bytes:
    """Return y = x * Cast(rate), with ``rate`` an input of the element type."""
    helper, kind = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["rate"], ["factor"], to=kind.FLOAT),
            helper.make_node("Mul", ["x", "factor"], ["y"]),
        ],
        "scaled",
        [
            helper.make_tensor_value_info("x", kind.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("rate", element, [1]),
        ],
        [helper.make_tensor_value_info("y", kind.FLOAT, ["batch", 3])],
    )
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def test_the_voice_detector_answers_the_same_bytes_without_its_rate() -> None:
    model = VOICE.read_bytes()
    settled = with_constants(model, {"sr": 16000.0}, {"input": (1, 576)})
    whole = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    short = onnxruntime.InferenceSession(settled, providers=["CPUExecutionProvider"])
    assert [one.name for one in short.get_inputs()] == ["input", "state"]
    random = np.random.default_rng(3)
    feed = {
        "input": random.normal(0, 0.1, (1, 576)).astype(np.float32),
        "state": random.normal(0, 1, (2, 1, 128)).astype(np.float32),
    }
    expected = whole.run(None, feed | {"sr": np.array(16000, np.int64)})
    found = short.run(None, feed)
    assert [one.tobytes() for one in found] == [one.tobytes() for one in expected]


def test_the_voice_detector_is_opened_without_its_rate() -> None:
    model = OnnxModel(VOICE.read_bytes(), SessionOptions(state=STATE, shape=(576, 1)))
    assert list(model.carried) == ["state"]
    assert model.state.constants == {}
    assert model.inputs[0].shape == (1, 576)


@pytest.mark.parametrize("element", ["FLOAT", "INT64", "INT32", "UINT8", "DOUBLE", "FLOAT16"])
def test_a_constant_takes_the_type_of_its_input(element: str) -> None:
    model = _scaled(getattr(onnx.TensorProto, element))
    settled = with_constants(model, {"rate": 5.0}, {"x": (1, 3)})
    onnx.checker.check_model(onnx.load_from_string(settled))
    assert [(port.name, port.shape) for port in read_graph(settled).inputs] == [("x", (1, 3))]
    state = StateSpec(constants={"rate": 5.0})
    session = load_session("onnx", "onnx", model, SessionOptions(state=state))
    answer = session.run(np.array([[1, 2, 3]], np.float32))
    assert answer.tolist() == [[5.0, 10.0, 15.0]]


def test_a_constant_that_is_no_number_stays_an_input() -> None:
    model = _scaled(onnx.TensorProto.STRING)
    with pytest.raises(ValueError, match="element type"):
        with_constants(model, {"rate": 5.0}, {})


def test_a_constant_that_the_model_has_no_input_for_is_told() -> None:
    state = StateSpec(constants={"speed": 5.0, "rate": 1.0})
    model = _scaled(onnx.TensorProto.INT64)
    with pytest.raises(ModelError, match="no input speed"):
        load_session("onnx", "onnx", model, SessionOptions(state=state))
