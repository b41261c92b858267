"""What a batch learns every night about each customer, and ships as layers.

At midnight a batch looks at what the bank has by then: payments, the model's own answers to
them, and the fraud that was reported by then. Nothing later is ever looked at. It sees what no
single payment shows:

* how a customer usually looks to the model, so that who is always unusual is left in peace;
* payments of the last days that were out of *this* customer's order;
* visits to a shop where cards of others were copied (the "common point of purchase");
* that a card has just been blocked and replaced.

Once a week the weights are fitted anew: those of the batch on older days, those of the fusion
on the days after, so that the fusion knows how good the batch is out of time. The same days
tell how old layers may become before the model is better off alone: then they expire.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edge_runtime.pipeline.fuse import decay, from_link, to_link
from edge_runtime.spec import (
    Clamps,
    FusionLayer,
    Layer,
    LayerBody,
    Limit,
    PriorLayer,
    ThresholdsLayer,
)
from examples.card_transactions.judge import average_precision, threshold_at
from examples.card_transactions.payments import device_of, time_ns
from examples.card_transactions.world import DAY_S, Payments

__all__ = [
    "FIRST_FIT",
    "FIRST_NIGHT",
    "LEAST_FRAUD",
    "REPORT_DAYS",
    "Answers",
    "History",
    "Plan",
    "answer",
    "fit",
    "history_of",
    "layers_of",
    "night_of",
]

READY_S = 4 * 3600.0
"""The night's layers are live so long after midnight: the batch needs its time."""
REPORT_DAYS = 14
"""A payment that nobody complained of for so long counts as honest."""
FIRST_NIGHT = 21
"""Before it there is too little to learn habits from."""

FIRST_FIT = 56
"""Before it there are too few nights whose payments have labels."""

LEAST_FRAUD = 10
"""Reported payments that each half of a fit needs."""

_MEMORY_DAYS = 60
_FIT_DAYS = 60
_VISIT_DAYS = 30
_SHRINK = 5.0  # payments: what is known of a new customer is pulled to the mean so strongly
_RIDGE = 3.0
_STEPS, _WIDEST_STEP, _CLOSE = 20, 2.0, 1e-9
_LAGS = (0, 1, 2, 3, 5, 7)  # nights missed, for which half-life and expiry are fitted
_HALF_LIVES_S = tuple(days * DAY_S for days in (1, 2, 4, 8, 16, 32, 64))


@dataclass(frozen=True, eq=False)
class History:
    """A world as the bank has it.

    Attributes:
        payments: In order of time.
        z: The model's own answers in log-odds, shape (n,).
        nights: What each night's batch knows of each customer, shape (nights, customers, f);
            zeros before `FIRST_NIGHT`.
    """

    payments: Payments
    z: np.ndarray
    nights: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """What one week's fit says.

    Attributes:
        night: When it was made; labels known later are not in it.
        base: Log-odds of fraud in the rows of the fit.
        centre: Mean of the batch's features there, shape (f,).
        weights: What a feature adds to the live answer, in log-odds, shape (f,).
        alone: The same, fitted without any live answer.
        fusion: ``w0``, ``w1``, ``w2``.
        half_life_s: Of the prior.
        lasts_s: Age at which the layers expire; 0 if they are no help even when new.
        thresholds: Of the live answer, the batch alone, and the fused answer: probabilities.
    """

    night: int
    base: float
    centre: np.ndarray
    weights: np.ndarray
    alone: np.ndarray
    fusion: FusionLayer
    half_life_s: float
    lasts_s: float
    thresholds: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Answers:
    """Probabilities of fraud, shape (n,): live alone, last batch alone, and fused."""

    live: np.ndarray
    batch: np.ndarray
    fused: np.ndarray


# --- what a night knows -------------------------------------------------------------


def history_of(payments: Payments, score: np.ndarray, customers: int, last: int) -> History:
    """Run the batch of every night from `FIRST_NIGHT` to the last.

    Args:
        payments: Each night sees those before its midnight, and what was reported by then.
        score: The model's own answers to them, probabilities, shape (n,).
        customers: How many there are.
        last: Number of the last night.
    """
    z = to_link(score[:, None], "log_odds")[:, 0]
    seen = [_features_at(payments, customers, z, n) for n in range(FIRST_NIGHT, last + 1)]
    unseen = np.zeros((FIRST_NIGHT, *seen[0].shape))
    return History(payments, z, np.concatenate([unseen, seen]))


