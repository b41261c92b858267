"""ONNX sessions: golden answers, batches, refusals."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.backends.onnx import OnnxRuntime, OnnxSession
from edge_runtime.backends.onnx_zero_points import unshared
from edge_runtime.errors import ModelError, ShapeError
from edge_runtime.ports import SessionOptions

pytest.importorskip("onnxruntime")

MODELS = Path(__file__).parents[2] / "data" / "models"
NAMES = ["kws_dscnn_int8_qdq", "ad_autoencoder_int8_qdq"]


def load(model: str | bytes, threads: int = 1) -> OnnxSession:
    content = (MODELS / f"{model}.onnx").read_bytes() if isinstance(model, str) else model
    return OnnxRuntime().load(content, SessionOptions(threads))


def one_by_one(session: OnnxSession, batch: np.ndarray) -> bytes:
    return b"".join(session.run(row[None]).tobytes() for row in batch)


def dense(onnx: Any, sizes: list[int], operator: str = "Gemm") -> bytes:
    """Make a float network with a free batch axis."""
    random = np.random.default_rng(len(sizes))
    nodes, constants, name = [], [], "x"
    for number, (inputs, units) in enumerate(itertools.pairwise(sizes)):
        weights = random.normal(size=(inputs, units)).astype(np.float32)
        constants.append(onnx.constant(f"w{number}", weights))
        nodes.append(onnx.node(operator, [name, f"w{number}"], [f"y{number}"]))
        nodes.append(onnx.node("Relu", [f"y{number}"], [f"r{number}"]))
        name = f"r{number}"
    ends = [onnx.value("x", ["n", sizes[0]])], [onnx.value(name, ["n", sizes[-1]])]
    return onnx.model(nodes, *ends, constants)


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_the_golden_ones(name: str) -> None:
    """A batch of golden inputs gives the golden outputs within one integer step."""
    golden = np.load(MODELS / f"{name}.onnx.npz")

    answers = load(name).run(golden["input"])

    assert answers.dtype == golden["output"].dtype
    assert np.abs(answers.astype(int) - golden["output"].astype(int)).max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_the_bytes_of_its_rows(name: str) -> None:
    """Rows at once answer byte for byte what each answers alone, at rounding limits too.

    The first rows of this draw are where the runtime itself differs by one
    step between a single row and a batch of the autoencoder.
    """
    session = load(name)
    tensor = session.inputs[0]
    draw = np.random.default_rng(0).integers(-128, 127, (256, 640)).astype(np.int8)
    size = int(np.prod(tensor.shape))
    batch = draw.reshape(256, -1)[:, :size].reshape(256, *tensor.shape[1:])

    assert session.run(batch).tobytes() == one_by_one(session, batch)


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
@pytest.mark.parametrize("sizes", [[9, 32, 1], [16, 64, 32, 1], [640, 128, 8, 640], [3, 257]])
def test_a_float_network_gives_the_bytes_of_its_rows(
    onnx: Any, operator: str, sizes: list[int]
) -> None:
    """Products with constant weights are computed in whole batches, with equal bytes."""
    session = load(dense(onnx, sizes, operator))
    batch = np.random.default_rng(2).normal(size=(130, sizes[0])).astype(np.float32)

    together = session.run(batch)

    assert together.shape == (130, sizes[-1])
    assert together.tobytes() == one_by_one(session, batch)
    assert session.run(batch[:5]).tobytes() == together[:5].tobytes()


@pytest.mark.parametrize("operator", ["MatMulInteger", "ConvInteger"])
def test_sums_of_integers_are_exact(onnx: Any, operator: str) -> None:
    """The largest 8-bit values too, on processors whose quick sums would saturate."""
    weights = np.full((32, 4), 127, np.int8)
    shape: list[int | str] = ["n", 32]
    if operator == "ConvInteger":
        weights, shape = weights.T.reshape(4, 32, 1, 1), ["n", 32, 1, 1]
    constants = [
        onnx.constant("scale", np.float32(1.0)),
        onnx.constant("zero", np.uint8(0), onnx.UINT8),
        onnx.constant("w", weights, onnx.INT8),
    ]
    nodes = [
        onnx.node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        onnx.node(operator, ["q", "w"], ["sums"]),
        onnx.node("DequantizeLinear", ["sums", "scale"], ["y"]),
    ]
    ends = [onnx.value("x", shape)], [onnx.value("y", [shape[0], 4, *shape[2:]])]
    session = load(onnx.model(nodes, *ends, constants))

    answer = session.run(np.full((1, *shape[1:]), 255, np.float32))

    assert set(answer.ravel().tolist()) == {32 * 127 * 255}


@pytest.mark.parametrize("name", NAMES)
def test_zero_points_of_their_own_change_no_answer(name: str) -> None:
    """No two operators share one any more; a file without any comes back as it was."""
    model = (MODELS / f"{name}.onnx").read_bytes()
    golden = np.load(MODELS / f"{name}.onnx.npz")["input"]

    apart = unshared(model)

    assert len(apart) > len(model)
    assert unshared(apart) == apart
    assert load(apart).run(golden).tobytes() == load(model).run(golden).tobytes()


def test_a_fixed_batch_axis_is_looped(onnx: Any) -> None:
    """A model whose batch axis is 1 answers many rows one by one."""
    model = onnx.model(
        [onnx.node("Relu", ["x"], ["y"])], [onnx.value("x", [1, 3])], [onnx.value("y", [1, 3])]
    )
    batch = np.arange(-6, 6, dtype=np.float32).reshape(4, 3)

    answers = load(model).run(batch)

    assert answers.tolist() == np.maximum(batch, 0).tolist()


def test_an_empty_batch_gives_an_empty_answer() -> None:
    """No rows in, no rows out, in the output's shape and dtype."""
    answers = load("kws_dscnn_int8_qdq").run(np.empty((0, 49, 10, 1), np.int8))

    assert answers.shape == (0, 12)
    assert answers.dtype == np.int8


