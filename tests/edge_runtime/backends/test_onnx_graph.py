"""Scales and products are read from the ONNX file, within the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.backends.onnx_graph import Quantisation, read_graph

MODELS = Path(__file__).parents[2] / "data" / "models"
KEYWORDS = (MODELS / "kws_dscnn_int8_qdq.onnx").read_bytes()


def quantised(onnx: Any, scale: bytes, zero_point: bytes, move: str = "Identity") -> bytes:
    nodes = [
        onnx.node(move, ["x"], ["moved"]),
        onnx.node("DequantizeLinear", ["moved", "scale", "zero"], ["real"]),
        onnx.node("QuantizeLinear", ["real", "scale", "zero"], ["whole"]),
        onnx.node(move, ["whole"], ["y"]),
    ]
    ends = [onnx.value("x", ["n", 2], onnx.INT8)], [onnx.value("y", ["n", 2], onnx.INT8)]
    return onnx.model(nodes, *ends, [scale, zero_point])


def test_scales_are_found_behind_moves(onnx: Any) -> None:
    """An operator that only moves values does not hide the scale."""
    scale = onnx.constant("scale", np.array(0.25, np.float32))
    zero = onnx.constant("zero", np.array(-7, np.int8), onnx.INT8)

    graph = read_graph(quantised(onnx, scale, zero))

    assert graph.input_quantisation("x") == Quantisation(0.25, -7)
    assert graph.output_quantisation("y") == Quantisation(0.25, -7)


def test_numbers_in_typed_fields_are_read(onnx: Any) -> None:
    """Converters write scalars as raw bytes or in typed fields; both count."""
    scale = onnx.field(2, 1) + onnx.field(8, "scale") + onnx.field(4, 0.5)
    zero = onnx.field(2, 3) + onnx.field(8, "zero") + onnx.field(5, -9)

    graph = read_graph(quantised(onnx, scale, zero))

    assert graph.input_quantisation("x") == Quantisation(0.5, -9)


def test_an_operator_that_computes_hides_the_scale(onnx: Any) -> None:
    """Behind a computation the integers no longer stand for the input's values."""
    scale = onnx.constant("scale", np.array(0.25, np.float32))
    zero = onnx.constant("zero", np.array(0, np.int8), onnx.INT8)

    graph = read_graph(quantised(onnx, scale, zero, move="Abs"))

    assert graph.input_quantisation("x") is None
    assert graph.output_quantisation("y") is None


def test_a_scale_per_channel_is_refused(onnx: Any) -> None:
    """Two scales for one input cannot be one tensor's contract."""
    scale = onnx.constant("scale", np.array([0.25, 0.5], np.float32))
    zero = onnx.constant("zero", np.array([0, 0], np.int8), onnx.INT8)

    with pytest.raises(ValueError, match="2 numbers"):
        read_graph(quantised(onnx, scale, zero)).input_quantisation("x")


def test_products_with_computed_weights_are_told_from_plain_ones(probe_onnx: bytes) -> None:
    """Dequantised weights are computed, stored ones are not."""
    assert read_graph(KEYWORDS).has_computed_product
    assert not read_graph(probe_onnx).has_computed_product


@settings(max_examples=60)
@given(st.integers(0, len(KEYWORDS) - 1), st.binary(min_size=1, max_size=8))
def test_damage_gives_a_graph_or_a_value_error(place: int, damage: bytes) -> None:
    """Overwritten bytes never raise anything but ValueError."""
    model = KEYWORDS[:place] + damage + KEYWORDS[place + len(damage) :]

    try:
        graph = read_graph(model)
        graph.input_quantisation("input_1")
    except ValueError:
        return

    assert graph.has_computed_product in (True, False)


@settings(max_examples=100)
@given(st.binary(max_size=100))
def test_random_bytes_are_read_within_bounds(model: bytes) -> None:
    """Whatever the bytes are, they are read as a graph or refused."""
    try:
        graph = read_graph(model)
    except ValueError:
        return

    assert graph.output_quantisation("y") is None
