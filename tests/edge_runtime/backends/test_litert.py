"""LiteRT sessions: golden answers, batches, state, refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.backends.litert import LiteRT
from edge_runtime.backends.tflite import TFLiteSession
from edge_runtime.errors import ModelError, ShapeError
from edge_runtime.ports import SessionOptions

pytest.importorskip("ai_edge_litert")

MODELS = Path(__file__).parents[2] / "data" / "models"
NAMES = ["kws_dscnn_int8", "ad_autoencoder_int8"]


def load(name: str, threads: int = 1) -> TFLiteSession:
    model = (MODELS / f"{name}.tflite").read_bytes()
    return LiteRT().load(model, SessionOptions(threads))


def one_by_one(session: TFLiteSession, batch: np.ndarray) -> bytes:
    return b"".join(session.run(row[None]).tobytes() for row in batch)


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_the_golden_ones(name: str) -> None:
    """A batch of golden inputs gives the golden outputs within one integer step."""
    golden = np.load(MODELS / f"{name}.tflite.npz")

    answers = load(name).run(golden["input"])

    assert answers.dtype == golden["output"].dtype
    assert np.abs(answers.astype(int) - golden["output"].astype(int)).max() <= 1


@pytest.mark.parametrize("name", [*NAMES, "hello_world_float", "hello_world_int8"])
@pytest.mark.parametrize("rows", [2, 7, 64, 65, 130])
def test_a_batch_gives_the_bytes_of_its_rows(name: str, rows: int) -> None:
    """Any number of rows at once answers byte for byte what each row answers alone."""
    session = load(name)
    tensor = session.inputs[0]
    draw = np.random.default_rng(rows).normal(0, 40, (rows, *tensor.shape[1:]))
    batch = draw.clip(-128, 127).astype(tensor.dtype)

    together = session.run(batch)

    assert len(together) == rows
    assert together.tobytes() == one_by_one(session, batch)


def test_alternating_lengths_do_not_change_answers() -> None:
    """A session that has just answered a batch answers a single row as before."""
    session = load("kws_dscnn_int8")
    inputs = np.load(MODELS / "kws_dscnn_int8.tflite.npz")["input"]
    alone = session.run(inputs[:1])

    for rows in (5, 1, 16, 1, 2, 1):
        answers = session.run(inputs[:rows])

        assert answers[:1].tobytes() == alone.tobytes()


def test_an_empty_batch_gives_an_empty_answer() -> None:
    """No rows in, no rows out, in the output's shape and dtype."""
    session = load("kws_dscnn_int8")

    answers = session.run(np.empty((0, 49, 10, 1), np.int8))

    assert answers.shape == (0, 12)
    assert answers.dtype == np.int8


def test_the_answer_belongs_to_the_caller() -> None:
    """A later call does not change an answer given before."""
    session = load("kws_dscnn_int8")
    inputs = np.load(MODELS / "kws_dscnn_int8.tflite.npz")["input"]
    first = session.run(inputs[:1])
    kept = first.copy()

    session.run(inputs[1:2])

    assert first.tobytes() == kept.tobytes()


def test_quantisation_is_read_from_the_tensors() -> None:
    """Scale and zero point are those the file declares."""
    session = load("kws_dscnn_int8")

    assert session.inputs[0].shape == (1, 49, 10, 1)
    assert session.inputs[0].scale == pytest.approx(0.5847029)
    assert session.inputs[0].zero_point == 83
    assert session.outputs[0].zero_point == -128
    assert load("hello_world_float").inputs[0].is_quantised is False


def test_two_threads_answer_like_one() -> None:
    """The number of threads changes the time, not the answer."""
    inputs = np.load(MODELS / "kws_dscnn_int8.tflite.npz")["input"]

    answers = load("kws_dscnn_int8", threads=2).run(inputs)

    assert answers.tobytes() == load("kws_dscnn_int8").run(inputs).tobytes()


def test_a_strided_view_answers_like_its_copy() -> None:
    """Inputs need not be contiguous."""
    session = load("ad_autoencoder_int8")
    wide = np.random.default_rng(1).integers(-128, 128, (6, 1280)).astype(np.int8)

    answers = session.run(wide[::2, ::2])

    assert answers.tobytes() == session.run(wide[::2, ::2].copy()).tobytes()
    assert session.run(wide[:1, ::2]).tobytes() == answers[:1].tobytes()


