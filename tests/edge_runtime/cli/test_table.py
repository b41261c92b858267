"""Tables line up."""

from __future__ import annotations

from edge_runtime.cli.table import table


def test_columns_line_up() -> None:
    """Numbers end where their header ends, text begins where its header begins."""
    text = table(("name", "µs"), [("litert", "3.5"), ("onnx", "46.8")], right="µs")

    assert text.splitlines() == ["name      µs", "litert   3.5", "onnx    46.8"]


def test_a_table_without_rows_is_its_header() -> None:
    """Nothing to show is no error."""
    assert table(("a", "b"), []) == "a  b"