def _features_at(payments: Payments, customers: int, z: np.ndarray, night: int) -> np.ndarray:
    """Return what is known of each customer at a midnight, shape (customers, 9)."""
    now_s = night * DAY_S
    seen = slice(*np.searchsorted(payments.time_s, [now_s - _MEMORY_DAYS * DAY_S, now_s]))
    past, past_z = payments.take(np.arange(seen.start, seen.stop)), z[seen]
    reported = past.known_s <= now_s
    blocked_s, reports = _reports(past, customers, reported)
    # A new card has no misuse behind it: what its owner did with the old one is over.
    is_current = past.time_s > blocked_s[past.customer]
    own_z, own_amount, count = _habits(past, customers, past_z, reported)
    surprise = np.where(is_current, past_z - own_z[past.customer], 0.0)
    days = min(night, _MEMORY_DAYS)
    today = past.time_s >= now_s - DAY_S
    expected = count / days + 0.5
    return np.stack(
        [
            own_z,
            own_amount,
            np.log(expected),
            _highest(past.customer, surprise, today, customers),
            _highest(past.customer, surprise, past.time_s >= now_s - 7 * DAY_S, customers),
            np.log((np.bincount(past.customer[today], minlength=customers) + 0.5) / expected),
            np.log1p(_exposure(past, customers, reported, is_current, now_s)),
            np.exp((blocked_s - now_s) / (7 * DAY_S)),
            np.log1p(reports),
        ],
        axis=1,
    )


