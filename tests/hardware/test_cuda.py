"""A real NVIDIA GPU: `pytest -m hardware tests/hardware`, where onnxruntime-gpu is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends import load_session
from edge_runtime.doctor import examine
from edge_runtime.ports import Session, SessionOptions
from edge_runtime.spec import StateSpec, StateTensor

pytestmark = pytest.mark.hardware

MODELS = Path(__file__).parents[1] / "data" / "models"
# TF32 keeps ten bits of a product: the processor's answers need all 24.
EXACT = "cuda:use_tf32=0"


def _open(name: str, accelerator: str | None) -> Session:
    return load_session(
        "onnx", "onnx", (MODELS / name).read_bytes(), SessionOptions(accelerator=accelerator)
    )


def _windows(name: str, count: int) -> np.ndarray:
    spec = _open(name, None).inputs[0]
    return np.random.default_rng(7).normal(0, 50, (count, *spec.shape[1:])).astype(spec.dtype)


def test_every_single_window_is_answered_for_itself() -> None:
    """Not the one before, nor what the array held when the model was opened."""
    windows = _windows("ic_resnet8_float.onnx", 4)
    processor, gpu = (_open("ic_resnet8_float.onnx", one) for one in (None, EXACT))

    for window in windows:
        np.testing.assert_allclose(gpu.run(window[None]), processor.run(window[None]), atol=1e-4)


def test_state_is_carried_from_step_to_step() -> None:
    """The voice detector's state lives in its tensors, which travel to the GPU and back."""
    model = (MODELS / "silero_vad.onnx").read_bytes()
    state = StateSpec(tensors=(StateTensor("state", "stateN"),), constants={"sr": 16000})
    steps = np.random.default_rng(7).normal(0, 0.1, (20, 1, 576)).astype(np.float32)

    processor, gpu = (
        load_session("onnx", "onnx", model, SessionOptions(1, one, state, (576, 1)))
        for one in (None, EXACT)
    )

    for step in steps:
        np.testing.assert_allclose(gpu.run(step), processor.run(step), atol=1e-3)


def test_a_float_model_answers_on_cuda_as_on_the_processor() -> None:
    """Within a few units in the last place of a float32."""
    windows = _windows("ic_resnet8_float.onnx", 16)

    answers = [_open("ic_resnet8_float.onnx", one).run(windows) for one in (None, EXACT)]

    np.testing.assert_allclose(answers[1], answers[0], atol=1e-4)


@pytest.mark.parametrize("name", ["kws_dscnn_int8_qdq", "ad_autoencoder_int8_qdq"])
def test_an_int8_model_answers_on_cuda_as_its_golden_vectors(name: str) -> None:
    """CUDA computes quantised operators in float; an answer may move by two steps."""
    golden = np.load(MODELS / f"{name}.onnx.npz")

    answer = _open(f"{name}.onnx", EXACT).run(golden["input"])

    assert np.abs(answer.astype(np.int64) - golden["output"].astype(np.int64)).max() <= 2


def test_doctor_proves_cuda_with_a_model() -> None:
    """Not by import, nor by the list of what was built in."""
    found = [one for one in examine().accelerators if one.accelerator == "cuda"]

    assert [one.state for one in found] == ["works"]
