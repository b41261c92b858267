"""Results in columns."""

from __future__ import annotations

import msgspec
import numpy as np

from edge_runtime.pipeline import decisions_table, estimates_table
from edge_runtime.pipeline.records import EstimateRows
from edge_runtime.quality import MASK
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


def test_gathered_estimates_are_the_rows_that_went_in() -> None:
    """In order; refined values are kept beside the scores also where only some differ."""
    first = estimates_of(np.arange(8, dtype=np.float32).reshape(2, 4))
    second = msgspec.structs.replace(first, value=first.score)
    rows = EstimateRows(first)

    rows.add(first)
    rows.add(second)

    columns, expected = rows.table().columns, estimates_table(first).columns
    assert list(columns) == list(expected)
    for name in ("index", "start_ns", "end_ns", "score", "inputs", "effective_id"):
        assert columns[name].dtype == expected[name].dtype
        assert columns[name].tolist() == expected[name].tolist() * 2
    assert columns["value"].tolist() == [[1.0], [0.5], [0.5], [0.25]]


def test_uncertain_windows_stay_marked() -> None:
    """Gathered or not; without a reject band there is no such column."""
    marks = np.array([[True], [False]])
    estimates = msgspec.structs.replace(estimates_of(None), uncertain=marks)
    rows = EstimateRows(estimates)

    rows.add(estimates)
    rows.add(estimates)

    assert estimates_table(estimates).columns["uncertain"].tolist() == [[True], [False]]
    gathered = rows.table().columns["uncertain"]
    assert gathered.dtype == np.bool_
    assert gathered.tolist() == [[True], [False]] * 2


def test_suspect_rows_add_a_column_to_all() -> None:
    """Rows of windows about which nothing is known have 0 there."""
    well = estimates_of(None)
    suspect = msgspec.structs.replace(well, quality=np.array([0, 3], MASK))
    rows, others = EstimateRows(well), EstimateRows(well)

    rows.add(well)
    rows.add(suspect)
    others.add(well)

    assert rows.table().columns["quality"].tolist() == [0, 0, 0, 3]
    assert rows.table().columns["quality"].dtype == MASK
    assert "quality" not in others.table().columns


def test_a_suspect_decision_adds_a_column_to_all() -> None:
    """A decision about which nothing is known has 0 there."""
    well = Decision("main", 7, 70, "toy", "a", "start", 0.5, "id")
    suspect = msgspec.structs.replace(well, edge="end", quality=2)

    table = decisions_table([well, suspect])

    assert table.columns["quality"].tolist() == [0, 2]
    assert table.columns["quality"].dtype == MASK


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
