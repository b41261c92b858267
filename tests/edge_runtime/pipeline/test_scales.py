"""Normalisers against numpy's and scipy's definitions."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from edge_runtime.config import parse_yaml
from edge_runtime.errors import ConfigError, ShapeError
from edge_runtime.pipeline.layers import normalise, scales_of
from edge_runtime.pipeline.scales import normal_quantile
from edge_runtime.spec import Clamps, ModelSpec, Normalise

REFERENCE = Path(__file__).parents[2] / "data" / "reference" / "sklearn_quantiles.npz"


def by_definition(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Compute shares as scikit-learn does: interpolation from both sides, and the bounds."""
    shares = np.linspace(0, 1, len(knots))
    both = np.interp(values, knots, shares) - np.interp(-values, -knots[::-1], -shares[::-1])
    both /= 2
    both[values == knots[-1]] = 1
    both[values == knots[0]] = 0
    return both


def quantile(knots: np.ndarray, output: str = "uniform") -> Normalise:
    rows = tuple(map(tuple, knots.tolist()))
    return Normalise(kind="quantile", knots=rows, output=output)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(
    elements=st.integers(1, 5),
    count=st.integers(2, 30),
    has_ties=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_shares_are_those_of_the_definition(
    elements: int, count: int, has_ties: bool, seed: int
) -> None:
    """Between knots, on them, on equal ones, and outside: as scikit-learn's transformer."""
    random = np.random.default_rng(seed)
    knots = np.sort(random.normal(size=(elements, count)).astype(np.float32), axis=1)
    if has_ties:
        knots = np.round(knots * 2) / 2
    values = random.normal(0, 1.5, (50, elements)).astype(np.float32)
    values[::2] = knots[:, random.integers(0, count, 25)].T
    scales = scales_of(quantile(knots.astype(float)), (elements,), "here")

    found = normalise(values, scales)

    expected = [by_definition(values[:, i].astype(float), knots[i]) for i in range(elements)]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack(expected, axis=1), atol=1e-6)


@pytest.mark.parametrize("output", ["uniform", "normal"])
def test_transforms_are_those_of_scikit_learn(output: str) -> None:
    """Its own knots and outputs, for distributions with and without equal values."""
    golden = np.load(REFERENCE)
    scales = scales_of(quantile(golden["knots"], output), (4,), "here")

    found = normalise(golden["values"], scales)

    np.testing.assert_allclose(found, golden[output], rtol=0, atol=1e-6)


def test_points_of_the_normal_distribution_are_scipys() -> None:
    """The rational approximation is good far beyond float32."""
    shares = np.concatenate([np.linspace(1e-7, 1 - 1e-7, 10_001), np.logspace(-7, -1, 200)])

    found = normal_quantile(shares)

    np.testing.assert_allclose(found, special.ndtri(shares), rtol=1e-9, atol=1e-9)


def test_normal_output_is_bounded() -> None:
    """Values beyond the training's lie 5.2 standard deviations out, not infinitely far."""
    scales = scales_of(quantile(np.array([[0.0, 1.0, 2.0]]), "normal"), (1,), "here")

    found = normalise(np.array([[-9.0], [1.0], [9.0]], np.float32), scales)

    np.testing.assert_allclose(found[:, 0], [-5.1993376, 0, 5.1993376], rtol=1e-6)


@settings(max_examples=30)
@given(count=st.integers(1, 400), seed=st.integers(0, 2**32 - 1))
def test_a_window_alone_has_the_same_bytes_as_among_others(count: int, seed: int) -> None:
    """No value depends on how many windows are normalised together."""
    random = np.random.default_rng(seed)
    knots = np.sort(random.normal(size=(8, 1000)), axis=1)
    values = random.normal(size=(count, 4, 8)).astype(np.float32)
    scales = scales_of(quantile(knots, "normal"), (4, 8), "here")

    found = normalise(values, scales)

    alone = b"".join(normalise(values[i : i + 1], scales).tobytes() for i in range(count))
    assert found.shape == values.shape
    assert found.tobytes() == alone


def test_knots_come_per_element_or_per_last_axis() -> None:
    """Three lists do not fit features of shape (4, 8)."""
    with pytest.raises(ShapeError, match="knots has 3 lists; expected 32 or 8 each"):
        scales_of(quantile(np.zeros((3, 2))), (4, 8), "here")


def test_a_z_score_is_read_without_its_kind() -> None:
    """Bundles from before there were kinds keep reading."""
    found = parse_yaml("{mean: [1, 2], std: [3, 4]}", Normalise, "here")

    assert found == Normalise((1.0, 2.0), (3.0, 4.0))
    assert found.kind == "z_score"


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{mean: [1]}",
        "{mean: [1], std: [0]}",
        "{mean: [1], std: [1], knots: [[1, 2]]}",
        "{kind: quantile}",
        "{kind: quantile, mean: [1], std: [1], knots: [[1, 2]]}",
        "{kind: quantile, knots: [[1]]}",
        "{kind: quantile, knots: [[1, 2], [1, 2, 3]]}",
        "{kind: quantile, knots: [[2, 1]]}",
        "{kind: quantile, knots: [[.nan, 1]]}",
    ],
)
def test_numbers_that_do_not_make_a_normaliser_are_refused(text: str) -> None:
    """Each kind has its own numbers and nothing else."""
    with pytest.raises(ConfigError):
        parse_yaml(text, Normalise, "here")


def test_layers_do_not_replace_quantiles() -> None:
    """A normaliser layer is a z-score, and has nothing to move in a quantile normaliser."""
    spec = parse_yaml(
        """
name: m
version: "1"
kind: scorer
stream: {channels: [{name: x}], rate_hz: 10}
window: {length: 2, hop: 2}
artefacts: [{backend: reference, file: m.npz, precision: float32}]
labels: [a]
normalise: {kind: quantile, knots: [[0, 1]]}
""",
        ModelSpec,
        "here",
    )

    with pytest.raises(ConfigError, match="normaliser layers on a quantile normaliser"):
        msgspec.convert(
            msgspec.to_builtins(msgspec.structs.replace(spec, clamps=Clamps(("normaliser",)))),
            ModelSpec,
        )
