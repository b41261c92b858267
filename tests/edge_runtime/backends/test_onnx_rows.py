"""Rows of a batch that ONNX Runtime answers at once, and those it answers one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.backends.blocks import BLOCK_ROWS
from edge_runtime.backends.onnx import OnnxModel, OnnxSession
from edge_runtime.ports import SessionOptions

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

ROOT = Path(__file__).parents[3]
BUNDLES = ROOT / "examples"
KEYWORDS = ROOT / "tests" / "data" / "models" / "kws_dscnn_int8_qdq.onnx"
INTEGERS = sorted(BUNDLES.glob("*/bundles/*/model_int8.onnx"))


def _model(nodes: list[Any], weights: dict[str, np.ndarray], *, width: int = 8) -> bytes:
    helper = onnx.helper
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", width])
        for name in ("x", "y")
    ]
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "rows", ends[:1], ends[1:], stored)
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def _scaled_together() -> bytes:
    """Return a product whose input is quantised with one scale for the whole batch."""
    node = onnx.helper.make_node
    weights = np.random.default_rng(0).integers(-127, 128, (8, 8)).astype(np.int8)
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("MatMulInteger", ["q", "w", "zero"], ["sums"]),
        node("Cast", ["sums"], ["real"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["real", "scale"], ["y"]),
    ]
    return _model(nodes, {"w": weights})


def _centred() -> bytes:
    """Return a model that takes the mean over the batch away from each row."""
    node = onnx.helper.make_node
    nodes = [
        node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        node("Sub", ["x", "mean"], ["y"]),
    ]
    return _model(nodes, {})


def _opened(model: bytes) -> tuple[OnnxModel, OnnxSession]:
    opened = OnnxModel(model, SessionOptions())
    return opened, OnnxSession(opened)


def _rows(session: OnnxSession, count: int) -> np.ndarray:
    tensor, draw = session.inputs[0], np.random.default_rng(5)
    shape = (count, *tensor.shape[1:])
    if np.dtype(tensor.dtype).kind == "f":
        return (draw.normal(size=shape) * np.arange(1, count + 1)[:, None]).astype(tensor.dtype)
    return draw.integers(-128, 128, shape).astype(tensor.dtype)


def _is_alike(session: OnnxSession, rows: np.ndarray) -> bool:
    alone = [session.run(rows[row : row + 1]).tobytes() for row in range(len(rows))]
    return session.run(rows).tobytes() == b"".join(alone)


@pytest.mark.parametrize("path", INTEGERS, ids=lambda path: path.parent.name)
def test_a_network_of_integers_is_answered_at_once(path: Path) -> None:
    model, session = _opened(path.read_bytes())
    assert _is_alike(session, _rows(session, 100))
    assert model.rows.most == BLOCK_ROWS
    assert model.rows.is_proven(100)


def test_a_product_that_stays_real_is_answered_row_by_row() -> None:
    """ONNX Runtime leaves one product of the keyword network in floating point."""
    model, session = _opened(KEYWORDS.read_bytes())
    assert _is_alike(session, _rows(session, 8))
    assert model.rows.most == 1


@pytest.mark.parametrize("make", [_scaled_together, _centred])
def test_rows_that_depend_on_each_other_are_answered_one_by_one(make: Any) -> None:
    model, session = _opened(make())
    assert _is_alike(session, _rows(session, 12))
    assert model.rows.most == 1


def test_rows_of_indices_are_judged_by_the_graph() -> None:
    """A row of a table picked by an index, and multiplied by weights that are computed."""
    helper, kinds = onnx.helper, onnx.TensorProto
    draw = np.random.default_rng(0)
    stored = {
        "table": draw.normal(size=(5, 64)).astype(np.float32),
        "weights": draw.normal(size=(64, 64)).astype(np.float32),
        "nothing": np.float32(0),
    }
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["row"]),
        helper.make_node("Reshape", ["row", "flat"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["weights", "zero"], ["w"]),
        helper.make_node("MatMul", ["rows", "w"], ["y"]),
    ]
    stored["flat"] = np.array([-1, 64], np.int64)
    initialisers = [onnx.numpy_helper.from_array(value, name) for name, value in stored.items()]
    source = helper.make_tensor_value_info("x", kinds.INT64, ["batch", 1])
    target = helper.make_tensor_value_info("y", kinds.FLOAT, ["batch", 64])
    graph = helper.make_graph(nodes, "indices", [source], [target], initialisers)
    opsets = [helper.make_opsetid("", 13)]
    content = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()

    model, session = _opened(content)

    assert _is_alike(session, draw.integers(0, 5, (9, 1)))
    assert model.rows.most == 1


def test_a_batch_longer_than_a_block_is_answered_like_its_rows() -> None:
    model, session = _opened(INTEGERS[-1].read_bytes())
    rows = _rows(session, BLOCK_ROWS + 3)
    answers = session.run(rows)
    assert model.rows.most == BLOCK_ROWS
    picked = [0, 1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 2]
    alone = [session.run(rows[row : row + 1]) for row in picked]
    assert answers[picked].tobytes() == np.concatenate(alone).tobytes()


def test_a_disk_that_takes_no_file_costs_speed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    model, session = _opened(INTEGERS[-1].read_bytes())
    assert _is_alike(session, _rows(session, 20))
    assert model.rows.most == 1
