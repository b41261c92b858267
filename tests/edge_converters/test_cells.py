"""A recurrent network becomes a cell that answers a stream as the whole answers its windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_converters import Request, convert
from edge_converters.recipes import load_recipe, replayed
from edge_converters.workers.jobs.cells import cut
from edge_converters.workers.refusal import Refusal
from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import load_bundle
from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.types import Windows

STEPS, CHANNELS, HIDDEN, ANSWERS = 12, 3, 5, 2
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
Node = tuple[str, Sequence[str], dict[str, Any]]


class Net:
    """A graph over a sequence, (batch, steps, channels) to what its last node answers."""

    def __init__(self, steps: int | str = STEPS, batch: int | str = "n") -> None:
        self._dice = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.entry = helper.make_tensor_value_info("x", 1, [batch, steps, CHANNELS])
        self.last = "x"

    def node(self, kind: str, *more: str, output: str = "", **attributes: Any) -> Net:
        """Add a node that takes the last one's output, and what is named besides."""
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.last, *more], [name], name, **attributes))
        self.last = name
        return self

    def constant(self, values: Any, dtype: type = np.float32) -> str:
        """Add a constant; return its name."""
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weights(self, *shape: int) -> str:
        """Add a constant that is drawn; return its name."""
        return self.constant(self._dice.normal(0, 0.5, shape))

    def recurrent(
        self, kind: str, inputs: int = CHANNELS, *, state: str = "", **attributes: Any
    ) -> Net:
        """Add a layer from (batch, steps, inputs) to the same with HIDDEN; time comes first in it.

        Args:
            kind: ``GRU``, ``LSTM`` or ``RNN``.
            inputs: Channels of what it takes.
            state: Constant that it begins with; none by default.
            **attributes: Of the operator.
        """
        gates = GATES[kind]
        sides = 2 if attributes.get("direction") == "bidirectional" else 1
        named = [
            self.weights(sides, gates * HIDDEN, inputs),
            self.weights(sides, gates * HIDDEN, HIDDEN),
            self.weights(sides, 2 * gates * HIDDEN),
            "",
            state,
        ]
        self.node("Transpose", perm=[1, 0, 2])
        self.node(kind, *named, hidden_size=HIDDEN, **attributes)
        self.node("Transpose", perm=[2, 0, 1, 3])
        return self.node("Reshape", self.constant([0, STEPS, sides * HIDDEN], np.int64))

    def last_step(self) -> Net:
        return self.node("Gather", self.constant(-1, np.int64), axis=1)

    def dense(self, inputs: int = HIDDEN) -> Net:
        """Add y = x W + b over the last axis."""
        self.node("MatMul", self.weights(inputs, ANSWERS))
        return self.node("Add", self.weights(ANSWERS))

    def save(self, path: Path) -> Path:
        answer = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "net", [self.entry], [answer], self.constants)
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        path.write_bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())
        return path


def classifier(kind: str, layers: int = 1) -> Net:
    net = Net()
    for number in range(layers):
        net.recurrent(kind, HIDDEN if number else CHANNELS)
    return net.last_step().dense()


def sequences(count: int = 3) -> np.ndarray:
    """Make walks, shape (count, STEPS, CHANNELS)."""
    steps = np.random.default_rng(1).normal(0, 0.5, (count, STEPS, CHANNELS))
    return np.cumsum(steps, axis=1).astype(np.float32)


def answers(model: Path, window: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: window[None]})[0])


def stepped(cell: Path, window: np.ndarray, hop: int) -> list[np.ndarray]:
    """Return a cell's answer to each hop, from a state of zeros."""
    session = onnxruntime.InferenceSession(cell)
    entry, *states = session.get_inputs()
    fed = {one.name: np.zeros(one.shape, np.float32) for one in states}
    found = []
    for first in range(0, len(window), hop):
        answer, *after = session.run(None, {entry.name: window[None, first : first + hop], **fed})
        found.append(answer)
        fed = dict(zip(fed, after, strict=True))
    return found


# --- cells ------------------------------------------------------------------------------


@pytest.mark.parametrize("hop", [1, 4, STEPS])
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_cell_ends_where_the_whole_does(tmp_path: Path, kind: str, layers: int, hop: int) -> None:
    """After the last step, for every kind of layer, alone and stacked."""
    model = classifier(kind, layers).save(tmp_path / "net.onnx")

    told = cut(str(model), str(tmp_path / "cell.onnx"), hop, [STEPS, CHANNELS])

    window = sequences(1)[0]
    assert told["is_sequence"] is False
    found = stepped(tmp_path / "cell.onnx", window, hop)
    np.testing.assert_allclose(found[-1], answers(model, window), rtol=1e-5, atol=1e-6)
    states = layers * (2 if kind == "LSTM" else 1)
    assert len(onnx.load(tmp_path / "cell.onnx").graph.input) == 1 + states


