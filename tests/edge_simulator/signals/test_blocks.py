"""Rows come out the same however they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_simulator.signals.blocks import BLOCK, Blocks, check_range


def _rows(number: int) -> np.ndarray:
    return np.arange(number * BLOCK, (number + 1) * BLOCK, dtype=np.float64)


@given(st.integers(0, 5 * BLOCK), st.integers(0, 3 * BLOCK))
def test_any_rows_are_those_of_the_blocks(first: int, count: int) -> None:
    """Cuts lie anywhere, and nothing is asked twice in vain."""
    blocks = Blocks(_rows)

    assert blocks.read(first, count).tolist() == list(range(first, first + count))


def test_a_block_that_is_read_in_small_steps_is_made_once() -> None:
    """Reading a frame at a time costs no more than reading it all."""
    made: list[int] = []

    def make(number: int) -> np.ndarray:
        made.append(number)
        return _rows(number)

    blocks = Blocks(make)
    for first in range(0, 2 * BLOCK, 256):
        blocks.read(first, 256)

    assert made == [0, 1]


def test_rows_cannot_be_changed() -> None:
    """They are shared, so they are read-only, within a block and across two."""
    blocks = Blocks(_rows)

    for count in (10, BLOCK + 10):
        with pytest.raises(ValueError, match="read-only"):
            blocks.read(0, count)[0] = 1


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, -1), (5, 6)])
def test_rows_that_do_not_exist_are_refused(first: int, count: int) -> None:
    """A negative place never wraps around."""
    with pytest.raises(ValueError, match="rows"):
        check_range(first, count, 10)
