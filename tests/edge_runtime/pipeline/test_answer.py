"""Errors of autoencoders: many windows give what each gives alone, as exact as their floats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ShapeError
from edge_runtime.pipeline.answer import Reader, reader_of
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    ModelSpec,
    OutputSpec,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.types import TensorSpec


def error_of(size: int) -> Reader:
    """Return what reads the answers of a float autoencoder."""
    tensor = TensorSpec("x", (1, size), "float32")
    spec = ModelSpec(
        name="fan",
        version="1",
        kind="regressor",
        stream=StreamSpec((ChannelSpec("a"),), 100.0),
        window=WindowSpec(size, size),
        artefacts=(ArtefactSpec("onnx", "m", "float32"),),
        labels=("error",),
        output=OutputSpec(activation="reconstruction"),
    )
    return reader_of(spec, tensor, tensor).read


def drawn(rows: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw what a model was asked and what it answered."""
    random = np.random.default_rng(seed)
    asked, answered = random.normal(0, 15, (2, rows, size)).astype(np.float32)
    return asked, answered


@pytest.mark.parametrize("size", [1, 640, 8192, 8193, 20_000])
def test_the_error_is_that_of_real_numbers(size: int) -> None:
    """Against float64, to the accuracy of the tensors themselves."""
    asked, answered = drawn(5, size, size)
    expected = ((asked.astype(np.float64) - answered) ** 2).mean(axis=1)

    found = error_of(size)(answered.copy(), asked)

    assert found.dtype == np.float64 and found.shape == (5, 1)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)


@given(
    rows=st.integers(1, 40),
    size=st.integers(1, 700),
    seed=st.integers(0, 2**32 - 1),
    huge=st.sampled_from([0.0, 0.3]),
)
def test_many_windows_have_the_errors_of_each_alone(
    rows: int, size: int, seed: int, huge: float
) -> None:
    """To the last bit, whether or not some squares of the block are too large for float32."""
    asked, answered = drawn(rows, size, seed)
    asked[np.random.default_rng(seed).uniform(size=rows) < huge] *= np.float32(1e30)
    read = error_of(size)
    before = asked.copy()

    with np.errstate(all="ignore"):
        alone = [read(answered[row : row + 1].copy(), asked[row : row + 1]) for row in range(rows)]
        found = read(answered.copy(), asked)

    assert found.tobytes() == b"".join(one.tobytes() for one in alone)
    assert np.isfinite(found).all()
    assert asked.tobytes() == before.tobytes()


def test_what_is_not_finite_shows_in_the_error() -> None:
    """A missing or infinite value is never hidden, whatever the model answers to it."""
    asked, answered = drawn(4, 640, 1)
    asked[1, 3], asked[2, 0] = np.nan, np.inf
    answered[2, 0] = np.inf

    with np.errstate(all="ignore"):
        found = error_of(640)(answered, asked)

    assert np.isfinite(found[:, 0]).tolist() == [True, False, False, True]


def test_an_answer_of_another_size_is_refused() -> None:
    """There is no error between tensors of different shapes."""
    with pytest.raises(ShapeError, match="was shown"):
        error_of(4)(np.zeros((1, 2), np.float32), np.zeros((1, 4), np.float32))