def _reports(past: Payments, customers: int, reported: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return when each card was last blocked, and how many payments were reported."""
    blocked_s = np.full(customers, -np.inf)
    np.maximum.at(blocked_s, past.customer[reported], past.known_s[reported])
    return blocked_s, np.bincount(past.customer[reported], minlength=customers)


def _habits(
    past: Payments, customers: int, z: np.ndarray, reported: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each customer's mean answer, mean ln € and count, without what was reported."""
    own, who = ~reported, past.customer[~reported]
    count = np.bincount(who, minlength=customers)

    def shrunk(values: np.ndarray) -> np.ndarray:
        total = np.bincount(who, values, minlength=customers) + _SHRINK * values.mean()
        mean: np.ndarray = total / (count + _SHRINK)
        return mean

    return shrunk(z[own]), shrunk(np.log(past.amount[own])), count


def _highest(
    customer: np.ndarray, values: np.ndarray, rows: np.ndarray, customers: int
) -> np.ndarray:
    """Return each customer's largest value in some rows, at least 0."""
    largest = np.zeros(customers)
    np.maximum.at(largest, customer[rows], values[rows])
    return largest


def _exposure(
    past: Payments, customers: int, reported: np.ndarray, is_current: np.ndarray, now_s: float
) -> np.ndarray:
    """Return how suspicious the most suspicious shop is where each card was, shape (customers,).

    A shop's suspicion is the number of misused cards that were there in the 30 days before
    their misuse, above what its popularity explains, in standard deviations of a Poisson count.
    """
    misused_s = np.full(customers, np.inf)
    np.minimum.at(misused_s, past.customer[reported], past.time_s[reported])
    misused_s[misused_s < now_s - _VISIT_DAYS * DAY_S] = np.inf
    shops = int(past.shop.max()) + 1
    recent = (past.time_s >= now_s - _VISIT_DAYS * DAY_S) & ~past.is_online & ~reported
    before_s = misused_s[past.customer] - past.time_s
    before = (before_s > 0) & (before_s <= _VISIT_DAYS * DAY_S) & ~past.is_online & ~reported
    visited = _visits(past, recent, customers, shops)
    hits = _visits(past, before, customers, shops).sum(axis=0)
    expected = np.isfinite(misused_s).sum() * visited.mean(axis=0)
    suspicion = np.maximum((hits - expected) / np.sqrt(expected + 1.0), 0.0)
    at_risk = _visits(past, recent & is_current, customers, shops)
    exposure: np.ndarray = (at_risk * suspicion).max(axis=1)
    return exposure


def _visits(past: Payments, rows: np.ndarray, customers: int, shops: int) -> np.ndarray:
    """Return who was where in some rows, bool, shape (customers, shops)."""
    visits = np.zeros((customers, shops), bool)
    visits[past.customer[rows], past.shop[rows]] = True
    return visits


def night_of(time_s: np.ndarray, missed: int = 0) -> np.ndarray:
    """Return the night whose layers are live at each instant, after some missed nights."""
    return np.floor((time_s - READY_S) / DAY_S).astype(int) - missed


# --- the weekly fit -----------------------------------------------------------------


def fit(history: History, night: int, clamps: Clamps) -> Plan:
    """Fit batch, fusion, half-life and thresholds with what is known at a midnight.

    Args:
        history: Rows after ``night`` and reports after it are not looked at.
        night: At least `FIRST_FIT`.
        clamps: Of the base: no weight goes beyond them.

    Raises:
        ValueError: Fewer than `LEAST_FRAUD` payments were reported in a part of it.
    """
    time_s = history.payments.time_s
    last_s = (night - REPORT_DAYS) * DAY_S
    first_s = max(last_s - _FIT_DAYS * DAY_S, (FIRST_NIGHT + max(_LAGS) + 2) * DAY_S)
    split_s = first_s + (last_s - first_s) * 2 / 3
    older, newer, whole = (
        np.arange(*np.searchsorted(time_s, bounds))
        for bounds in ((first_s, split_s), (split_s, last_s), (first_s, last_s))
    )
    labels = history.payments.known_s <= night * DAY_S
    _check_enough(labels[older], labels[newer])
    features = _in_force(history, older)
    centre = features.mean(axis=0)
    weights = _logistic(np.column_stack([history.z[older], features - centre]), labels[older])[2:]
    alone = _logistic(_in_force(history, whole) - centre, labels[whole])
    half_life_s, fusion = _fuse(history, newer, labels[newer], (centre, weights), clamps)
    share = labels[whole].mean()
    plan = Plan(
        night=night,
        base=float(np.log(share / (1 - share))),
        centre=centre,
        weights=weights,
        alone=alone,
        fusion=fusion,
        half_life_s=half_life_s,
        lasts_s=np.inf,
        thresholds=(1.0, 1.0, 1.0),
    )
    answers = answer(history, newer, plan, clamps)
    columns = (answers.live, answers.batch, answers.fused)
    live, batch, fused = (threshold_at(column, labels[newer]) for column in columns)
    lasts_s = _lasts_s(history, newer, labels[newer], plan, clamps)
    return replace(plan, lasts_s=lasts_s, thresholds=(live, batch, fused))


def _check_enough(older: np.ndarray, newer: np.ndarray) -> None:
    counts = int(older.sum()), int(newer.sum())
    if min(counts) < LEAST_FRAUD:
        raise ValueError(
            f"{counts[0]} and {counts[1]} reported payments in the two parts of the fit; "
            f"expected {LEAST_FRAUD} or more in each.\n"
            "  Take a later night, or more customers."
        )


def _lasts_s(
    history: History, rows: np.ndarray, labels: np.ndarray, plan: Plan, clamps: Clamps
) -> float:
    """Return the age up to which the fused answer beats the live one out of time."""
    for missed in _LAGS:
        answers = answer(history, rows, plan, clamps, missed=missed)
        fused, live = (average_precision(s, labels) for s in (answers.fused, answers.live))
        if fused <= live:
            break
    else:
        missed += 1
    return READY_S + missed * DAY_S if missed else 0.0


def _in_force(history: History, rows: np.ndarray, missed: int = 0) -> np.ndarray:
    """Return the batch's features that are live for each payment, shape (n, f)."""
    night = night_of(history.payments.time_s[rows], missed)
    features: np.ndarray = history.nights[night, history.payments.customer[rows]]
    return features


def _age_s(history: History, rows: np.ndarray, missed: int = 0) -> np.ndarray:
    time_s = history.payments.time_s[rows]
    age_s: np.ndarray = time_s - night_of(time_s, missed) * DAY_S
    return age_s


def _fuse(
    history: History,
    rows: np.ndarray,
    labels: np.ndarray,
    batch: tuple[np.ndarray, np.ndarray],
    clamps: Clamps,
) -> tuple[float, FusionLayer]:
    """Choose the half-life that serves all ages best, then the weights for the usual age."""
    centre, weights = batch
    z, largest = history.z[rows], clamps.fusion_weight
    priors = [(_in_force(history, rows, missed) - centre) @ weights for missed in _LAGS]
    ages_s = [_age_s(history, rows, missed) for missed in _LAGS]

    def designs(half_life_s: float) -> list[np.ndarray]:
        faded = (decay(age_s, half_life_s)[:, 0] for age_s in ages_s)
        return [np.column_stack([z, prior * f]) for prior, f in zip(priors, faded, strict=True)]

    def loss(half_life_s: float) -> float:
        aged = designs(half_life_s)
        w0, w1, w2 = _logistic(aged[0], labels)
        answers = (design @ (w1, w2) + w0 for design in aged)
        return float(sum(np.mean(np.logaddexp(0, z) - labels * z) for z in answers))

    half_life_s = min(_HALF_LIVES_S, key=loss)
    w0, w1, w2 = np.clip(_logistic(designs(half_life_s)[0], labels), -largest, largest)
    return half_life_s, FusionLayer(float(w0), float(w1), float(w2))


def _logistic(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return intercept and weights of a logistic regression with a ridge, shape (1 + f,).

    Newton's method, in steps that are never wide: with few labels the first would overshoot.
    Source: Hastie, Tibshirani and Friedman 2009, section 4.4.1.
    """
    centre, spread = features.mean(axis=0), features.std(axis=0) + 1e-9
    design = np.column_stack([np.ones(len(features)), (features - centre) / spread])
    penalty = np.full(design.shape[1], _RIDGE)
    penalty[0] = 0.0
    beta = np.zeros(design.shape[1])
    beta[0] = np.log((labels.sum() + 0.5) / ((~labels).sum() + 0.5))
    for _ in range(_STEPS):
        p = from_link(design @ beta, "log_odds")
        gradient = design.T @ (labels - p) - penalty * beta
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        if np.abs(step).max() < _CLOSE:
            break
        beta += step * min(1.0, _WIDEST_STEP / np.abs(step).max())
    weights = beta[1:] / spread
    return np.concatenate([[beta[0] - weights @ centre], weights])


# --- what comes of it ---------------------------------------------------------------


def answer(
    history: History,
    rows: np.ndarray,
    plan: Plan,
    clamps: Clamps,
    *,
    missed: int = 0,
    fades: bool = True,
) -> Answers:
    """Return what each way to answer says of payments: the pipeline's formula, for all at once.

    Args:
        history: The world.
        rows: Which payments, in any order.
        plan: The fit in force.
        clamps: Of the base.
        missed: Nights whose layers did not arrive.
        fades: Whether the prior has its half-life, and layers expire; if not, what is old
            counts like what is new.
    """
    features = _in_force(history, rows, missed)
    prior = (features - plan.centre) @ plan.weights
    term = np.clip(plan.fusion.w2 * prior, -clamps.prior, clamps.prior)
    half_life_s, lasts_s = (plan.half_life_s, plan.lasts_s) if fades else (None, np.inf)
    age_s = _age_s(history, rows, missed)
    z = history.z[rows] * plan.fusion.w1 + plan.fusion.w0
    z = np.where(age_s < lasts_s, z + term * decay(age_s, half_life_s)[:, 0], history.z[rows])
    alone = (features - plan.centre) @ plan.alone[1:] + plan.alone[0]
    live, batch, both = (from_link(column, "log_odds") for column in (history.z[rows], alone, z))
    return Answers(live, batch, both)


def layers_of(history: History, plan: Plan, night: int, requires: str) -> list[Layer]:
    """Return a night's layers: weights and threshold for all, a prior for each customer.

    Args:
        history: The world.
        plan: The fit in force; not newer than ``night``.
        night: Whose midnight they are made of.
        requires: Digest of the base.
    """
    made_ns = int(time_ns(night * DAY_S))
    expires_ns = made_ns + round(plan.lasts_s * 1e9)
    limit = Limit("fraud", on=plan.thresholds[2], off=plan.thresholds[2])

    def layer(body: LayerBody, scope: str = "fleet", half_life_s: float | None = None) -> Layer:
        return Layer(body, requires, night, made_ns, scope, half_life_s, expires_ns)

    risk = plan.base + (history.nights[night] - plan.centre) @ plan.weights
    priors = [
        layer(PriorLayer((value,), (plan.base,)), f"device:{device_of(c)}", plan.half_life_s)
        for c, value in enumerate(risk.tolist())
    ]
    return [layer(plan.fusion), layer(ThresholdsLayer((limit,))), *priors]
