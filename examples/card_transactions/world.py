"""Draw a world of card payments in which the truth about every payment is known.

Everything here is invented: no row comes from a person, a bank or a data set. One seed gives
one world, always the same, so that an answer can be judged over many worlds.

Customers have habits: how often, how much, at what hour, in which shops, how far from home;
some are unusual all the time, and all of them travel now and then. Fraud comes in two kinds
that change from month to month:

* a *ring* copies the cards that pay at one shop during some days, and uses the copies days or
  weeks later, each ring in its own manner;
* a *take-over* uses one customer's account for some days, more often that of the careless.

A customer notices after days, tells the bank, and gets a new card: the misuse ends, and only
then are its payments known to be fraud.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["CATEGORIES", "DAY_S", "START_NS", "Payments", "World", "WorldSize", "draw"]

DAY_S = 86400.0
START_NS = 1_735_689_600 * 10**9
"""Midnight of 2025-01-01, UTC: second 0 of every world."""

CATEGORIES = ("grocery", "fuel", "dining", "fashion", "electronics", "digital", "travel", "cash")
_SHARE = np.array([0.30, 0.10, 0.18, 0.10, 0.06, 0.14, 0.04, 0.08])
_USUAL_AMOUNT = np.array([3.2, 3.7, 3.0, 3.9, 4.6, 2.5, 5.0, 4.2])  # ln €
_IS_ONLINE = np.array([0.05, 0.0, 0.0, 0.4, 0.6, 1.0, 0.7, 0.0])  # share of shops
_CASH = CATEGORIES.index("cash")

_REGION_KM = 300.0
_DEAR = np.array([4, 5, 6])  # electronics, digital, travel


@dataclass(frozen=True)
class WorldSize:
    """How large a world is.

    Attributes:
        customers: Cards.
        shops: Places to pay, online ones among them.
        days: Length, from second 0.
    """

    customers: int = 2000
    shops: int = 400
    days: int = 150


@dataclass(frozen=True, eq=False)
class Payments:
    """Payments in order of time; every array has shape (n,).

    Attributes:
        customer: Number of the customer, int64.
        shop: Number of the shop, int64.
        category: Index into `CATEGORIES`, int64.
        time_s: Seconds since the world began, float64.
        amount: €, float64.
        distance_km: From the customer's home; 0 online.
        is_online: bool.
        is_fraud: The truth, bool.
        known_s: When the bank learns that it is fraud; infinite for honest payments.
    """

    customer: np.ndarray
    shop: np.ndarray
    category: np.ndarray
    time_s: np.ndarray
    amount: np.ndarray
    distance_km: np.ndarray
    is_online: np.ndarray
    is_fraud: np.ndarray
    known_s: np.ndarray

    def __len__(self) -> int:
        return len(self.time_s)

    def take(self, rows: np.ndarray) -> Payments:
        """Return some of the payments, by index or mask."""
        return Payments(**{name: column[rows] for name, column in vars(self).items()})

    def as_of(self, now_s: float) -> Payments:
        """Return what the bank has at an instant: payments so far, and the reports so far."""
        past = self.take(self.time_s < now_s)
        reported = past.known_s <= now_s
        known_s = np.where(reported, past.known_s, np.inf)
        return replace(past, is_fraud=reported, known_s=known_s)


@dataclass(frozen=True, eq=False)
class World:
    """What was drawn.

    Attributes:
        size: As given.
        payments: All of them, in order of time.
    """

    size: WorldSize
    payments: Payments


@dataclass(frozen=True, eq=False)
class _Shops:
    category: np.ndarray
    place_km: np.ndarray  # (shops, 2)
    is_online: np.ndarray
    popularity: np.ndarray


@dataclass(frozen=True, eq=False)
class _Customers:
    home_km: np.ndarray  # (customers, 2)
    spending: np.ndarray  # added to ln €
    spread: np.ndarray
    per_day: np.ndarray
    hour: np.ndarray
    range_km: np.ndarray
    taste: np.ndarray  # (customers, categories), rows sum to 1
    carelessness: np.ndarray  # mean 1


@dataclass(frozen=True)
class _Manner:
    """How somebody misuses a card."""

    categories: np.ndarray
    amount: float  # ln €
    spread: float
    hour: float
    per_day: float
    online: float


def draw(seed: int, size: WorldSize | None = None) -> World:
    """Draw a world; the same seed and size give the same bytes."""
    size = size or WorldSize()
    random = np.random.default_rng(seed)
    shops = _draw_shops(random, size)
    customers = _draw_customers(random, size)
    honest = _joined(list(_honest(random, size, shops, customers)))
    misuse = [
        *_takeovers(random, size, shops, customers),
        *_rings(random, size, shops, honest),
    ]
    payments = _joined([honest, *misuse])
    return World(size, payments.take(np.argsort(payments.time_s, kind="stable")))


def _joined(parts: list[Payments]) -> Payments:
    names = vars(parts[0])
    return Payments(**{name: np.concatenate([vars(p)[name] for p in parts]) for name in names})


# --- who is there -------------------------------------------------------------------


def _draw_shops(random: np.random.Generator, size: WorldSize) -> _Shops:
    category = random.choice(len(CATEGORIES), size.shops, p=_SHARE)
    return _Shops(
        category=category,
        place_km=random.uniform(0, _REGION_KM, (size.shops, 2)),
        is_online=random.random(size.shops) < _IS_ONLINE[category],
        popularity=1.0 / np.arange(2, size.shops + 2)[random.permutation(size.shops)] ** 0.7,
    )


def _draw_customers(random: np.random.Generator, size: WorldSize) -> _Customers:
    n = size.customers
    travels = random.random(n) < 0.15
    is_night_owl = random.random(n) < 0.15
    return _Customers(
        home_km=random.uniform(0, _REGION_KM, (n, 2)),
        spending=random.normal(0.0, 0.5, n),
        spread=random.uniform(0.4, 0.9, n),
        per_day=random.gamma(3.0, 0.5, n),
        hour=np.where(is_night_owl, random.normal(23, 2, n), random.normal(14, 2.5, n)) % 24,
        range_km=np.where(travels, 200.0, np.exp(random.normal(np.log(15), 0.6, n))),
        taste=random.dirichlet(_SHARE * 6, n),
        carelessness=random.gamma(0.5, 2.0, n),
    )


# --- honest payments ----------------------------------------------------------------


def _honest(
    random: np.random.Generator, size: WorldSize, shops: _Shops, customers: _Customers
) -> Iterator[Payments]:
    """Yield every customer's own payments."""
    for c in range(size.customers):
        count = max(1, random.poisson(customers.per_day[c] * size.days))
        away_km = np.hypot(*(shops.place_km - customers.home_km[c]).T)
        near = np.where(shops.is_online, 0.4, np.exp(-away_km / customers.range_km[c]))
        liking = customers.taste[c][shops.category] * shops.popularity * (near + 1e-6)
        shop = random.choice(size.shops, count, p=liking / liking.sum())
        day = random.integers(0, size.days, count)
        hour = (customers.hour[c] + random.normal(0, 3.0, count)) % 24
        category = shops.category[shop]
        usual = _USUAL_AMOUNT[category] + customers.spending[c]
        time_s = day * DAY_S + hour * 3600
        is_online = shops.is_online[shop]
        there_km = np.where(is_online, 0.0, away_km[shop])
        yield Payments(
            customer=np.full(count, c),
            shop=shop,
            category=category,
            time_s=time_s,
            amount=np.exp(usual + customers.spread[c] * random.normal(0, 1, count)),
            distance_km=_with_trips(random, size, time_s, there_km, is_online),
            is_online=is_online,
            is_fraud=np.zeros(count, bool),
            known_s=np.full(count, np.inf),
        )


