"""The books tell what was lost, what came twice, and what is the same."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.spec import WindowSpec
from edge_runtime.types import Decision, Table
from edge_simulator.fleet.ledger import Counts, Heap, Ledger
from edge_simulator.fleet.load import Feed

FEED = Feed(0, 1.0, WindowSpec(length=3, hop=2), is_whole=True)
Rows = st.sets(st.integers(0, 200), max_size=60)


def _estimates(index: list[int]) -> Table:
    values = np.array(index, np.float64)[:, None] / 3
    return Table({"index": np.array(index, np.int64), "value": values})


def _counts(ledger: Ledger, waiting: list[int] | None = None, position: int = 0) -> Counts:
    heap = Heap()
    heap.add(_estimates(waiting or []))
    return ledger.counts("a", waiting={"s": heap}, positions={"s": (FEED, position)})


@given(made=Rows, arrived=Rows, waiting=Rows, gaps=st.integers(0, 5))
def test_lost_is_what_neither_arrived_nor_waits_nor_was_said(
    made: set[int], arrived: set[int], waiting: set[int], gaps: int
) -> None:
    """For any sets of rows, whatever their numbers on the wire."""
    ledger = Ledger()
    ledger.made("a", "s", _estimates(sorted(made)))
    ledger.arrived("a", "s", _estimates(sorted(arrived)))
    ledger.dropped("a", gaps)

    counts = _counts(ledger, sorted(waiting))

    assert counts.rows_lost == max(0, len(made - arrived - waiting) - gaps)
    assert (counts.rows_made, counts.rows_arrived) == (len(made), len(arrived))
    assert counts.duplicates == 0


@given(st.lists(st.integers(0, 50), max_size=60), st.randoms(use_true_random=False))
def test_order_and_repeats_do_not_change_what_arrived(index: list[int], random: object) -> None:
    """The digest is that of the different rows; each repeat is counted."""
    shuffled = list(index)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    whole, pieces = Ledger(), Ledger()
    whole.arrived("a", "s", _estimates(sorted(set(index))))
    for each in shuffled:
        pieces.arrived("a", "s", _estimates([each]))

    assert _counts(pieces).duplicates == len(index) - len(set(index))
    if index:
        assert _counts(pieces).arrived_sha256 == _counts(whole).arrived_sha256


def test_a_row_that_is_made_again_is_one_row() -> None:
    """After a power cut the same samples give the same rows; decisions are told once."""
    decision = Decision("s", 4, 4, "m", "high", "start", 1.0, "id")
    ledger = Ledger()

    fresh = [ledger.decided("a", at_ns, [decision]) for at_ns in (1, 2)]
    for _ in range(2):
        ledger.made("a", "s", _estimates([2, 4]))

    assert fresh == [[decision], []]
    assert _counts(ledger).rows_made == 2
    assert _counts(ledger).decisions == 1


def test_windows_without_an_answer_are_missing() -> None:
    """Of samples 0 to 8 with windows of three, every second one, 2, 4, 6 and 8 are expected."""
    ledger = Ledger()
    ledger.answered("a", "s", _estimates([2, 6]))

    assert _counts(ledger, position=9).windows_missing == 2
    assert _counts(ledger, position=4).windows_missing == 0


def test_the_peak_of_a_backlog_is_kept() -> None:
    """The last number is the backlog, the largest is its peak."""
    ledger = Ledger()
    for rows in (3, 9, 4):
        ledger.waits("a", rows)

    assert (_counts(ledger).backlog, _counts(ledger).backlog_peak) == (4, 9)
