"""Which operating point misses fewest events within a budget of false alarms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np

from edge_runtime.errors import ConfigError
from edge_runtime.intervals import highest_rate
from edge_runtime.pipeline.smooth import smoother_of
from edge_runtime.spec import Limit, ModelSpec, Reject, Smoothing
from edge_runtime.thresholds.calibrate import reject_band
from edge_runtime.thresholds.outcome import Outcome, Track, outcome_of, track_of
from edge_runtime.thresholds.recordings import Recording

__all__ = ["Choices", "Found", "OnStep", "Point", "Target", "Verdict", "search"]

_MOST_THRESHOLDS = 64
_MOST_PEAKS = 48

Verdict = Literal["proven", "inconclusive", "failed"]
"""``proven``: the budget is kept, at the confidence asked for, and events are found.
``inconclusive``: too little time was recorded to tell. ``failed``: no point within
the budget finds a single event."""

OnStep = Callable[[str, float], None]
"""Told what is being tried, and the share of all that lies behind."""


class Choices(msgspec.Struct, frozen=True):
    """What is tried; each further way to decide makes the proof a little harder.

    Attributes:
        smoothings: Of all labels together.
        k_of_n: Of each label.
        refractories_s: Of each label.
        gaps: How far ``off`` lies below ``on``; None keeps each label's own.
        reject_error: Error rate of the reject band; None leaves bands as they are.
    """

    smoothings: tuple[Smoothing, ...]
    k_of_n: tuple[tuple[int, int], ...] = ()
    refractories_s: tuple[float, ...] = ()
    gaps: tuple[float, ...] = ()
    reject_error: float | None = None


class Target(msgspec.Struct, frozen=True):
    """What an operating point must keep.

    Attributes:
        alarms_per_hour: Most false alarms of a label in an hour without its events.
        tolerance_s: How long after an event a start still counts for it.
        confidence: Of the proof that the true rate is no higher.
    """

    alarms_per_hour: float
    tolerance_s: float
    confidence: float = 0.95


class Point(msgspec.Struct, frozen=True):
    """One limit and what it makes of the recordings.

    Attributes:
        limit: The limit.
        outcome: What it makes of them.
        alarms_per_hour: False alarms an hour, as counted.
        highest_per_hour: What the true rate exceeds with the target's risk at most; None
            where more than the budget was counted already.
    """

    limit: Limit
    outcome: Outcome
    alarms_per_hour: float
    highest_per_hour: float | None


class Found(msgspec.Struct, frozen=True):
    """The operating point of one label.

    Attributes:
        label: Which one.
        verdict: Whether it keeps the target.
        point: The chosen one; None where nothing fits.
        curve: The trade-off around it, strictest first: other thresholds, all else alike.
        events: Events in all recordings.
        quiet_hours: Hours without one.
        hours_needed: Hours without an event in which a budget kept without any false
            alarm would be proven.
        tried: Ways to decide that were tried, thresholds apart.
    """

    label: str
    verdict: Verdict
    point: Point | None
    curve: tuple[Point, ...]
    events: int
    quiet_hours: float
    hours_needed: float
    tried: int


def search(
    spec: ModelSpec,
    recordings: Sequence[Recording],
    labels: Sequence[str],
    target: Target,
    choices: Choices,
    on_step: OnStep | None = None,
) -> tuple[Smoothing, tuple[Found, ...]]:
    """Return the smoothing for all labels, and the operating point of each.

    Each way to decide is a family of thresholds. A family is walked from its
    strictest threshold on while the budget is proven to be kept, and stops at the
    first that is not: so many looks at the data cost nothing (fixed sequence
    testing). Families share the risk equally (Bonferroni). Source: Angelopoulos et al.
    2021, "Learn then test".

    Args:
        spec: The base's.
        recordings: Scored and labelled.
        labels: Which to search; each has events.
        target: What must be kept.
        choices: What is tried.
        on_step: Told before every family.

    Raises:
        ConfigError: There is too little for the reject band, or no window at all.
    """
    one = _Search(spec, recordings, target, choices, on_step)
    tried = [(smoothing, one.found(smoothing, labels)) for smoothing in choices.smoothings]
    return min(tried, key=lambda each: _rank_of_all(each[1]))


class _Search:
    """What stays the same while labels and smoothings are gone through."""

    def __init__(
        self,
        spec: ModelSpec,
        recordings: Sequence[Recording],
        target: Target,
        choices: Choices,
        on_step: OnStep | None,
    ) -> None:
        self._spec = spec
        self._recordings = recordings
        self._target = target
        self._choices = choices
        self._on_step = on_step
        self._done = 0

    def found(self, smoothing: Smoothing, labels: Sequence[str]) -> tuple[Found, ...]:
        """Return the operating point of each label under one smoothing."""
        ways = [_families(_limit_of(self._spec, label), self._choices) for label in labels]
        total = len(self._choices.smoothings) * sum(map(len, ways))
        return tuple(self._found(smoothing, families, total) for families in ways)

    def _found(self, smoothing: Smoothing, families: Sequence[Limit], total: int) -> Found:
        label, budget = families[0].label, self._target.alarms_per_hour
        tracks = [self._track(one, smoothing, label) for one in self._recordings]
        thresholds = _thresholds(tracks)
        hours = sum(track.quiet_hours for track in tracks)
        if hours == 0.0:
            raise _no_quiet_time(label)
        if self._choices.reject_error is not None:
            band = _band(tracks, self._choices.reject_error)
            families = [msgspec.structs.replace(one, reject=band) for one in families]
        count = len(families) * len(self._choices.smoothings)
        risk = (1.0 - self._target.confidence) / count
        curves = []
        for family in families:
            self._tell(label, total)
            allowed = _allowed(thresholds, family.reject)
            points = (_point(family, on, tracks, hours) for on in allowed)
            curves.append(tuple(_bounded(point, hours, risk, budget) for point in points))
        verdict, point, curve = _chosen(curves, budget)
        events = sum(len(track.start_ns) for track in tracks)
        needed = -math.log(risk) / budget
        return Found(label, verdict, point, curve, events, hours, needed, count)

    def _track(self, one: Recording, smoothing: Smoothing, label: str) -> Track:
        column = self._spec.labels.index(label)
        values, first = one.score[:, column : column + 1], 0
        smoother = smoother_of(smoothing, 1)
        if smoother is not None:
            values, first = smoother.smooth(values, one.end_ns)
        return track_of(
            np.ascontiguousarray(values[:, 0]),
            one.end_ns[first:],
            [event for event in one.events if event.label == label],
            tolerance_s=self._target.tolerance_s,
            window_s=one.window_s,
        )

    def _tell(self, label: str, total: int) -> None:
        if self._on_step is not None:
            self._on_step(label, self._done / total)
        self._done += 1


def _limit_of(spec: ModelSpec, label: str) -> Limit:
    """Return the label's limit, or one to start from."""
    return next((one for one in spec.limits if one.label == label), Limit(label, 0.0, 0.0))


