"""Quantisation by a tensor's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.errors import ShapeError
from edge_runtime.pipeline import dequantise, quantise
from edge_runtime.types import TensorSpec

DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "int64"]


@st.composite
def tensors(draw: st.DrawFn) -> TensorSpec:
    """Any quantised tensor of four values."""
    dtype = draw(st.sampled_from(DTYPES))
    limits = np.iinfo(dtype)
    zero_point = draw(st.integers(max(limits.min, -(2**31)), min(limits.max, 2**31 - 1)))
    scale = draw(st.floats(1e-6, 1e6))
    return TensorSpec("x", (1, 4), dtype, scale, zero_point)


@example(TensorSpec("x", (1, 4), "int64", 1.0, 512), np.full((3, 4), np.inf, np.float32))
@given(tensors(), hnp.arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_nan=True)))
def test_quantise_saturates_and_never_wraps(tensor: TensorSpec, values: np.ndarray) -> None:
    """Whatever comes in, order is kept and the ends of the range are the worst that happens."""
    found = quantise(values, tensor)

    assert found.dtype == tensor.dtype
    order = np.argsort(values, axis=None)
    is_number = ~np.isnan(values.ravel()[order])
    assert (np.diff(found.ravel()[order][is_number].astype(object)) >= 0).all()
    limits = np.iinfo(tensor.dtype)
    # The arithmetic is that of float64, whose steps there are 1024: one for the limit, and
    # one for the zero point.
    slack = 2048 if tensor.dtype == "int64" else 0
    assert (found[values == np.inf] >= limits.max - slack).all()
    assert (found[values == -np.inf] <= limits.min + slack).all()
    assert (found[np.isnan(values)] <= limits.min + slack).all()


@given(tensors(), st.integers(-(2**15), 2**15))
def test_a_whole_number_of_steps_comes_back(tensor: TensorSpec, steps: int) -> None:
    """Dequantising what was quantised gives the value back where the range holds it."""
    limits = np.iinfo(tensor.dtype)
    steps = min(max(steps, limits.min - tensor.zero_point), limits.max - tensor.zero_point)
    values = np.full((1, 4), steps * tensor.scale, np.float32)

    found = dequantise(quantise(values, tensor), tensor)

    assert found.dtype == np.float64
    np.testing.assert_allclose(found, values, rtol=1e-6, atol=tensor.scale * 0.51)


def test_ties_go_to_even_before_the_zero_point_is_added() -> None:
    """Half a step rounds to the even step, whatever the zero point is."""
    tensor = TensorSpec("x", (1, 4), "int8", 1.0, 83)

    found = quantise(np.array([[0.5, 1.5, 2.5, -0.5]], np.float32), tensor)

    assert found.tolist() == [[83, 85, 85, 83]]


def test_a_float_tensor_takes_values_as_they_are() -> None:
    """Without a scale there is nothing to map."""
    values = np.array([[1.5, -2.5]], np.float32)
    tensor = TensorSpec("x", (1, 2), "float32")

    assert quantise(values, tensor).tobytes() == values.tobytes()
    assert dequantise(values, tensor).tolist() == [[1.5, -2.5]]


def test_an_integer_tensor_without_scale_rounds() -> None:
    """An image model that wants plain bytes gets rounded, saturated ones."""
    tensor = TensorSpec("x", (1, 3), "uint8")

    found = quantise(np.array([[-4.0, 127.6, 300.0]], np.float32), tensor)

    assert found.tolist() == [[0, 128, 255]]


def test_another_shape_is_refused_with_both_shapes() -> None:
    """The message shows what came and what was expected."""
    tensor = TensorSpec("x", (1, 49, 10, 1), "int8", 0.5, 0)

    with pytest.raises(ShapeError, match=r"\(2, 490\).*\(n, 49, 10, 1\)"):
        quantise(np.zeros((2, 490), np.float32), tensor)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    """No quantised model can mean that."""
    tensor = TensorSpec("x", (1, 1), "int8", scale, 0)

    with pytest.raises(ShapeError, match="positive"):
        quantise(np.zeros((1, 1), np.float32), tensor)
