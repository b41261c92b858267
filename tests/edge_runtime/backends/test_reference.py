"""The numpy network: right numbers, equal bytes in any batch, refusals."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.backends.reference import Reference, ReferenceSession
from edge_runtime.errors import ModelError, ShapeError
from edge_runtime.ports import SessionOptions


def packed(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def network(*sizes: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    arrays = {}
    for number, (inputs, units) in enumerate(itertools.pairwise(sizes)):
        arrays[f"w{number}"] = random.normal(size=(inputs, units)).astype(np.float32)
        arrays[f"b{number}"] = random.normal(size=units).astype(np.float32)
    return arrays


def load(**arrays: np.ndarray) -> ReferenceSession:
    return Reference().load(packed(**arrays), SessionOptions())


def test_it_computes_relu_layers_and_a_linear_end() -> None:
    """Hidden layers are cut at zero, the last one is not."""
    arrays = network(5, 7, 3, 2)
    batch = np.random.default_rng(1).normal(size=(11, 5)).astype(np.float32)
    hidden = np.maximum(batch @ arrays["w0"] + arrays["b0"], 0)
    hidden = np.maximum(hidden @ arrays["w1"] + arrays["b1"], 0)

    answers = load(**arrays).run(batch)

    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, hidden @ arrays["w2"] + arrays["b2"], rtol=1e-5, atol=1e-6)


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    rows=st.integers(0, 70),
    seed=st.integers(0, 99),
)
def test_a_batch_gives_the_bytes_of_its_rows(sizes: list[int], rows: int, seed: int) -> None:
    """Any network answers any batch byte for byte like its rows alone."""
    session = load(**network(*sizes, seed=seed))
    batch = np.random.default_rng(seed).normal(size=(rows, sizes[0])).astype(np.float32)

    together = session.run(batch)

    assert together.shape == (rows, sizes[-1])
    assert together.tobytes() == b"".join(session.run(row[None]).tobytes() for row in batch)


def test_its_tensors_say_its_shape() -> None:
    """Inputs and outputs are float32 with a batch axis first."""
    session = load(**network(9, 4, 1))

    assert session.inputs[0].shape == (1, 9)
    assert session.outputs[0].shape == (1, 1)
    assert session.inputs[0].dtype == "float32"


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"w0": np.ones((2, 3), np.float32)},
        {"w0": np.ones((2, 3), np.float32), "b1": np.ones(3, np.float32)},
        {"w0": np.ones((2, 3), np.float32), "b0": np.ones(2, np.float32)},
        {"w0": np.ones((2, 3)), "b0": np.ones(3)},
        {"w0": np.ones(3, np.float32), "b0": np.ones((), np.float32)},
        {"w0": np.ones((0, 3), np.float32), "b0": np.ones(3, np.float32)},
        {**network(2, 3), "w1": np.ones((4, 1), np.float32), "b1": np.ones(1, np.float32)},
    ],
    ids=["nothing", "no-bias", "gap", "bias", "float64", "one-axis", "no-inputs", "chain"],
)
def test_arrays_that_are_no_network_are_refused(arrays: dict[str, np.ndarray]) -> None:
    """Missing, misnamed or misshapen layers are a ModelError with all four parts."""
    with pytest.raises(ModelError) as caught:
        load(**arrays)

    error = caught.value
    assert all([error.what, error.where, error.expected, error.remedy])


@pytest.mark.parametrize("cut", [0, 10, 200, -1])
def test_bytes_that_are_no_archive_are_refused(cut: int) -> None:
    """An empty, truncated or foreign file is a ModelError."""
    with pytest.raises(ModelError):
        Reference().load(packed(**network(3, 2))[:cut], SessionOptions())


@pytest.mark.parametrize(
    "batch", [np.zeros((1, 4), np.float32), np.zeros((1, 3)), np.zeros(3, np.float32)]
)
def test_another_shape_or_dtype_is_refused(batch: np.ndarray) -> None:
    """A batch that does not fit is a ShapeError."""
    with pytest.raises(ShapeError, match=r"\(n, 3\) and float32"):
        load(**network(3, 2)).run(batch)


def test_a_closed_session_says_so() -> None:
    """After close a call is a ModelError."""
    session = load(**network(3, 2))
    session.close()

    with pytest.raises(ModelError, match="closed"):
        session.run(np.zeros((1, 3), np.float32))


def test_the_probe_needs_nothing() -> None:
    """There is nothing to install, and the version is numpy's."""
    assert Reference().probe() == np.__version__
