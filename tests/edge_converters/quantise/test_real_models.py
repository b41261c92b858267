"""Tests of public float models: each precision loads, answers, and keeps its contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_converters.metrics import classes_of, snr_db
from edge_runtime.errors import ModelError
from edge_runtime.ports import SessionOptions
from edge_runtime.spec import StateSpec, StateTensor

DATA = Path(__file__).parents[2] / "data"
_LEAST_DB = {"float16": 40, "dynamic": 20, "int8": 15}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Give pictures of smooth random colours, 0 to 255, as the image model takes them."""
    draw = np.random.default_rng(0)
    coarse = draw.uniform(0, 255, (24, 5, 5, 3))
    places = np.linspace(0, 4, 32)
    low, part = np.floor(places).astype(int), places % 1
    high = np.minimum(low + 1, 4)
    for axis in (1, 2):
        shape = [-1 if one == axis else 1 for one in range(4)]
        weight = part.reshape(shape)
        left, right = np.take(coarse, low, axis), np.take(coarse, high, axis)
        coarse = left * (1 - weight) + right * weight
    return coarse.astype(np.float32)


@pytest.mark.parametrize("precision", ["float16", "dynamic", "int8"])
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_an_image_model_is_quantised(kind: str, precision: str, images: np.ndarray) -> None:
    """ResNet-8 becomes smaller in every precision, and names nearly the same classes."""
    quantiser = _quantiser(kind, (DATA / "models" / f"ic_resnet8_float.{kind}").read_bytes())
    calibration = quantiser.calibrate(images)

    model = quantiser.quantise(quantiser.recipe(precision, calibration, {}))

    wanted, found = quantiser.run(quantiser.model, images), quantiser.run(model, images)
    assert snr_db(wanted, found) > _LEAST_DB[precision]
    assert np.mean(classes_of(wanted) == classes_of(found)) >= 0.9
    assert len(model) < (0.6 if precision == "float16" else 0.4) * len(quantiser.model)


@pytest.mark.parametrize("precision", ["float16", "dynamic", "int8"])
def test_a_tiny_regressor_is_quantised(precision: str) -> None:
    """The sine network of TFLite Micro stays a sine."""
    quantiser = _quantiser("tflite", (DATA / "models" / "hello_world_float.tflite").read_bytes())
    angles = np.linspace(0, 2 * np.pi, 200, dtype=np.float32)[:, np.newaxis]

    model = quantiser.quantise(quantiser.recipe(precision, quantiser.calibrate(angles), {}))

    wanted, found = quantiser.run(quantiser.model, angles), quantiser.run(model, angles)
    assert np.abs(wanted - found).max() < 0.1


def test_a_model_with_state_becomes_half_precision() -> None:
    """The voice detector carries its state in half precision as well as in single."""
    state = StateSpec(tensors=(StateTensor("state", "stateN"),), constants={"sr": 16000.0})
    model = (DATA / "models" / "silero_vad.onnx").read_bytes()
    quantiser = _quantiser("onnx", model, SessionOptions(state=state))
    windows = np.random.default_rng(0).normal(0, 0.05, (2, 20, 576)).astype(np.float32)

    half = quantiser.quantise(quantiser.recipe("float16", None, {}))

    assert len(half) < 0.6 * len(model)
    assert snr_db(quantiser.run(model, windows), quantiser.run(half, windows)) > 40


def test_a_model_of_branches_is_refused() -> None:
    """What cannot be quantised is said in words: no file comes of it."""
    quantiser = _quantiser("onnx", (DATA / "models" / "silero_vad.onnx").read_bytes())
    recipe = quantiser.recipe("dynamic", None, {})

    with pytest.raises(ModelError, match="nothing in the ONNX model can be made dynamic"):
        quantiser.quantise(recipe)


def test_a_model_with_state_is_not_calibrated() -> None:
    """Where nobody says which inputs are state, no range is made of windows alone."""
    quantiser = _quantiser("onnx", (DATA / "models" / "silero_vad.onnx").read_bytes())

    with pytest.raises(ModelError, match="nobody fills the inputs state, sr"):
        quantiser.calibrate(np.zeros((2, 576), np.float32))


@pytest.mark.parametrize(("kind", "model"), [("onnx", b"\x08\x08nothing"), ("tflite", b"nothing")])
def test_other_bytes_are_refused(kind: str, model: bytes) -> None:
    """Bytes that are no model end in an error, not in a crash."""
    with pytest.raises(ModelError, match="this is no"):
        _quantiser(kind, model)


def test_a_streaming_model_of_several_graphs_is_refused() -> None:
    """A model whose state lives in resource variables is not quantised, and the reason is told."""
    model = (DATA / "models" / "okay_nabu.tflite").read_bytes()

    with pytest.raises(ModelError, match="graphs and"):
        _quantiser("tflite", model)


def _quantiser(kind: str, model: bytes, options: SessionOptions | None = None) -> Any:
    if kind == "onnx":
        pytest.importorskip("onnx")
        from edge_converters.quantise.onnx import OnnxQuantiser

        return OnnxQuantiser(model, options)
    pytest.importorskip("litert_quantizer")
    from edge_converters.quantise.tflite import TFLiteQuantiser

    return TFLiteQuantiser(model)