def _with_trips(
    random: np.random.Generator,
    size: WorldSize,
    time_s: np.ndarray,
    there_km: np.ndarray,
    is_online: np.ndarray,
) -> np.ndarray:
    """Move the payments of some days, one trip in sixty days, far away from home."""
    moved = there_km.copy()
    for _ in range(random.poisson(size.days / 60)):
        first_s = random.uniform(0, size.days) * DAY_S
        is_away = (time_s >= first_s) & (time_s < first_s + random.uniform(2, 10) * DAY_S)
        moved[is_away & ~is_online] += random.uniform(150, 1500)
    return moved


# --- fraud --------------------------------------------------------------------------


def _takeovers(
    random: np.random.Generator, size: WorldSize, shops: _Shops, customers: _Customers
) -> Iterator[Payments]:
    """Yield the misuse of accounts taken over, which the careless suffer again and again."""
    chances = customers.carelessness / customers.carelessness.sum()
    for _ in range(random.poisson(0.0006 * size.customers * size.days)):
        c = int(random.choice(size.customers, p=chances))
        first_s = random.uniform(0, size.days) * DAY_S
        # Like the owner, but dearer, at another hour, and ever more for digital goods.
        is_late = random.random() < first_s / (size.days * DAY_S)
        manner = _Manner(
            categories=np.array([5, 3]) if is_late else _DEAR,
            amount=float(3.6 + customers.spending[c] + random.normal(0, 0.4)),
            spread=0.7,
            hour=float(random.uniform(0, 24)),
            per_day=float(random.uniform(1.5, 4.0)),
            online=0.9,
        )
        yield _misused(random, size, shops, c, first_s, random.uniform(2, 8), manner)


