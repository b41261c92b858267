"""Links, activations and the calibration shipped with a base."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ShapeError
from edge_runtime.pipeline.fuse import (
    activate,
    calibrate,
    decay,
    from_link,
    squared_error,
    to_link,
)
from edge_runtime.spec import OutputSpec

PROBABILITIES = st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=5)


@given(PROBABILITIES)
def test_log_odds_go_there_and_back(probabilities: list[float]) -> None:
    """The two maps are each other's inverse."""
    values = np.array([probabilities])

    found = from_link(to_link(values, "log_odds"), "log_odds")

    np.testing.assert_allclose(found, values, rtol=1e-9)


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=5))
def test_log_odds_are_always_finite(values: list[float]) -> None:
    """A quantised 0 or 1, or a score that is no probability, does no harm."""
    z = to_link(np.array([values]), "log_odds")

    assert np.isfinite(z).all()
    assert np.abs(z).max() < 14


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=8))
def test_softmax_and_sigmoid_give_probabilities(values: list[float]) -> None:
    """Any finite output becomes numbers from 0 to 1, and softmax adds up to 1."""
    raw = np.array([values])

    softmax = activate(raw, OutputSpec(activation="softmax"))
    sigmoid = activate(raw, OutputSpec(activation="sigmoid"))

    assert ((softmax >= 0) & (softmax <= 1) & (sigmoid >= 0) & (sigmoid <= 1)).all()
    assert math.isclose(softmax.sum(), 1.0)


def test_softmax_agrees_with_its_formula() -> None:
    """``exp(x) / sum(exp(x))``."""
    raw = np.array([[1.0, 2.0, 4.0]])

    found = activate(raw, OutputSpec(activation="softmax"))

    powers = [math.exp(x) for x in raw[0]]
    np.testing.assert_allclose(found[0], np.array(powers) / sum(powers), rtol=1e-12)


def test_a_temperature_divides_the_logits() -> None:
    """Softer above 1, harder below, and the largest stays the largest."""
    logits = np.array([[2.0, 0.0]])

    soft = activate(logits, OutputSpec("softmax", temperature=2.0))
    hard = activate(logits, OutputSpec("sigmoid", temperature=0.5))

    np.testing.assert_allclose(soft[0, 0], 1 / (1 + math.exp(-1.0)))
    np.testing.assert_allclose(hard[0], [1 / (1 + math.exp(-4.0)), 0.5])


def test_the_error_of_a_reconstruction_is_its_mean_square() -> None:
    """Every row has one number."""
    found = squared_error(np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 4.0], [3.0, 1.0]]))

    assert found.tolist() == [[2.0], [5.0]]


def test_a_reconstruction_of_another_size_is_refused() -> None:
    """There is no difference between unlike shapes."""
    with pytest.raises(ShapeError, match=r"\(1, 3\).*\(1, 2\)"):
        squared_error(np.zeros((1, 3)), np.zeros((1, 2)))


def test_calibration_works_in_the_link() -> None:
    """``scale * z + offset``, with z in log-odds."""
    found = calibrate(np.array([[0.8]]), OutputSpec(scale=2.0, offset=-1.0), "log_odds")

    assert found[0, 0] == pytest.approx(1 / (1 + math.exp(-(2 * math.log(4) - 1))))


def test_no_calibration_leaves_the_bytes_alone() -> None:
    """An int8 probability of exactly 0 stays 0: nothing goes through the link and back."""
    values = np.array([[0.0, 1.0]])

    assert calibrate(values, OutputSpec(), "log_odds").tobytes() == values.tobytes()


def test_a_contribution_halves_every_half_life() -> None:
    """Without a half-life it stays whole."""
    age_s = np.array([0.0, 10.0, 20.0])

    assert decay(age_s, 10.0).tolist() == [[1.0], [0.5], [0.25]]
    assert decay(age_s, None).tolist() == [[1.0], [1.0], [1.0]]