def _families(limit: Limit, choices: Choices) -> list[Limit]:
    """Return a limit for each way to decide: ``on`` is 0, ``off`` as far below as it will be."""
    return [
        msgspec.structs.replace(limit, on=0.0, off=-gap, k_of_n=k_of_n, refractory_s=refractory_s)
        for gap, k_of_n, refractory_s in itertools.product(
            choices.gaps or (limit.on - limit.off,),
            choices.k_of_n or (limit.k_of_n,),
            choices.refractories_s or (limit.refractory_s,),
        )
    ]


def _point(family: Limit, on: float, tracks: Sequence[Track], hours: float) -> Point:
    # Rounded, because 0.9 - 0.2 is 0.7000000000000001.
    limit = msgspec.structs.replace(family, on=on, off=min(on, float(f"{on + family.off:.12g}")))
    outcome = outcome_of(limit, tracks)
    return Point(limit, outcome, outcome.false_alarms / hours, None)


def _bounded(point: Point, hours: float, risk: float, budget: float) -> Point:
    """Say how high the true rate may be; a rate that was counted above the budget says it all."""
    if point.alarms_per_hour > budget:
        return point
    highest = highest_rate(point.outcome.false_alarms, hours, risk)
    return msgspec.structs.replace(point, highest_per_hour=highest)


def _chosen(
    curves: Sequence[tuple[Point, ...]], budget: float
) -> tuple[Verdict, Point | None, tuple[Point, ...]]:
    """Return the best proven point, or else the best that kept the budget as counted."""
    proven = [
        (point, curve)
        for curve in curves
        for point in itertools.takewhile(lambda one: _is_proven(one, budget), curve)
    ]
    counted = [
        (point, curve)
        for curve in curves
        for point in itertools.takewhile(lambda one: one.alarms_per_hour <= budget, curve)
    ]
    kept = proven or counted
    if not kept:
        return "failed", None, curves[0]
    point, curve = _in_the_middle(kept)
    if not proven:
        return "inconclusive", point, curve
    return "proven" if point.outcome.found else "failed", point, curve


def _is_proven(point: Point, budget: float) -> bool:
    return point.highest_per_hour is not None and point.highest_per_hour <= budget