@pytest.mark.parametrize("hop", [1, 3])
def test_a_cell_answers_every_step_where_the_whole_does(tmp_path: Path, hop: int) -> None:
    """With a network that has an answer for each step."""
    model = Net().recurrent("GRU").dense().save(tmp_path / "net.onnx")

    told = cut(str(model), str(tmp_path / "cell.onnx"), hop, [STEPS, CHANNELS])

    window = sequences(1)[0]
    found = np.concatenate(stepped(tmp_path / "cell.onnx", window, hop), axis=1)
    assert told["is_sequence"] is True
    np.testing.assert_allclose(found, answers(model, window), rtol=1e-5, atol=1e-6)


def before_and_behind() -> Net:
    """Make a network with layers that take each step alone around its recurrent one."""
    net = Net()
    net.node("Sub", net.constant(np.ones(CHANNELS))).node("Mul", net.constant([[[0.5] * 3]]))
    net.dense(CHANNELS).node("Tanh").node("LayerNormalization", net.weights(ANSWERS), axis=-1)
    net.recurrent("LSTM", ANSWERS).node("Relu").last_step()
    return net.dense().node("Softmax", axis=-1)


def sliced() -> Net:
    """Make a network that takes its last step with a slice, by its number."""
    net = Net().recurrent("GRU")
    far = np.iinfo(np.int64).max
    of_time = [net.constant([value], np.int64) for value in (STEPS - 1, far, 1)]
    return net.node("Slice", *of_time).node("Squeeze", net.constant([1], np.int64)).dense()


def by_channel() -> Net:
    """Make a network whose convolution has a kernel of one step, with channels first."""
    net = Net().node("Transpose", perm=[0, 2, 1])
    net.node("Conv", net.weights(CHANNELS, CHANNELS, 1), kernel_shape=[1])
    return net.node("Transpose", perm=[0, 2, 1]).recurrent("GRU").last_step().dense()


@pytest.mark.parametrize("made", [before_and_behind, sliced, by_channel])
@pytest.mark.parametrize("hop", [1, 6])
def test_what_takes_each_step_alone_is_carried_along(
    tmp_path: Path, made: Callable[[], Net], hop: int
) -> None:
    """In whichever layout it does."""
    model = made().save(tmp_path / "net.onnx")

    cut(str(model), str(tmp_path / "cell.onnx"), hop, [STEPS, CHANNELS])

    window = sequences(1)[0]
    found = stepped(tmp_path / "cell.onnx", window, hop)[-1]
    np.testing.assert_allclose(found, answers(model, window), rtol=1e-5, atol=1e-6)


# --- what is no stream ------------------------------------------------------------------


def convolved() -> Net:
    net = Net().node("Transpose", perm=[0, 2, 1])
    net.node("Conv", net.weights(3, 3, 5), kernel_shape=[5], pads=[2, 2])
    return net.node("Transpose", perm=[0, 2, 1]).recurrent("GRU").last_step().dense()


def averaged() -> Net:
    return Net().recurrent("GRU").node("ReduceMean", axes=[1], keepdims=0).dense()


def flattened() -> Net:
    return Net().recurrent("GRU").node("Flatten").dense(STEPS * HIDDEN)


def first_step() -> Net:
    net = Net().recurrent("GRU")
    return net.node("Gather", net.constant(0, np.int64), axis=1).dense()


def placed() -> Net:
    net = Net()
    return net.node("Add", net.weights(STEPS, CHANNELS)).recurrent("GRU").last_step().dense()


def begun() -> Net:
    net = Net(batch=1)
    return net.recurrent("GRU", state=net.weights(1, 1, HIDDEN)).last_step().dense()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Net().recurrent("LSTM", direction="bidirectional").dense(2 * HIDDEN), "bidirec"),
        (lambda: Net().recurrent("GRU", direction="reverse").last_step().dense(), "from its end"),
        (convolved, "convolution over several steps"),
        (averaged, "over all steps"),
        (flattened, "joins steps"),
        (first_step, r"takes the steps \[0\]"),
        (placed, "differs from step to step"),
        (begun, "not zero"),
        (lambda: Net().dense(CHANNELS), "no LSTM, GRU or RNN"),
    ],
)
def test_what_a_stream_cannot_answer_is_refused(
    tmp_path: Path, made: Callable[[], Net], said: str
) -> None:
    """By the name of the layer, with why; nothing is written."""
    model = made().save(tmp_path / "net.onnx")

    with pytest.raises(Refusal, match=said) as raised:
        cut(str(model), str(tmp_path / "cell.onnx"), 1, [STEPS, CHANNELS])

    assert raised.value.remedy
    assert not (tmp_path / "cell.onnx").exists()


