"""What a payment tells at the moment it is made, and how the shipped model scores it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_runtime import Pipeline, load_bundle, open_pipeline
from edge_runtime.types import Windows
from examples.card_transactions.world import CATEGORIES, DAY_S, START_NS, Payments

__all__ = ["BUNDLE", "CHANNELS", "device_of", "open_base", "score", "seen_live", "time_ns"]

BUNDLE = Path(__file__).resolve().parent / "bundles" / "card-fraud-1.0.0"

CHANNELS = (
    ("amount", "ln €"),
    ("hour_sin", "1"),
    ("hour_cos", "1"),
    ("online", "1"),
    ("distance", "ln(1 + km)"),
    ("since_last", "ln s"),
    ("last_day", "ln(1 + payments)"),
    *((name, "1") for name in CATEGORIES),
)
"""Channels of a payment in the model's order, with their units."""

_LONGEST_S = 30 * DAY_S


def seen_live(payments: Payments) -> np.ndarray:
    """Return what is known of each payment when it is made, shape (n, 15), float64.

    It comes from the payment itself and from the card's payments before it; nothing of it
    needs a label or a batch.
    """
    since_s, last_day = _since_last(payments)
    angle = 2 * np.pi * (payments.time_s % DAY_S) / DAY_S
    columns = [
        np.log(payments.amount),
        np.sin(angle),
        np.cos(angle),
        payments.is_online,
        np.log1p(payments.distance_km),
        np.log(since_s),
        np.log1p(last_day),
        *(payments.category == number for number in range(len(CATEGORIES))),
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _since_last(payments: Payments) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds since the card's payment before, and its payments in the last 24 hours."""
    order = np.lexsort((payments.time_s, payments.customer))
    customer, time_s = payments.customer[order], payments.time_s[order]
    gap = np.diff(time_s, prepend=-np.inf)
    gap[np.flatnonzero(np.diff(customer, prepend=-1))] = _LONGEST_S
    # One axis on which no customer's day reaches into another customer's time.
    axis = customer * (4 * time_s.max() + 4 * DAY_S) + time_s
    recent = np.arange(len(axis)) - np.searchsorted(axis, axis - DAY_S)
    since_s, last_day = np.empty(len(axis)), np.empty(len(axis))
    since_s[order], last_day[order] = np.clip(gap, 1.0, _LONGEST_S), recent
    return since_s, last_day


def time_ns(time_s: np.ndarray | float) -> np.ndarray:
    """Return the instants, ns since the Unix epoch, of seconds of the world."""
    return START_NS + np.round(np.asarray(time_s) * 1e9).astype(np.int64)


def device_of(customer: int) -> str:
    """Return the id under which a customer has layers: a customer is a device."""
    return f"c{customer:05d}"


def open_base() -> Pipeline:
    """Open the shipped model without any layer."""
    return open_pipeline(load_bundle(BUNDLE))


def score(pipeline: Pipeline, payments: Payments) -> np.ndarray:
    """Return the model's own probability of fraud for each payment, shape (n,), float64."""
    rows, instants = seen_live(payments), time_ns(payments.time_s)
    index = np.arange(len(rows), dtype=np.int64)
    windows = Windows(index, instants, instants, np.ascontiguousarray(rows[:, None, :]))
    return pipeline.score_windows(windows).score[:, 0]