def _rings(
    random: np.random.Generator,
    size: WorldSize,
    shops: _Shops,
    honest: Payments,
) -> Iterator[Payments]:
    """Yield the misuse of cards that rings copied at a shop."""
    places = np.flatnonzero(~shops.is_online)
    chances = shops.popularity[places] / shops.popularity[places].sum()
    for _ in range(random.poisson(size.days / 7)):
        shop = int(random.choice(places, p=chances))
        first_s = random.uniform(-20, size.days) * DAY_S
        manner = _ring_manner(random, first_s / (size.days * DAY_S))
        for c in _copied(random, honest, shop, first_s):
            used_s = first_s + (random.uniform(5, 10) + random.exponential(7.0)) * DAY_S
            yield _misused(random, size, shops, c, used_s, random.uniform(1, 5), manner)


def _copied(random: np.random.Generator, honest: Payments, shop: int, first_s: float) -> np.ndarray:
    """Return the customers whose card was copied within ten days at a shop."""
    is_there = (honest.shop == shop) & (honest.time_s >= first_s)
    is_there &= honest.time_s < first_s + 10 * DAY_S
    present = np.unique(honest.customer[is_there])
    return present[random.random(len(present)) < 0.4]


def _ring_manner(random: np.random.Generator, progress: float) -> _Manner:
    """Return how a ring uses its copies: bold purchases at first, small ones later."""
    return _Manner(
        categories=random.choice([4, 6, 7] if random.random() > progress else [0, 5, 3], 2),
        amount=float(random.normal(4.6 - 1.2 * min(max(progress, 0.0), 1.0), 0.4)),
        spread=0.5,
        hour=float(random.uniform(0, 24)),
        per_day=float(random.uniform(1.0, 4.0)),
        online=float(random.uniform(0.2, 0.8)),
    )


def _misused(
    random: np.random.Generator,
    size: WorldSize,
    shops: _Shops,
    customer: int,
    first_s: float,
    days: float,
    manner: _Manner,
) -> Payments:
    """Return one card's misuse, until its owner notices and has it blocked."""
    noticed_s = first_s + np.exp(random.normal(np.log(3.0), 0.6)) * DAY_S
    last_s = min(first_s + days * DAY_S, noticed_s, size.days * DAY_S)
    count = random.poisson(manner.per_day * days) + 1
    day_s = first_s + random.uniform(0, days, count) * DAY_S
    time_s = day_s - day_s % DAY_S + (manner.hour + random.normal(0, 3, count)) % 24 * 3600
    time_s = time_s[(time_s >= max(first_s, 0.0)) & (time_s < last_s)]
    n = len(time_s)
    suited = np.flatnonzero(np.isin(shops.category, manner.categories))
    shop = random.choice(suited, n) if len(suited) else random.integers(0, size.shops, n)
    category = shops.category[shop]
    is_online = (random.random(n) < manner.online) & (category != _CASH)
    return Payments(
        customer=np.full(n, customer),
        shop=shop,
        category=category,
        time_s=time_s,
        amount=np.exp(manner.amount + manner.spread * random.normal(0, 1, n)),
        distance_km=np.where(is_online, 0.0, np.exp(random.normal(np.log(60), 1.0, n))),
        is_online=is_online,
        is_fraud=np.ones(n, bool),
        known_s=np.maximum(noticed_s, time_s) + random.uniform(0.5, 2.0, n) * DAY_S,
    )