def test_a_hop_divides_the_sequence(tmp_path: Path) -> None:
    """Else there would be steps that nobody compared."""
    model = classifier("GRU").save(tmp_path / "net.onnx")

    with pytest.raises(Refusal, match="12 steps, and the hop is 5"):
        cut(str(model), str(tmp_path / "cell.onnx"), 5, [STEPS, CHANNELS])


# --- from the one command ---------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert a network with recordings into a bundle of a cell of two samples."""
    folder = tmp_path_factory.mktemp("cell")
    model = before_and_behind().save(folder / "net.onnx")
    np.savez(folder / "calib.npz", inputs=sequences(80), allow_pickle=False)
    outcome = convert(
        Request(
            model=str(model),
            output=folder / "bundle",
            calib=folder / "calib.npz",
            precisions=("float32",),
            hop=2,
        )
    )
    assert outcome.steps[-1].name == "cut"
    parity = outcome.steps[-1].parity
    assert parity is not None
    assert parity.windows == 16
    assert parity.snr_db is None or parity.snr_db > 100
    return folder / "bundle"


def test_a_stream_of_the_bundle_answers_as_the_whole(bundle: Path) -> None:
    """Window after window; and the same again when the stream begins anew."""
    made = load_bundle(bundle)
    window = sequences(80)[7]
    samples = window.reshape(-1, 2, CHANNELS)
    at = np.arange(len(samples))
    pipeline = open_pipeline(made)

    first, again = (pipeline.score_windows(Windows(at, at, at, samples)).score for _ in range(2))

    whole = answers(bundle.parent / "net.onnx", window)
    np.testing.assert_allclose(first[-1:], whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(first, again)
    pipeline.scorer.session.close()


def test_the_bundle_says_what_it_carries(bundle: Path) -> None:
    """Its window is the hop, its state is named, its golden windows are one sequence."""
    made = load_bundle(bundle)

    assert (made.spec.window.length, made.spec.window.hop) == (2, 2)
    assert [one.input for one in made.spec.state.tensors] == ["state_0_h_in", "state_0_c_in"]
    golden = made.golden()
    assert golden.inputs.shape == (STEPS // 2, 2, CHANNELS)
    whole = answers(bundle.parent / "net.onnx", golden.inputs.reshape(STEPS, CHANNELS))
    np.testing.assert_allclose(golden.outputs[-1:], whole, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_cell_is_cut_again_to_the_byte(tmp_path: Path, bundle: Path) -> None:
    """From its recipe."""
    recipe = load_recipe(bundle / "recipe.json")
    folder = bundle.parent
    here = Request(
        model=str(folder / "net.onnx"), output=tmp_path / "again", calib=folder / "calib.npz"
    )

    outcome = convert(replayed(recipe, here))

    assert outcome.digest == load_bundle(bundle).digest


def test_a_network_that_reads_backwards_leaves_no_bundle(tmp_path: Path) -> None:
    """The command says why."""
    net = Net().recurrent("LSTM", direction="bidirectional").last_step().dense(2 * HIDDEN)
    model = net.save(tmp_path / "net.onnx")

    with pytest.raises(BundleError, match="bidirectional"):
        convert(Request(model=str(model), output=tmp_path / "bundle", hop=1))

    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "asked",
    [{"precisions": ("as-is",)}, {"formats": ("tflite",)}],
    ids=["as-is", "tflite"],
)
def test_a_cell_is_an_onnx_file_that_is_made(tmp_path: Path, asked: dict[str, Any]) -> None:
    """What cannot be had is said before anything is done."""
    model = classifier("GRU").save(tmp_path / "net.onnx")

    with pytest.raises(ConfigError, match="--stream with"):
        convert(Request(model=str(model), output=tmp_path / "bundle", hop=1, **asked))


def test_outputs_that_a_cell_leaves_out_are_named(tmp_path: Path) -> None:
    """Nothing is dropped in silence."""
    model = classifier("GRU").save(tmp_path / "net.onnx")
    proto = onnx.load(model)
    proto.graph.output.append(helper.make_tensor_value_info("gather_5", TensorProto.FLOAT, None))
    onnx.save(proto, model)

    told = cut(str(model), str(tmp_path / "cell.onnx"), 1, [STEPS, CHANNELS])

    assert "outputs gather_5 were left out" in " ".join(told["notes"])