def test_the_answer_belongs_to_the_caller() -> None:
    """A later call does not change an answer given before, nor its input."""
    session = load("kws_dscnn_int8_qdq")
    inputs = np.load(MODELS / "kws_dscnn_int8_qdq.onnx.npz")["input"]
    first = session.run(inputs[:1])
    kept = first.copy()

    session.run(inputs[1:2])

    assert first.tobytes() == kept.tobytes()


def test_quantisation_is_that_of_the_tflite_twin() -> None:
    """Integer tensors carry the scale of the neighbouring nodes: the twin's numbers."""
    session = load("kws_dscnn_int8_qdq")

    assert session.inputs[0].scale == pytest.approx(0.5847029)
    assert session.inputs[0].zero_point == 83
    assert session.outputs[0].scale == pytest.approx(1 / 256)
    assert session.outputs[0].zero_point == -128


def test_two_threads_answer_like_one() -> None:
    """The number of threads changes the time, not the answer."""
    inputs = np.load(MODELS / "kws_dscnn_int8_qdq.onnx.npz")["input"]

    answers = load("kws_dscnn_int8_qdq", threads=2).run(inputs)

    assert answers.tobytes() == load("kws_dscnn_int8_qdq").run(inputs).tobytes()


def test_a_strided_view_answers_like_its_copy(onnx: Any) -> None:
    """Inputs need not be contiguous."""
    session = load(dense(onnx, [4, 3]))
    wide = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)

    answers = session.run(wide[::2, ::2])

    assert answers.tobytes() == session.run(wide[::2, ::2].copy()).tobytes()
    assert session.run(wide[:1, ::2]).tobytes() == answers[:1].tobytes()


def test_a_nan_passes_through(onnx: Any) -> None:
    """A float model answers NaN to NaN; judging it is the pipeline's matter."""
    answer = load(dense(onnx, [4, 3])).run(np.full((1, 4), np.nan, np.float32))

    assert np.isnan(answer).all()


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 49, 10), np.int8),
        np.zeros((49, 10, 1), np.int8),
        np.zeros((1, 49, 10, 1), np.uint8),
        np.zeros((2, 49, 10, 1), np.float32),
        np.zeros((), np.int8),
    ],
)
def test_another_shape_or_dtype_is_refused(batch: np.ndarray) -> None:
    """A batch that does not fit names its own shape, the tensor's and the remedy."""
    with pytest.raises(ShapeError) as caught:
        load("kws_dscnn_int8_qdq").run(batch)

    error = caught.value
    assert str(batch.shape) in error.what
    assert error.expected == "(n, 49, 10, 1) and int8"
    assert "input_1" in error.where
    assert error.remedy


def test_a_closed_session_says_so() -> None:
    """After close every call is a ModelError, and closing twice is harmless."""
    session = load("kws_dscnn_int8_qdq")
    session.close()
    session.close()

    with pytest.raises(ModelError, match="closed"):
        session.run(np.zeros((1, 49, 10, 1), np.int8))
    with pytest.raises(ModelError, match="closed"):
        session.reset()


# --- models that do not fit -----------------------------------------------------------


def test_several_inputs_are_refused_by_name(onnx: Any) -> None:
    """A model with explicit state is refused at load, naming its inputs."""
    ends = [onnx.value(name, [1, 2]) for name in ("sound", "state")], [onnx.value("y", [1, 2])]
    model = onnx.model([onnx.node("Add", ["sound", "state"], ["y"])], *ends)

    with pytest.raises(ModelError, match="2 inputs: sound, state"):
        load(model)


def test_an_input_of_open_length_is_refused(onnx: Any) -> None:
    """Only the batch axis may be free; another free axis is named."""
    ends = [onnx.value("x", ["n", "time"])], [onnx.value("y", ["n", "time"])]
    model = onnx.model([onnx.node("Relu", ["x"], ["y"])], *ends)

    with pytest.raises(ModelError, match="no free axis behind the first"):
        load(model)