def test_a_nan_passes_through() -> None:
    """A float model answers NaN to NaN; judging it is the pipeline's matter."""
    answer = load("hello_world_float").run(np.full((1, 1), np.nan, np.float32))

    assert np.isnan(answer).all()


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 49, 10), np.int8),
        np.zeros((49, 10, 1), np.int8),
        np.zeros((3, 48, 10, 1), np.int8),
        np.zeros((1, 49, 10, 1), np.uint8),
        np.zeros((2, 49, 10, 1), np.float32),
        np.zeros((), np.int8),
    ],
)
def test_another_shape_or_dtype_is_refused(batch: np.ndarray) -> None:
    """A batch that does not fit names its own shape, the tensor's and the remedy."""
    session = load("kws_dscnn_int8")

    with pytest.raises(ShapeError) as caught:
        session.run(batch)

    error = caught.value
    assert str(batch.shape) in error.what
    assert error.expected == "(n, 49, 10, 1) and int8"
    assert "input_1" in error.where
    assert error.remedy


def test_a_refused_batch_leaves_the_session_usable() -> None:
    """After a refusal the next fitting batch is answered as ever."""
    session = load("kws_dscnn_int8")
    golden = np.load(MODELS / "kws_dscnn_int8.tflite.npz")
    with pytest.raises(ShapeError):
        session.run(np.zeros((1, 3), np.int8))

    answers = session.run(golden["input"])

    assert answers.tobytes() == load("kws_dscnn_int8").run(golden["input"]).tobytes()


def test_a_closed_session_says_so() -> None:
    """After close every call is a ModelError, and closing twice is harmless."""
    session = load("hello_world_int8")
    session.close()
    session.close()

    with pytest.raises(ModelError, match="closed"):
        session.run(np.zeros((1, 1), np.int8))
    with pytest.raises(ModelError, match="closed"):
        session.reset()


# --- state ------------------------------------------------------------------------


def test_resource_variables_are_forgotten_on_reset() -> None:
    """The wake-word stream is the golden one again after reset, and is not without it."""
    golden = np.load(MODELS / "okay_nabu_stream.npz")
    session = load("okay_nabu")

    fresh = session.run(golden["input"])
    session.reset()
    again = session.run(golden["input"])
    carried_on = session.run(golden["input"])

    assert session.state_kind == "resources"
    assert np.abs(fresh[:, 0].astype(int) - golden["output"].astype(int)).max() <= 1
    assert again.tobytes() == fresh.tobytes()
    assert carried_on.tobytes() != fresh.tobytes()


def test_a_stateful_model_answers_rows_in_order_however_they_come() -> None:
    """A batch for a model with state is a run of steps, not independent rows."""
    steps = np.load(MODELS / "okay_nabu_stream.npz")["input"][:20]
    together, alone = load("okay_nabu"), load("okay_nabu")

    answers = together.run(steps)

    assert answers.tobytes() == one_by_one(alone, steps)


def test_two_sessions_do_not_share_state() -> None:
    """Interleaving two streams on two sessions changes neither."""
    steps = np.load(MODELS / "okay_nabu_stream.npz")["input"][:20]
    expected = load("okay_nabu").run(steps).tobytes()
    one, other = load("okay_nabu"), load("okay_nabu")

    answers = [(one.run(step[None]), other.run(step[None])) for step in steps]

    assert b"".join(first.tobytes() for first, _ in answers) == expected
    assert b"".join(second.tobytes() for _, second in answers) == expected


def test_variable_tensors_are_forgotten_on_reset(accumulator: bytes) -> None:
    """A filter with a variable tensor remembers, and after reset it does not."""
    session = LiteRT().load(accumulator, SessionOptions())
    ones = np.ones((1, 2), np.float32)

    first, second = session.run(ones), session.run(ones)
    session.reset()
    again = session.run(ones)

    assert session.state_kind == "variables"
    assert first.tobytes() != second.tobytes()
    assert again.tobytes() == first.tobytes()


def test_reset_of_a_stateless_model_changes_nothing() -> None:
    """A model without state answers the same before and after reset."""
    session = load("hello_world_int8")
    batch = np.arange(-3, 3, dtype=np.int8)[:, None]
    before = session.run(batch)

    session.reset()

    assert session.state_kind == "stateless"
    assert session.run(batch).tobytes() == before.tobytes()


# --- models that do not fit ---------------------------------------------------------


