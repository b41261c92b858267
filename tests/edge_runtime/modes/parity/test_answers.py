"""Answers are compared to the byte, and the first difference is named."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_runtime.modes.parity import Answers
from edge_runtime.types import Decision, Estimates, Output

DECISIONS = ((3, 30, "worn", "start", 0.75), (5, 50, "worn", "end", 0.25))


def answers(values: np.ndarray, decisions: tuple[object, ...] = DECISIONS) -> Answers:
    return Answers(np.arange(len(values)), values, decisions)  # type: ignore[arg-type]


@given(arrays(np.float64, st.tuples(st.integers(1, 20), st.just(2))), st.data())
def test_one_bit_is_a_difference(values: np.ndarray, data: st.DataObject) -> None:
    """Whatever bit is turned, NaN or not, its window is named and the digest is another."""
    row, bit = data.draw(st.integers(0, len(values) - 1)), data.draw(st.integers(0, 63))
    turned = values.copy()
    turned.view(np.uint64)[row, 1] ^= np.uint64(1 << bit)

    found = answers(turned).difference(answers(values))

    assert answers(values.copy()).difference(answers(values)) is None
    assert found is not None
    assert (found.what, found.index) == ("values", row)
    assert answers(turned).digest != answers(values).digest


@pytest.mark.parametrize(
    ("index", "said", "expected"),
    [([0, 1, 3], "3", "2"), ([0, 1], None, "2"), ([0, 1, 2, 3], "3", None)],
)
def test_a_window_too_many_or_too_few_is_named(
    index: list[int], said: str | None, expected: str | None
) -> None:
    """Missing, made up, or another one."""
    one = Answers(np.array(index), np.zeros((len(index), 1)), ())
    other = Answers(np.arange(3), np.zeros((3, 1)), ())

    found = one.difference(other)

    assert found is not None
    assert (found.what, found.is_, found.expected) == ("windows", said, expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[:1],
        lambda rows: (*rows, (7, 70, "worn", "start", 0.5)),
        lambda rows: (rows[0], (5, 50, "worn", "end", 0.2500000001)),
        lambda rows: (rows[0], (5, 51, "worn", "end", 0.25)),
    ],
)
def test_a_decision_that_differs_is_named(
    change: Callable[[tuple[object, ...]], tuple[object, ...]],
) -> None:
    """One that is missing, one too many, another value, another time."""
    values = np.zeros((8, 1))

    found = answers(values, change(DECISIONS)).difference(answers(values))

    assert found is not None
    assert found.what == "decisions"
    assert found.is_ != found.expected


def test_lines_and_outputs_give_the_same_answers() -> None:
    """What a sink writes down is read back to the bit."""
    at = np.array([4, 9])
    values = np.array([[0.1 + 0.2, 1e-300], [1 / 3, -0.0]])
    decision = Decision("main", 9, 90, "m", "worn", "start", 2 / 3, "0" * 16)
    output = Output("main", Estimates(at, at, at, values, values, None, "0" * 16), (decision,))
    lines = [
        msgspec.json.encode({"kind": "estimate", "index": index, "value": value})
        for index, value in zip(at.tolist(), values.tolist(), strict=True)
    ]
    lines.append(msgspec.json.encode({"kind": "decision", **msgspec.structs.asdict(decision)}))

    read = Answers.of_lines(lines, 2)

    assert read.difference(Answers.of_outputs([output], 2)) is None
    assert read.digest == Answers.of_outputs([output], 2).digest


def test_a_value_that_is_no_number_stands_as_null() -> None:
    """JSON has no NaN."""
    read = Answers.of_lines([b'{"kind": "estimate", "index": 1, "value": [null]}'], 1)

    assert np.isnan(read.value).all()
