"""Spans of time are read as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_simulator.fleet.spans import span_ns, span_text

DAY_NS = 86_400 * 10**9


@given(st.integers(0, 3000 * DAY_NS // 10**6).map(lambda ms: ms * 10**6))
def test_a_span_that_was_written_reads_back(length_ns: int) -> None:
    """Every span of whole milliseconds survives being written."""
    assert span_ns(span_text(length_ns)) == length_ns


@pytest.mark.parametrize("text", ["", "7", "7 weeks", "-1d", "1d and 2h", "20000d", "d", "1e3s"])
def test_what_is_no_span_is_none(text: str) -> None:
    """Numbers without a unit, unknown units, signs and more than ten years are no spans."""
    assert span_ns(text) is None


def test_units_add_up() -> None:
    """Parts may be written together or apart, and have fractions."""
    assert span_ns("1d 6h") == span_ns("1d6h") == span_ns("1.25d") == 30 * 3600 * 10**9
