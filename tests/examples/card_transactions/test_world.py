"""The invented world keeps its promises: repeatable, in order, and with a truth that comes late."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.card_transactions.world import DAY_S, Payments, WorldSize, draw

SMALL = WorldSize(customers=120, shops=80, days=60)


@pytest.fixture(scope="module")
def payments() -> Payments:
    return draw(3, SMALL).payments


def test_a_seed_is_a_world(payments: Payments) -> None:
    """The same seed gives the same bytes, another seed another world."""
    again, other = draw(3, SMALL).payments, draw(4, SMALL).payments

    for name, column in vars(payments).items():
        assert column.tobytes() == vars(again)[name].tobytes()
    assert payments.time_s.tobytes() != other.time_s.tobytes()


def test_payments_are_in_order_and_within_the_world(payments: Payments) -> None:
    """Nothing happens before the first second or after the last day."""
    assert np.all(np.diff(payments.time_s) >= 0)
    assert payments.time_s[0] >= 0
    assert payments.time_s[-1] < SMALL.days * DAY_S
    assert payments.customer.max() < SMALL.customers
    assert payments.shop.max() < SMALL.shops


def test_fraud_is_rare_and_known_late(payments: Payments) -> None:
    """Every fraud is reported, half a day after it at the earliest; nothing honest ever is."""
    fraud = payments.is_fraud
    delay_s = payments.known_s[fraud] - payments.time_s[fraud]

    assert 0.001 < fraud.mean() < 0.03
    assert np.all(delay_s >= DAY_S / 2)
    assert np.median(delay_s) > 2 * DAY_S
    assert np.all(np.isinf(payments.known_s[~fraud]))


def test_money_and_places_make_sense(payments: Payments) -> None:
    """Amounts are positive, and who pays online is nowhere."""
    assert np.all(payments.amount > 0)
    assert np.all(payments.distance_km[payments.is_online] == 0)
    assert np.all(payments.distance_km >= 0)


@given(now_s=st.floats(0, SMALL.days * DAY_S))
def test_nobody_sees_the_future(payments: Payments, now_s: float) -> None:
    """A view as of an instant has no later payment, and no report that came later."""
    seen = payments.as_of(now_s)

    assert len(seen) == int(np.sum(payments.time_s < now_s))
    assert np.all(seen.known_s[seen.is_fraud] <= now_s)
    assert np.all(np.isinf(seen.known_s[~seen.is_fraud]))
