"""Results in columns."""

from __future__ import annotations

import numpy as np

from edge_runtime.pipeline import decisions_table, estimates_table
from edge_runtime.types import Decision, Estimates


def estimates_of(inputs: np.ndarray | None) -> Estimates:
    """Make two estimates of one value each."""
    index = np.array([3, 5])
    values = np.array([[0.5], [0.25]])
    return Estimates(index, index * 10, index * 10 + 9, values, values * 2, inputs, "0123456789ab")


def test_estimates_become_one_row_per_window() -> None:
    """The columns are those that outbox, wire and store know."""
    table = estimates_table(estimates_of(None))

    assert list(table.columns) == ["index", "start_ns", "end_ns", "score", "value", "effective_id"]
    assert len(table) == 2
    assert table.columns["value"].tolist() == [[1.0], [0.5]]
    assert table.columns["effective_id"].dtype == "<U16"


def test_inputs_travel_when_they_were_kept() -> None:
    """Their shape per window stays as it is."""
    table = estimates_table(estimates_of(np.zeros((2, 4, 3), np.float32)))

    assert table.columns["inputs"].shape == (2, 4, 3)


def test_decisions_become_one_row_each() -> None:
    """Everything but the stream, which the frame around the table names."""
    decision = Decision("main", 7, 70, "toy", "a", "start", 0.5, "id")

    table = decisions_table([decision])

    assert {name: column.tolist() for name, column in table.columns.items()} == {
        "index": [7],
        "time_ns": [70],
        "model": ["toy"],
        "label": ["a"],
        "edge": ["start"],
        "value": [0.5],
        "effective_id": ["id"],
        "tier": ["edge"],
        "revision": [0],
    }


def test_no_decisions_are_an_empty_table_of_the_same_columns() -> None:
    """A store can append it without looking."""
    table = decisions_table([])

    assert len(table) == 0
    assert {column.dtype.kind for column in table.columns.values()} == {"i", "f", "U"}
