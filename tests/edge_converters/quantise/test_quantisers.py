"""Tests of the quantised files, the same for both formats."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_converters.metrics import snr_db
from edge_converters.quantise.contracts import Recipe
from edge_converters.quantise.recipes import refreshed, saturated_weights
from edge_converters.quantise.refit import delta_bytes
from edge_runtime.errors import ConfigError, ModelError, ShapeError

MODELS = Path(__file__).parents[2] / "data" / "models"
_PRECISIONS = ["float32", "float16", "dynamic", "int8", "mixed"]


def _file(quantiser: Any, task: Any, precision: str) -> bytes:
    calibration = quantiser.calibrate(task.calibration)
    cures = {quantiser.operators[1].name: "float"} if precision == "mixed" else {}
    return bytes(quantiser.quantise(quantiser.recipe(precision, calibration, cures)))


@pytest.mark.parametrize(
    ("precision", "least_db", "most_share"),
    [("float16", 60, 0.6), ("dynamic", 35, 0.4), ("int8", 25, 0.4)],
)
def test_a_file_is_as_precise_and_as_small_as_its_kind(
    precision: str, least_db: float, most_share: float, fan: Any, quantiser_of: Any
) -> None:
    """Half precision, dynamic and int8 files load, answer like float and are smaller."""
    quantiser = quantiser_of(fan)
    windows = fan.search[0][:64]

    model = _file(quantiser, fan, precision)

    answers = quantiser.run(model, windows)
    assert snr_db(quantiser.run(quantiser.model, windows), answers) > least_db
    assert len(model) < most_share * len(quantiser.model)


@pytest.mark.parametrize("precision", _PRECISIONS)
def test_a_batch_answers_like_its_windows_alone(
    precision: str, fan: Any, quantiser_of: Any
) -> None:
    """No window's answer depends on the others it is asked with, to the byte."""
    quantiser = quantiser_of(fan)
    windows = fan.search[0][:40]

    model = _file(quantiser, fan, precision)

    alone = np.concatenate([quantiser.run(model, one[np.newaxis]) for one in windows])
    np.testing.assert_array_equal(quantiser.run(model, windows), alone)


@pytest.mark.parametrize("precision", _PRECISIONS)
def test_a_recipe_replays_to_the_byte(precision: str, fan: Any, quantiser_of: Any) -> None:
    """A recipe that went through JSON makes the same bytes with another quantiser."""
    first, second = quantiser_of(fan), quantiser_of(fan)
    cures = {first.operators[0].name: "float"} if precision == "mixed" else {}
    recipe = first.recipe(precision, first.calibrate(fan.calibration), cures)

    again = msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe)

    assert second.quantise(again) == first.quantise(recipe)
    assert recipe.model == hashlib.sha256(first.model).hexdigest()


def test_calibration_sees_the_model_itself(fan: Any, quantiser_of: Any) -> None:
    """The last tensor's range is that of the answers, the first one's that of the windows."""
    quantiser = quantiser_of(fan)

    found = quantiser.calibrate(fan.calibration)

    answers = quantiser.run(quantiser.model, fan.calibration)
    last = found.tensors[quantiser.operators[-1].output]
    assert (last.minimum, last.maximum) == pytest.approx((answers.min(), answers.max()), rel=1e-5)
    assert found.tensors["x"].maximum == fan.calibration.max()
    assert found.windows == len(fan.calibration)


def test_integers_need_a_calibration(fan: Any, quantiser_of: Any) -> None:
    """Asking for int8 without calibration data is an error that says what to give."""
    with pytest.raises(ConfigError, match="int8 needs calibration data"):
        quantiser_of(fan).recipe("int8", None, {})


@pytest.mark.parametrize("odd", ["short", "flat", "double", "none"])
def test_windows_of_another_shape_are_refused(odd: str, fan: Any, quantiser_of: Any) -> None:
    """Calibration data that do not fit end in an error that names both shapes."""
    windows = {
        "short": fan.calibration[:, :10],
        "flat": fan.calibration.reshape(len(fan.calibration), -1),
        "double": fan.calibration.astype(np.float64),
        "none": fan.calibration[:0],
    }[odd]

    with pytest.raises(ShapeError, match=r"windows have shape .* expected \(n, 64, 3\) of float32"):
        quantiser_of(fan).calibrate(windows)


def test_values_that_are_not_finite_are_refused(fan: Any, quantiser_of: Any) -> None:
    """NaN among the calibration windows is found, and no range is made of it."""
    windows = fan.calibration[:4].copy()
    windows[2, 5, 1] = np.nan

    with pytest.raises(ModelError, match="not finite"):
        quantiser_of(fan).calibrate(windows)


@pytest.mark.parametrize("cure", ["weights", "float"])
def test_a_cure_for_all_is_no_worse_than_int8(cure: str, fan: Any, quantiser_of: Any) -> None:
    """Int8 weights alone are more precise than int8 all through, and float is exact."""
    quantiser = quantiser_of(fan)
    windows = fan.search[0][:64]
    wanted = quantiser.run(quantiser.model, windows)
    calibration = quantiser.calibrate(fan.calibration)

    cures = {one.name: cure for one in quantiser.operators}
    model = quantiser.quantise(quantiser.recipe("mixed", calibration, cures))

    found = snr_db(wanted, quantiser.run(model, windows))
    int8 = snr_db(wanted, quantiser.run(_file(quantiser, fan, "int8"), windows))
    assert found > (int8 + 3 if cure == "weights" else 120)


