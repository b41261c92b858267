"""Waits grow, have a bound, and start small again after a success."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.backoff import Backoff


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_a_wait_stays_between_nothing_and_its_doubling_bound(jitters: list[float]) -> None:
    """The n-th wait is the jitter's share of the first bound times 2^n, up to the last bound."""
    numbers = iter(jitters)
    backoff = Backoff(0.25, 30.0, jitter=lambda: next(numbers))

    waits = [backoff.next_s() for _ in jitters]

    assert waits == [share * min(30.0, 0.25 * 2**n) for n, share in enumerate(jitters)]


def test_a_success_starts_anew() -> None:
    """After a reset the next failure waits as little as the first."""
    backoff = Backoff(0.5, 8.0, jitter=lambda: 1.0)
    waits = [backoff.next_s() for _ in range(3)]

    backoff.reset()

    assert [*waits, backoff.next_s()] == [0.5, 1.0, 2.0, 0.5]