def _in_the_middle(
    kept: Sequence[tuple[Point, tuple[Point, ...]]],
) -> tuple[Point, tuple[Point, ...]]:
    """Return the best point; of several as good ones that with most room on both sides.

    The recordings cannot tell them apart, and what comes next is a little different.
    """
    best = min(_rank(point) for point, _ in kept)
    equal = [one for one in kept if _rank(one[0]) == best]

    def width(curve: tuple[Point, ...]) -> float:
        thresholds = [point.limit.on for point, its in equal if its is curve]
        return max(thresholds) - min(thresholds)

    widest = max((curve for _, curve in equal), key=width)
    points = [point for point, curve in equal if curve is widest]
    middle = (points[0].limit.on + points[-1].limit.on) / 2
    return min(points, key=lambda point: abs(point.limit.on - middle)), widest


def _rank(point: Point) -> tuple[int, int, int]:
    outcome = point.outcome
    return outcome.missed, outcome.false_alarms, outcome.repeats


def _rank_of_all(found: Sequence[Found]) -> tuple[float, ...]:
    """Fewer labels without a proof first, then fewer missed events, then fewer alarms."""
    points = [one.point for one in found if one.point is not None]
    return (
        sum(one.verdict != "proven" for one in found),
        sum(point.outcome.missed for point in points),
        sum(point.outcome.false_alarms for point in points),
        sum(point.outcome.repeats for point in points),
    )


# --- what is tried ----------------------------------------------------------------


def _thresholds(tracks: Sequence[Track]) -> list[float]:
    """Return where ``on`` may lie, strictest first: close together where alarms are rare.

    Each lies between two values that occurred, so that rounding on another machine
    does not move a value across it.
    """
    values = np.unique(np.concatenate([track.values for track in tracks]))
    values = values[np.isfinite(values)]
    if not len(values):
        raise ConfigError(
            "the recordings give no smoothed value at all",
            expected="more rows than a window and its smoothing need",
            remedy="Check the recordings: edge-runtime batch tells what was discarded.",
        )
    ranks = np.unique(np.geomspace(1, len(values), _MOST_THRESHOLDS).astype(np.int64)) - 1
    peaks = np.searchsorted(values, _event_peaks(tracks))
    peaks = len(values) - 1 - peaks
    spread = np.linspace(0, max(0, len(peaks) - 1), _MOST_PEAKS).astype(np.int64)
    chosen = np.union1d(ranks, np.sort(peaks)[np.unique(spread)]) if len(peaks) else ranks
    places = len(values) - 1 - chosen
    lower = values[np.maximum(places - 1, 0)].tolist()
    upper = values[places].tolist()
    return [_between(low, high) for low, high in zip(lower, upper, strict=True)]


def _allowed(thresholds: Sequence[float], reject: Reject | None) -> list[float]:
    """Leave out what lies below a reject band, where the answer is a sure no."""
    return [on for on in thresholds if reject is None or on >= reject.low] or [thresholds[0]]


def _between(low: float, high: float) -> float:
    """Return the shortest number above ``low`` and up to ``high``."""
    middle = (low + high) / 2.0
    for digits in range(2, 17):
        short = float(f"{middle:.{digits}g}")
        if low < short <= high:
            return short
    return high


def _event_peaks(tracks: Sequence[Track]) -> np.ndarray:
    """Return the highest value of each event that any window belongs to."""
    peaks = []
    for track in tracks:
        rows = np.flatnonzero((track.belongs >= 0) & np.isfinite(track.values))
        if len(rows):
            firsts = np.flatnonzero(np.diff(track.belongs[rows], prepend=-1))
            peaks.append(np.maximum.reduceat(track.values[rows], firsts))
    return np.sort(np.concatenate(peaks)) if peaks else np.empty(0)


def _band(tracks: Sequence[Track], error_rate: float) -> Reject | None:
    """Calibrate on peaks of events, and of as long stretches without one."""
    present = _event_peaks(tracks)
    lengths = [
        length
        for track in tracks
        for length in np.unique(track.belongs[track.belongs >= 0], return_counts=True)[1].tolist()
    ]
    length = max(1, int(np.median(lengths))) if lengths else 1
    absent = [peak for track in tracks for peak in _quiet_peaks(track, length)]
    return reject_band(present, np.array(absent), error_rate)


def _quiet_peaks(track: Track, length: int) -> list[float]:
    quiet = track.values[(track.belongs < 0) & np.isfinite(track.values)]
    whole = len(quiet) // length * length
    return quiet[:whole].reshape(-1, length).max(axis=1).tolist() if whole else []


def _no_quiet_time(label: str) -> ConfigError:
    return ConfigError(
        f"every window belongs to an event of {label!r}",
        expected="time without one, in which false alarms can be counted",
        remedy="Add recordings in which it does not happen.",
    )