def test_a_file_in_half_precision_is_quantised_too(fan: Any, tflite_quantiser: Any) -> None:
    """Weights that were stored in half precision become int8 as float ones do."""
    quantiser = tflite_quantiser(fan)
    half = type(quantiser)(_file(quantiser, fan, "float16"))

    int8 = _file(half, fan, "int8")

    windows = fan.search[0][:64]
    wanted = quantiser.run(quantiser.model, windows)
    assert snr_db(wanted, half.run(int8, windows)) > 25
    assert len(int8) < 0.75 * len(half.model)


def test_constants_among_the_inputs_are_no_inputs(fan: Any, onnx_quantiser: Any) -> None:
    """A file of an old exporter, which lists weights as inputs, makes the same int8 file."""
    onnx = pytest.importorskip("onnx")
    quantiser = onnx_quantiser(fan)
    model = onnx.load_from_string(quantiser.model)
    for one in model.graph.initializer:
        port = onnx.helper.make_tensor_value_info(one.name, one.data_type, one.dims)
        model.graph.input.insert(0, port)

    old = type(quantiser)(model.SerializeToString())

    assert _file(old, fan, "int8") == _file(quantiser, fan, "int8")


def test_nothing_is_said_aside(
    fan: Any, quantiser_of: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """The tools' advice, bars and warnings stay away from the terminal."""
    quantiser = quantiser_of(fan)
    capfd.readouterr()

    for precision in _PRECISIONS:
        _file(quantiser, fan, precision)

    assert capfd.readouterr() == ("", "")


def test_weights_have_a_scale_for_each_channel(fan: Any, quantiser_of: Any) -> None:
    """Scales by channel are more precise than one for all, and as many as channels."""
    quantiser = quantiser_of(fan)
    recipe = quantiser.recipe("int8", quantiser.calibrate(fan.calibration), {})

    files = [
        quantiser.quantise(msgspec.structs.replace(recipe, per_channel=one))
        for one in (True, False)
    ]

    sizes = [len(quantiser.scales(one)["w0"].scale) for one in files]
    assert sizes == [fan.network.layers[0].weights.shape[1], 1]


@pytest.mark.parametrize("precision", ["int8", "mixed"])
def test_a_refreshed_model_keeps_its_scales(precision: str, fan: Any, quantiser_of: Any) -> None:
    """Retrained weights in the old scales make a file of equal size that differs in few bytes."""
    before = quantiser_of(fan)
    cures = {before.operators[-2].name: "weights"} if precision == "mixed" else {}
    old_recipe = before.recipe(precision, before.calibrate(fan.calibration), cures)
    old = before.quantise(old_recipe)
    moved = _moved(fan)
    after = quantiser_of(moved)

    recipe = refreshed(old_recipe, after, before.scales(old))
    new = after.quantise(recipe)

    assert after.scales(new) == before.scales(old)
    assert saturated_weights(after, recipe) < 0.001
    anew = after.quantise(after.recipe(precision, after.calibrate(moved.calibration), cures))
    assert delta_bytes(old, new) < 0.9 * delta_bytes(old, anew)
    assert len(new) == len(old)
    windows = fan.search[0][:64]
    assert snr_db(after.run(after.model, windows), after.run(new, windows)) > 25


def test_a_refreshed_model_is_equalised_as_before(outliers: Any, quantiser_of: Any) -> None:
    """Factors belong to the scales: new weights are divided by the old ones, and fit."""
    before, after = quantiser_of(outliers), quantiser_of(_moved(outliers))
    old_recipe = before.recipe("int8", before.calibrate(outliers.calibration), {})
    old = before.quantise(old_recipe)

    recipe = refreshed(old_recipe, after, before.scales(old))
    new = after.quantise(recipe)

    assert recipe.factors == old_recipe.factors != {}
    assert saturated_weights(after, recipe) < 0.001
    assert after.scales(new) == before.scales(old)
    windows = outliers.search[0][:64]
    assert snr_db(after.run(after.model, windows), after.run(new, windows)) > 25


def test_weights_beyond_old_scales_are_counted(fan: Any, quantiser_of: Any) -> None:
    """A layer that grew fourfold does not fit its old scales, and the share says so."""
    before = quantiser_of(fan)
    recipe = before.recipe("int8", before.calibrate(fan.calibration), {})
    first, middle, last = fan.network.layers
    grown = replace(middle, weights=4 * middle.weights)
    after = quantiser_of(replace(fan, network=replace(fan.network, layers=(first, grown, last))))

    kept = refreshed(recipe, after, before.scales(before.quantise(recipe)))

    assert saturated_weights(after, kept) > 0.001


def _moved(task: Any) -> Any:
    """Change the weights of the middle layer by 2 %, as a short refit does."""
    first, middle, last = task.network.layers
    noise = np.random.default_rng(5).normal(1, 0.02, middle.weights.shape)
    middle = replace(middle, weights=(middle.weights * noise).astype(np.float32))
    return replace(task, network=replace(task.network, layers=(first, middle, last)))


def test_integer_sums_do_not_saturate(fan: Any, onnx_quantiser: Any) -> None:
    """ONNX Runtime's integer kernels answer as the graph means it, whatever the processor."""
    import onnxruntime

    quantiser = onnx_quantiser(fan)
    model = quantiser.quantise(quantiser.recipe("int8", quantiser.calibrate(fan.calibration), {}))
    windows = fan.search[0][:64]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(model, options)

    (meant,) = plain.run(None, {plain.get_inputs()[0].name: windows})

    assert snr_db(meant, quantiser.run(model, windows)) > 30
