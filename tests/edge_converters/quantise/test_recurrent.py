"""Recurrent cells in integers: the same products, ranges of a real state, and a float state."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_converters.metrics import snr_db
from edge_converters.outputs import state_of
from edge_converters.quantise.contracts import Recipe
from edge_converters.quantise.onnx import OnnxQuantiser
from edge_converters.quantise.onnx_graph import prepare
from edge_converters.quantise.recurrent import unfold
from edge_runtime.backends import load_session
from edge_runtime.errors import ModelError, ShapeError
from edge_runtime.ports import SessionOptions

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
INPUTS, HIDDEN = 3, 8


def cell(
    kind: str,
    *,
    steps: int = 1,
    seed: int = 0,
    sizes: tuple[int, int] = (INPUTS, HIDDEN),
    has_bias: bool = True,
    bias: np.ndarray | None = None,
    **attributes: Any,
) -> bytes:
    """Write a recurrent operator over (1, steps, inputs), its state as inputs and outputs."""
    dice, (inputs, hidden), gates = np.random.default_rng(seed), sizes, GATES[kind]
    weights = {
        "w": dice.normal(0, 0.7, (1, gates * hidden, inputs)),
        "r": dice.normal(0, 0.9 / np.sqrt(hidden), (1, gates * hidden, hidden)),
        "b": dice.normal(0, 0.3, (1, 2 * gates * hidden)) if bias is None else bias,
    }
    letters = "hc" if kind == "LSTM" else "h"
    states = [helper.make_tensor_value_info(f"{one}_in", 1, [1, 1, hidden]) for one in letters]
    after = [helper.make_tensor_value_info(f"{one}_out", 1, [1, 1, hidden]) for one in letters]
    node = helper.make_node(
        kind,
        ["turned", "w", "r", "b" if has_bias else "", "", *(one.name for one in states)],
        ["all", *(one.name for one in after)],
        "cell",
        hidden_size=hidden,
        **attributes,
    )
    constants = [
        numpy_helper.from_array(one.astype(np.float32), name)
        for name, one in weights.items()
        if has_bias or name != "b"
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["turned"], "turn", perm=[1, 0, 2]),
            node,
            helper.make_node("Transpose", ["all"], ["y"], "turn_back", perm=[2, 0, 1, 3]),
        ],
        "cell",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, steps, inputs]), *states],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, steps, 1, hidden]), *after],
        constants,
    )
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def options_of(model: bytes) -> SessionOptions:
    return SessionOptions(state=state_of("onnx", model, {}))


def quantiser_of(model: bytes) -> OnnxQuantiser:
    return OnnxQuantiser(model, options_of(model))


def walks(count: int, steps: int, *, seed: int = 1) -> np.ndarray:
    """Make walks that come back, shape (count, steps, 1, INPUTS)."""
    noise = np.random.default_rng(seed).normal(0, 0.5, (count, steps, 1, INPUTS))
    for step in range(1, steps):
        noise[:, step] += 0.9 * noise[:, step - 1]
    return noise.astype(np.float32)


def kinds_in(model: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_from_string(model).graph.node}


# --- what an operator computes ----------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(
        [("RNN", {}), ("LSTM", {})] + [("GRU", {"linear_before_reset": one}) for one in (0, 1)]
    ),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 9)),
    has_bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_an_unfolded_operator_answers_like_itself(
    kind: tuple[str, dict[str, int]], sizes: tuple[int, int], has_bias: bool, seed: int
) -> None:
    """Output and state, whatever they were before."""
    name, attributes = kind
    model = cell(name, seed=seed, sizes=sizes, has_bias=has_bias, **attributes)
    graph = prepare(model)

    products, gates = unfold(graph, "cell")

    assert products
    assert not products & gates
    assert not GATES.keys() & {node.op_type for node in graph.graph.node}
    whole, parts = (onnxruntime.InferenceSession(one) for one in (model, graph.SerializeToString()))
    dice = np.random.default_rng(seed)
    fed = {one.name: dice.normal(0, 1, one.shape).astype(np.float32) for one in whole.get_inputs()}
    for wanted, found in zip(whole.run(None, fed), parts.run(None, fed), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "attributes",
    [{"clip": 1.0}, {"activations": ["Sigmoid", "Relu"]}, {"direction": "reverse"}, {"steps": 4}],
    ids=["clip", "activations", "reverse", "steps"],
)
def test_an_operator_of_another_kind_has_integer_weights_alone(attributes: dict[str, Any]) -> None:
    """What would be computed otherwise, or once for each step, stays an operator."""
    steps = attributes.get("steps", 1)
    model = cell("GRU", **attributes)
    quantiser = quantiser_of(model)
    windows = walks(8, 12).reshape(8, 12 // steps, steps, INPUTS)

    made = quantiser.quantise(quantiser.recipe("int8", quantiser.calibrate(windows), {}))

    assert "GRU" in kinds_in(made)
    assert not {"QuantizeLinear"} & kinds_in(made)
    assert snr_db(quantiser.run(model, windows), quantiser.run(made, windows)) > 35


# --- ranges -----------------------------------------------------------------------------


def stepped(model: bytes, sequence: np.ndarray) -> np.ndarray:
    """Return the state after every step of a sequence, from zeros."""
    session = onnxruntime.InferenceSession(model)
    states = {one.name: np.zeros(one.shape, np.float32) for one in session.get_inputs()[1:]}
    seen = [states["h_in"]]
    for step in sequence:
        _, *after = session.run(None, {"x": step[np.newaxis], **states})
        states = dict(zip(states, after, strict=True))
        seen.append(states["h_in"])
    return np.stack(seen)


@pytest.mark.parametrize("kind", sorted(GATES))
def test_the_range_of_a_state_is_what_streams_make_of_it(kind: str) -> None:
    """From step to step, and from zeros again where a sequence begins."""
    model, windows = cell(kind), walks(5, 30)

    tensors = quantiser_of(model).calibrate(windows).tensors

    states = [stepped(model, one) for one in windows]
    after = np.stack([one[1:] for one in states])
    assert tensors["h_out"].minimum == pytest.approx(after.min(), abs=1e-6)
    assert tensors["h_out"].maximum == pytest.approx(after.max(), abs=1e-6)
    before = np.stack([one[:-1] for one in states])
    assert tensors["cell.h"].minimum == pytest.approx(before.min(), abs=1e-6)
    assert tensors["cell.h"].maximum == pytest.approx(before.max(), abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(4)))
def test_ranges_do_not_depend_on_the_order_of_sequences(order: list[int]) -> None:
    """Nothing of one sequence is left in the next."""
    quantiser, windows = quantiser_of(cell("GRU")), walks(4, 10)

    found, wanted = (quantiser.calibrate(one).tensors for one in (windows[order], windows))
    assert {name: (one.minimum, one.maximum, one.histogram) for name, one in found.items()} == {
        name: (one.minimum, one.maximum, one.histogram) for name, one in wanted.items()
    }


def test_an_input_that_nobody_fills_is_refused() -> None:
    """Windows alone do not tell which values state takes."""
    with pytest.raises(ModelError, match="nobody fills the inputs h_in"):
        OnnxQuantiser(cell("GRU")).calibrate(walks(2, 3)[:, 0])


def test_sequences_of_another_shape_are_refused() -> None:
    """With the shape that is expected of one step."""
    with pytest.raises(ShapeError, match="input 'x'"):
        quantiser_of(cell("GRU")).calibrate(walks(2, 3)[..., :2])


# --- files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "least_db"), [("float16", 55), ("dynamic", 35), ("int8", 25), ("mixed", 25)]
)
@pytest.mark.parametrize("kind", sorted(GATES))
def test_every_precision_answers_along_a_stream(kind: str, precision: Any, least_db: float) -> None:
    """State is fed back, so that errors could add up; they do not."""
    model, windows = cell(kind, sizes=(INPUTS, 24)), walks(6, 200)
    quantiser = quantiser_of(model)
    cures: Any = {"cell": "weights"} if precision == "mixed" else {}

    recipe = quantiser.recipe(precision, quantiser.calibrate(windows), cures)
    made = quantiser.quantise(recipe)

    assert quantiser.quantise(recipe) == made
    wanted, found = quantiser.run(model, windows), quantiser.run(made, windows)
    assert snr_db(wanted, found) > least_db
    assert snr_db(wanted[:, -20:], found[:, -20:]) > least_db - 3


def test_weights_of_a_cell_are_a_quarter() -> None:
    """One byte instead of four, and a scale for each row."""
    model = cell("GRU", sizes=(INPUTS, 64))
    quantiser = quantiser_of(model)

    made = quantiser.quantise(quantiser.recipe("dynamic", None, {}))

    assert len(made) < 0.35 * len(model)
    assert kinds_in(made) == {"GRU", "DequantizeLinear", "Transpose"}


def test_an_integer_cell_computes_products_in_integers() -> None:
    """Both factors of each product come out of integers; what lies between is float."""
    quantiser = quantiser_of(cell("GRU", linear_before_reset=1))
    recipe = quantiser.recipe("int8", quantiser.calibrate(walks(6, 50)), {})

    graph = onnx.load_from_string(quantiser.quantise(recipe)).graph

    made_by = {one.output[0]: one.op_type for one in graph.node}
    products = [one for one in graph.node if one.op_type == "Gemm"]
    assert len(products) == 2
    assert {made_by[name] for one in products for name in one.input[:2]} == {"DequantizeLinear"}
    between = {"Add", "Sub", "Mul", "Sigmoid", "Tanh", "Split"}
    read = {name for one in graph.node if one.op_type in between for name in one.input}
    assert "DequantizeLinear" not in {made_by.get(name, "") for name in read}
    assert {one.type.tensor_type.elem_type for one in (*graph.input, *graph.output)} == {1}


def test_a_state_that_is_kept_is_not_rounded() -> None:
    """A gate that lets nothing in leaves the state alone for 1,000 steps, int8 or not.

    An int8 state would be off by half a step of its scale, 0.004, after the first.
    """
    hold = np.zeros((1, 6 * HIDDEN))
    hold[0, :HIDDEN] = 40
    model = cell("GRU", bias=hold)
    quantiser = quantiser_of(model)
    int8 = quantiser.quantise(quantiser.recipe("int8", quantiser.calibrate(walks(6, 50)), {}))
    begun = np.random.default_rng(5).uniform(-1, 1, HIDDEN).astype(np.float32)

    session = load_session(None, "onnx", int8, options_of(model))
    session.restore(begun.tobytes())
    for step in walks(1, 1000)[0]:
        session.run(step[np.newaxis])

    kept = np.frombuffer(session.state() or b"", np.float32)
    session.close()
    np.testing.assert_allclose(kept, begun, atol=1e-4)


def test_retrained_weights_keep_the_scales_of_a_cell() -> None:
    """They are found under the names that the file before has."""
    before = quantiser_of(cell("LSTM"))
    recipe: Recipe = before.recipe("int8", before.calibrate(walks(6, 50)), {})

    scales = before.scales(before.quantise(recipe))

    assert before.weights({}).keys() == {"cell.xw_w", "cell.hr_w"}
    assert before.weights({}).keys() <= scales.keys()
