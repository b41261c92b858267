"""Refusals are counted by address, and forgotten in time."""

from __future__ import annotations

from edge_cloud.identity.refusals import Refusals
from edge_runtime.testing import FakeClock


def test_ten_are_let_pass_and_come_back_in_a_minute() -> None:
    """One every six seconds, and never more than ten at once."""
    clock = FakeClock(0)
    refusals = Refusals(clock)

    held = [refusals.note("a") for _ in range(12)]

    assert held == [False] * 9 + [True] * 3
    assert refusals.are_too_many("a")
    clock.advance(6.5)
    assert not refusals.are_too_many("a")
    assert refusals.note("a") and refusals.are_too_many("a")
    clock.advance(3600)
    assert [refusals.note("a") for _ in range(10)].index(True) == 9


def test_an_address_does_not_pay_for_another() -> None:
    """Nor does one pay that was never refused."""
    refusals = Refusals(FakeClock(0))

    for _ in range(10):
        refusals.note("a")

    assert refusals.are_too_many("a")
    assert not refusals.are_too_many("b")


def test_memory_is_bounded() -> None:
    """Of a flood from everywhere the latest addresses are kept."""
    refusals = Refusals(FakeClock(0))
    for _ in range(10):
        refusals.note("first")

    for number in range(1100):
        refusals.note(f"address-{number}")

    assert not refusals.are_too_many("first")
    assert len(refusals._accounts) == 1024