def test_a_batch_axis_that_is_free_in_name_only_is_looped(
    tflite_builder: Callable[[], Any],
) -> None:
    """A constant inside that fixes the batch makes rows run one by one, with the same answers."""
    builder = tflite_builder()
    x = builder.tensor("x", [1, 4], is_free=True)
    shape = builder.tensor("shape", [2], np.array([1, 4], np.int32), type_name="INT32")
    y = builder.tensor("y", [1, 4], is_free=True)
    options = builder.schema.ReshapeOptionsT()
    options.newShape = [1, 4]
    builder.operator("RESHAPE", [x, shape], [y], options)
    session = LiteRT().load(builder.pack([x], [y]), SessionOptions())
    batch = np.arange(12, dtype=np.float32).reshape(3, 4)

    answers = session.run(batch)

    assert answers.tobytes() == batch.tobytes()
    assert session.run(batch[1:2]).tobytes() == batch[1:2].tobytes()


def test_several_inputs_are_refused_by_name(tflite_builder: Callable[[], Any]) -> None:
    """A model with two inputs is refused at load, naming both."""
    builder = tflite_builder()
    names = [builder.tensor(name, [1, 2]) for name in ("left", "right")]
    y = builder.tensor("y", [1, 2])
    builder.operator("ADD", names, [y], builder.schema.AddOptionsT())

    with pytest.raises(ModelError, match="2 inputs: left, right"):
        LiteRT().load(builder.pack(names, [y]), SessionOptions())


def test_a_tensor_without_batch_axis_is_refused(tflite_builder: Callable[[], Any]) -> None:
    """A first axis that is neither 1 nor free is refused at load."""
    builder = tflite_builder()
    x, y = builder.tensor("x", [3, 2]), builder.tensor("y", [3, 2])
    builder.operator("RELU", [x], [y])

    with pytest.raises(ModelError, match=r"\(3, 2\)"):
        LiteRT().load(builder.pack([x], [y]), SessionOptions())


@pytest.mark.parametrize(
    "model",
    [
        b"",
        b"no model at all, but some text",
        b"\0\0\0\0TFL3",
        b"\x1c\0\0\0TFL3" + bytes(40),
        np.random.default_rng(0).bytes(5000),
        (MODELS / "kws_dscnn_int8.tflite").read_bytes()[:-1000],
        (MODELS / "kws_dscnn_int8.tflite").read_bytes()[:100],
        (MODELS / "kws_dscnn_int8_qdq.onnx").read_bytes(),
    ],
    ids=["empty", "text", "mark", "zeros", "random", "truncated", "stump", "onnx"],
)
def test_bytes_that_are_no_model_are_refused(model: bytes) -> None:
    """Anything but a complete model is a ModelError with all four parts."""
    with pytest.raises(ModelError) as caught:
        LiteRT().load(model, SessionOptions())

    error = caught.value
    assert all([error.what, error.where, error.expected, error.remedy])


# --- the process --------------------------------------------------------------------

_FIRST_LOAD = """
import sys
from pathlib import Path
from edge_runtime.backends import load_session
load_session(None, "tflite", Path(sys.argv[1]).read_bytes())
sys.stderr.write("mine\\n")
"""


def test_nothing_is_written_to_standard_error() -> None:
    """The runtime's own line is kept away, and what we write afterwards arrives."""
    path = str(MODELS / "kws_dscnn_int8.tflite")

    done = subprocess.run(
        [sys.executable, "-c", _FIRST_LOAD, path], capture_output=True, text=True, check=True
    )

    assert (done.stdout, done.stderr) == ("", "mine\n")


def test_a_process_without_standard_error_can_load() -> None:
    """A daemon that closed its descriptors loads a model like any other."""
    program = "import os; os.close(2)\n" + _FIRST_LOAD.replace("sys.stderr.write", "print")

    done = subprocess.run(
        [sys.executable, "-c", program, str(MODELS / "hello_world_int8.tflite")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "mine"


def test_the_probe_gives_the_version_and_answers_once() -> None:
    """The probe proves LiteRT on the built-in model and names its version."""
    assert LiteRT().probe().split(".")[0].isdigit()
    assert LiteRT().probe() is LiteRT().probe()


def test_the_probe_model_is_the_one_made_here(probe_tflite: bytes) -> None:
    """The file in the package is what the builder in this folder makes."""
    import edge_runtime.backends

    packaged = Path(edge_runtime.backends.__file__).with_name("probe.tflite").read_bytes()

    assert packaged == probe_tflite
