"""Every output of a file passes the gate, and the first one decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_converters import Request, convert
from edge_converters.contracts import Candidate, Format
from edge_converters.outputs import further_outputs, led_by, state_of
from edge_converters.quantise.answers import answer_all
from edge_converters.quantise.contracts import Budget, Quantiser, Samples
from edge_converters.quantise.onnx import OnnxQuantiser
from edge_converters.quantise.search import search
from edge_converters.quantise.tflite import TFLiteQuantiser
from edge_converters.reporting import report_of
from edge_converters.stages.float_file import FloatFile
from edge_converters.stages.verify import verified
from edge_converters.targets import target_of
from edge_runtime.errors import ModelError
from edge_runtime.spec import StateSpec

SIZE, HIDDEN = 12, 24
HEADS = {"class": 4, "place": 6}
Heads = dict[str, tuple[np.ndarray, np.ndarray]]


def weights(*, unequal: float = 1.0) -> Heads:
    """Draw a hidden layer and two heads; ``unequal`` stretches one input of the second."""
    dice = np.random.default_rng(0)
    shapes = {"hidden": (SIZE, HIDDEN)} | {name: (HIDDEN, size) for name, size in HEADS.items()}
    drawn: Heads = {
        name: (
            dice.normal(0, shape[0] ** -0.5, shape).astype(np.float32),
            dice.normal(0, 0.1, shape[1]).astype(np.float32),
        )
        for name, shape in shapes.items()
    }
    drawn["hidden"][0][:, 0] *= np.float32(unequal)
    drawn["class"][0][0] /= np.float32(unequal)
    drawn["place"][0][0] = 0
    return drawn


def as_onnx(drawn: Heads) -> bytes:
    constants, nodes = [], []

    def dense(name: str, source: str) -> None:
        values = zip((f"{name}_w", f"{name}_b"), drawn[name], strict=True)
        constants.extend(numpy_helper.from_array(one, key) for key, one in values)
        nodes.append(helper.make_node("Gemm", [source, f"{name}_w", f"{name}_b"], [name], name))

    dense("hidden", "x")
    nodes.append(helper.make_node("Relu", ["hidden"], ["shared"], "relu"))
    for name in HEADS:
        dense(name, "shared")
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIZE])
    answers = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in HEADS.items()
    ]
    graph = helper.make_graph(nodes, "heads", [entry], answers, constants)
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def as_tflite(drawn: Heads, builder: Any) -> bytes:
    schema = builder.schema

    def dense(name: str, source: int) -> int:
        values, bias = drawn[name][0].T.copy(), drawn[name][1]
        options = schema.FullyConnectedOptionsT()
        if name == "hidden":
            options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        result = builder.tensor(name, [1, len(bias)])
        constants = [
            builder.tensor(f"{name}_w", values.shape, values),
            builder.tensor(f"{name}_b", bias.shape, bias),
        ]
        builder.operator("FULLY_CONNECTED", [source, *constants], [result], options)
        return int(result)

    entry = builder.tensor("x", [1, SIZE])
    shared = dense("hidden", entry)
    return bytes(builder.pack([entry], [dense(name, shared) for name in HEADS]))


Maker = Callable[..., tuple[Format, bytes]]


@pytest.fixture(params=["onnx", "tflite"])
def made(request: pytest.FixtureRequest, tflite_builder: Any) -> Maker:
    """Give what makes a file with two outputs, in each format."""

    def make(**told: float) -> tuple[Format, bytes]:
        if request.param == "onnx":
            return "onnx", as_onnx(weights(**told))
        return "tflite", as_tflite(weights(**told), tflite_builder())

    return make


def quantiser_of(form: Format, model: bytes) -> Quantiser:
    return OnnxQuantiser(model) if form == "onnx" else TFLiteQuantiser(model)


def windows(count: int = 96) -> np.ndarray:
    """Make readings that hang together, shape (count, SIZE)."""
    steps = np.random.default_rng(1).normal(0, 0.3, (count, SIZE))
    return np.cumsum(steps, axis=1).astype(np.float32)


def meant(drawn: Heads, rows: np.ndarray) -> list[np.ndarray]:
    shared = np.maximum(rows @ drawn["hidden"][0] + drawn["hidden"][1], 0)
    return [shared @ drawn[name][0] + drawn[name][1] for name in HEADS]


def test_every_output_is_asked(made: Maker) -> None:
    """The deciding one first, each with what it means."""
    form, model = made()

    found = answer_all(form, model, windows())

    assert list(further_outputs(form, model, StateSpec())) == ["place"]
    for one, wanted in zip(found, meant(weights(), windows()), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-4, atol=1e-5)


def test_a_file_led_by_another_output_is_otherwise_the_same(made: Maker) -> None:
    """Led twice, it is back at its beginning."""
    form, model = made()

    led = led_by(form, model, 1)

    first, second = answer_all(form, model, windows())
    for wanted, found in zip((second, first), answer_all(form, led, windows()), strict=True):
        np.testing.assert_array_equal(found, wanted)
    again = led_by(form, led, 1)
    for wanted, found in zip((first, second), answer_all(form, again, windows()), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_state_is_no_output(tmp_path: Path) -> None:
    """What carries state is not asked as an answer."""
    model = onnx.load_from_string(as_onnx(weights()))
    model.graph.input.append(helper.make_tensor_value_info("place_in", 1, [1, 6]))
    model.graph.output[1].name = "place_out"
    model.graph.node[-1].output[0] = "place_out"
    content = model.SerializeToString()

    state = state_of("onnx", content, {})

    assert [one.output for one in state.tensors] == ["place_out"]
    assert further_outputs("onnx", content, state) == {}


@pytest.mark.parametrize("precision", ["float16", "dynamic", "int8"])
def test_every_precision_keeps_every_output(made: Maker, precision: Any) -> None:
    """Names, places and answers."""
    form, model = made()
    quantiser = quantiser_of(form, model)

    file = quantiser.quantise(quantiser.recipe(precision, quantiser.calibrate(windows()), {}))

    assert len(further_outputs(form, file, StateSpec())) == 1
    for wanted, found in zip(
        meant(weights(), windows()), answer_all(form, file, windows()), strict=True
    ):
        noise = np.square(wanted - found).sum()
        assert 10 * np.log10(np.square(wanted).sum() / noise) > 25


def test_the_search_rescues_an_output_that_decides_nothing(made: Maker) -> None:
    """A channel 3,000 times as large ruins the second head alone; then less is int8.

    The heads read the same layer, so channels cannot be equalised.
    """
    form, model = made(unequal=3000)
    quantiser = quantiser_of(form, model)
    calibration = quantiser.calibrate(windows())
    broken = quantiser.run_all(
        quantiser.quantise(quantiser.recipe("int8", calibration, {})), windows()
    )
    reference = quantiser.run_all(model, windows())

    found = search(quantiser, calibration, Samples(windows()), Budget("snr", 8.0))

    def ratio_db(outputs: Sequence[np.ndarray], place: int) -> float:
        noise = np.square(reference[place] - outputs[place]).sum()
        return float(10 * np.log10(np.square(reference[place]).sum() / noise))

    assert ratio_db(broken, 1) < 10
    assert found.is_within_budget
    assert found.chosen.recipe.cures
    assert ratio_db(quantiser.run_all(found.chosen.model, windows()), 1) >= 10


def test_a_candidate_whose_second_output_is_broken_is_not_sound(tmp_path: Path) -> None:
    """The gate says which output, and how far it is."""
    content = as_onnx(weights())
    broken = onnx.load_from_string(content)
    bias = next(one for one in broken.graph.initializer if one.name == "place_b")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 9, "place_b"))
    file = tmp_path / "broken.onnx"
    file.write_bytes(broken.SerializeToString())
    np.save(tmp_path / "asked.npy", windows(8))
    first, second = (one.astype(np.float32) for one in answer_all("onnx", content, windows(8)))
    float_ = FloatFile(
        origin=None,  # type: ignore[arg-type]
        form="onnx",
        file=file,
        precision="float32",
        steps=(),
        described=None,  # type: ignore[arg-type]
        inputs=tmp_path / "asked.npy",
        answers=first,
        others={"place": second},
        shape=(SIZE,),
    )
    one = Candidate(format="onnx", precision="int8", file=file, size_bytes=1)

    seen = verified(one, float_, Request(model="m", output=tmp_path), target_of("desktop"))

    assert not seen.is_sound
    assert "output 'place'" in seen.verified[0].reason
    assert seen.verified[0].parity is not None
    assert seen.verified[0].parity.snr_db is None


def test_other_bytes_have_no_outputs() -> None:
    """What cannot be read is a refusal, not a crash."""
    with pytest.raises(ModelError, match="cannot be read"):
        further_outputs("onnx", b"\x08\x08nothing", StateSpec())


@pytest.mark.slow
def test_one_command_proves_every_output(tmp_path: Path, made: Maker) -> None:
    """Candidates of every precision, judged by the first output; the report shows both."""
    form, model = made()
    rows = windows(160)
    (tmp_path / f"heads.{form}").write_bytes(model)
    np.savez(tmp_path / "calib.npz", inputs=rows[:80])
    labels = meant(weights(), rows)[0].argmax(1)
    np.savez(tmp_path / "eval.npz", inputs=rows, labels=labels)

    outcome = convert(
        Request(
            model=str(tmp_path / f"heads.{form}"),
            output=tmp_path / "bundle",
            calib=tmp_path / "calib.npz",
            eval=tmp_path / "eval.npz",
            metric="accuracy",
            max_drop=0.2,
        )
    )

    assert {"float32", "float16", "dynamic", "int8"} <= {
        one.precision for one in outcome.candidates
    }
    for one in outcome.candidates:
        assert set(one.verified[0].others) == {"place"}
        assert one.is_sound
    judged = [one.verdict for one in outcome.candidates if one.verdict]
    assert {one.float_value for one in judged} == {1.0}
    assert {row.output for row in report_of(outcome).parity} == {"", "place"}