def test_an_output_of_open_length_is_learnt(onnx: Any) -> None:
    """Where the file leaves the output's shape open, one row of zeros tells it."""
    ends = [onnx.value("x", ["n", 3])], [onnx.value("y", ["n", "open"])]
    model = onnx.model([onnx.node("Relu", ["x"], ["y"])], *ends)

    assert load(model).outputs[0].shape == (1, 3)


def test_text_is_refused(onnx: Any) -> None:
    """A model of strings is refused at load."""
    ends = [onnx.value("x", ["n", 3], onnx.STRING)], [onnx.value("y", ["n", 3], onnx.STRING)]

    with pytest.raises(ModelError, match="no tensor of numbers"):
        load(onnx.model([onnx.node("Identity", ["x"], ["y"])], *ends))


def test_a_tensor_without_batch_axis_is_refused(onnx: Any) -> None:
    """A first axis that is neither 1 nor free is refused at load."""
    ends = [onnx.value("x", [3, 2])], [onnx.value("y", [3, 2])]

    with pytest.raises(ModelError, match=r"\(3, 2\)"):
        load(onnx.model([onnx.node("Relu", ["x"], ["y"])], *ends))


def test_weights_in_another_file_are_refused(onnx: Any) -> None:
    """A bundle's bytes must hold the whole model: nothing is read from other paths."""
    location = onnx.field(13, onnx.field(1, "location") + onnx.field(2, "../../etc/passwd"))
    dims = onnx.field(1, 2) + onnx.field(2, 1) + onnx.field(8, "w")
    outside = dims + location + onnx.field(14, 1)
    ends = [onnx.value("x", ["n", 2])], [onnx.value("y", ["n", 2])]
    model = onnx.model([onnx.node("Add", ["x", "w"], ["y"])], *ends, [outside])

    with pytest.raises(ModelError, match="in another file"):
        load(model)


def test_an_unknown_operator_is_refused(onnx: Any) -> None:
    """An operator this version does not know is named."""
    ends = [onnx.value("x", ["n", 2])], [onnx.value("y", ["n", 2])]

    with pytest.raises(ModelError, match="Telepathy"):
        load(onnx.model([onnx.node("Telepathy", ["x"], ["y"])], *ends))


def test_a_future_opset_is_refused(onnx: Any) -> None:
    """A model for an operator set of the future is a ModelError."""
    ends = [onnx.value("x", ["n", 2])], [onnx.value("y", ["n", 2])]

    with pytest.raises(ModelError, match="opset"):
        load(onnx.model([onnx.node("Relu", ["x"], ["y"])], *ends, opset=999))


@pytest.mark.parametrize(
    "model",
    [
        b"",
        b"no model at all, but some text",
        bytes(1000),
        np.random.default_rng(0).bytes(5000),
        (MODELS / "kws_dscnn_int8_qdq.onnx").read_bytes()[:-1000],
        (MODELS / "kws_dscnn_int8_qdq.onnx").read_bytes()[:20],
        (MODELS / "kws_dscnn_int8.tflite").read_bytes(),
    ],
    ids=["empty", "text", "zeros", "random", "truncated", "stump", "tflite"],
)
def test_bytes_that_are_no_model_are_refused(model: bytes) -> None:
    """Anything but a complete model is a ModelError with all four parts."""
    with pytest.raises(ModelError) as caught:
        load(model)

    error = caught.value
    assert all([error.what, error.where, error.expected, error.remedy])


# --- the process ----------------------------------------------------------------------

_IDLE = """
import sys, threading, time
from pathlib import Path
import numpy as np
from edge_runtime.backends import load_session
from edge_runtime.ports import SessionOptions
model = Path(sys.argv[1]).read_bytes()
session = load_session(None, "onnx", model, SessionOptions(threads=2))
session.run(np.zeros((1, 49, 10, 1), np.int8))
before = time.process_time()
threading.Event().wait(0.3)
print(time.process_time() - before)
"""


def test_idle_threads_do_not_spin() -> None:
    """Between two calls the pool of a two-thread session takes no processor time."""
    path = str(MODELS / "kws_dscnn_int8_qdq.onnx")

    done = subprocess.run(
        [sys.executable, "-c", _IDLE, path], capture_output=True, text=True, check=True
    )

    assert float(done.stdout) < 0.03
    assert done.stderr == ""


def test_the_probe_gives_the_version_and_answers_once() -> None:
    """The probe proves ONNX Runtime on the built-in model and names its version."""
    assert OnnxRuntime().probe().split(".")[0].isdigit()
    assert OnnxRuntime().probe() is OnnxRuntime().probe()


def test_the_probe_model_is_the_one_made_here(probe_onnx: bytes) -> None:
    """The file in the package is what the writer in this folder makes."""
    import edge_runtime.backends

    packaged = Path(edge_runtime.backends.__file__).with_name("probe.onnx").read_bytes()

    assert packaged == probe_onnx
