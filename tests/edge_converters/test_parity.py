"""Parity tells equal answers from close ones, and close ones from wrong ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_converters.parity import FLOAT_GATE_DB, check_parity, parity_of
from edge_runtime.errors import ModelError

VALUES = arrays(np.float64, (5, 3), elements=st.floats(-10, 10, width=32))


@given(VALUES)
def test_answers_equal_themselves(values: np.ndarray) -> None:
    """To the byte: there is no ratio to give."""
    parity = parity_of(values, values)

    assert (parity.snr_db, parity.largest, parity.top1) == (None, 0.0, 1.0)


@given(VALUES, st.floats(1e-6, 1.0))
def test_a_relative_error_is_its_decibels(values: np.ndarray, share: float) -> None:
    """An error of a share e everywhere is -20 log10(e) dB."""
    values = values + np.where(values >= 0, 1.0, -1.0)

    parity = parity_of(values, values * (1 + share))

    assert parity.snr_db == pytest.approx(-20 * np.log10(share), abs=1e-3)


def test_layouts_may_differ_but_not_sizes() -> None:
    """(n, 6) and (n, 2, 3) hold the same answers; (n, 5) does not."""
    ones = np.ones((4, 6))

    assert parity_of(ones, ones.reshape(4, 2, 3)).snr_db is None
    with pytest.raises(ModelError, match=r"\(4, 5\)"):
        parity_of(ones, np.ones((4, 5)))


def test_an_answer_that_is_not_finite_is_refused() -> None:
    """NaN differs from everything and would hide in a mean."""
    with pytest.raises(ModelError, match="not finite"):
        parity_of(np.ones((2, 2)), np.array([[1, np.nan], [1, 1]]))


def test_the_gate_stops_what_changed() -> None:
    """One swapped pair of channels in a hundred is far below the gate."""
    expected = np.random.default_rng(0).normal(size=(10, 100))
    swapped = expected.copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]

    with pytest.raises(ModelError, match=r"answers changed.*80 dB"):
        check_parity(parity_of(expected, swapped), FLOAT_GATE_DB, "step")
    check_parity(parity_of(expected, expected * (1 + 1e-6)), FLOAT_GATE_DB, "step")
