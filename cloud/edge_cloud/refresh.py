"""How layers are computed from rows and labels: pure functions, float64, no I/O.

At a boundary in event time everything that was known by then, and nothing
else, is used. Candidate sets form a ladder, cheapest first; each is judged by
what it *would* have answered in periods that came after the data it was made
of. A dearer set ships only if it beats every cheaper one there.

::

    none → residual → residual + prior → normaliser + residual + prior
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_cloud.labels import latest_known
from edge_runtime.pipeline.layers import normalise, scales_of
from edge_runtime.spec import (
    Clamps,
    FusionLayer,
    LayerBody,
    ModelSpec,
    NormaliserLayer,
    PriorLayer,
    ResidualLayer,
)

__all__ = [
    "Fit",
    "Memory",
    "Outcome",
    "RefreshConfig",
    "Rung",
    "RungName",
    "Score",
    "Trail",
    "Versions",
    "choose",
    "fit_layers",
    "rungs_of",
    "seen_by_base",
]

RungName = Literal["none", "residual", "prior", "normaliser"]

# A clamp is met exactly up to rounding; layers stay this much inside.
_INSIDE = 1 - 1e-9
# Keeps the intercept's row of the normal equations solvable on constant features.
_INTERCEPT_RIDGE = 1e-9
_FIT_MEMORY = 512

Count = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]


class RefreshConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When and how layers of one model line are computed.

    Attributes:
        line: Model line; every stream that runs it is refreshed.
        every_s: Event time between two refreshes, counted from a stream's first row.
        trailing_rows: Labelled rows that a fit uses at most.
        min_rows: Labelled rows below which nothing is fitted.
        ridge: Penalty on each weight with ``trailing_rows`` rows; grows as rows get fewer.
        row_half_life: Rows after which a row counts half in the ridge; None for equal weights.
        prior_rows: Newest labelled rows that the prior averages.
        prior_weight: Weight of the prior (``w2``).
        prior_half_life_s: Time after which the prior counts half.
        normaliser_blend: How far the normaliser moves to the recent mean and std, 0 to 1.
        judged_periods: Periods of replay that decide between the candidates.
        margin: Share by which a dearer set must beat the cheaper ones.
        lag_periods: Longest label delay that replay allows for, in periods.
        backend: Model runtime for rescoring; None takes the bundle's preference.
    """

    line: str
    every_s: Positive = 86400.0
    trailing_rows: Count = 336
    min_rows: Count = 48
    ridge: NotNegative = 10.0
    row_half_life: Positive | None = None
    prior_rows: Count = 48
    prior_weight: float = 1.0
    prior_half_life_s: Positive = 172800.0
    normaliser_blend: Annotated[float, Meta(ge=0, le=1)] = 0.25
    judged_periods: Count = 7
    margin: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    lag_periods: Count = 10
    backend: str | None = None

    @property
    def every_ns(self) -> int:
        """Event time between two refreshes, ns."""
        return round(self.every_s * 1e9)


class Trail(msgspec.Struct, frozen=True, eq=False):
    """The newest rows of one stream as one base sees them, in order of event time.

    Attributes:
        time_ns: ``end_ns``, shape (n,), int64, increasing.
        features: Shape (n, …), float32, not normalised.
        seen: Normalised by the base, shape (n, f), float64.
        score: Answer of the base alone, shape (n,), float64.
    """

    time_ns: np.ndarray
    features: np.ndarray
    seen: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.time_ns)


class Versions(msgspec.Struct, frozen=True, eq=False):
    """Labels with the instant since when each is known; ordered by both, int64, int64, float64."""

    time_ns: np.ndarray
    known_at_ns: np.ndarray
    value: np.ndarray


Score = Callable[[np.ndarray, NormaliserLayer], np.ndarray]
"""Answer of the base to features (n, …) under another normaliser, shape (n,), float64."""


class Linear(msgspec.Struct, frozen=True, eq=False):
    """A residual layer and the prior on top of it."""

    residual: ResidualLayer
    prior: PriorLayer


class Fit(msgspec.Struct, frozen=True, eq=False):
    """What one boundary's data says.

    Attributes:
        rows: Labelled rows used.
        known_ns: Event time of the newest of them.
        plain: Residual and prior on the base's own normaliser.
        normaliser: The moved normaliser; None where the base has or allows none.
        moved: Residual and prior with the moved normaliser.
    """

    rows: int
    known_ns: int
    plain: Linear
    normaliser: NormaliserLayer | None
    moved: Linear | None


class Rung(msgspec.Struct, frozen=True):
    """One candidate set on replay.

    Attributes:
        name: Which set.
        mae: Mean absolute error over the judged periods; None if none could be judged.
        is_chosen: Whether it ships.
    """

    name: RungName
    mae: float | None
    is_chosen: bool


class Outcome(msgspec.Struct, frozen=True):
    """What a refresh decided, and on what grounds.

    Attributes:
        boundary_ns: Event time it was made for.
        chosen: The set that ships.
        rungs: Every candidate with its replay.
        rows: Labelled rows of the fit; 0 if there were too few.
        judged_periods: Periods of the replay.
        judged_rows: Rows of the replay.
        known_ns: Event time of the newest label used; None without a fit.
        bodies: The layers of the chosen set.
    """

    boundary_ns: int
    chosen: RungName
    rungs: tuple[Rung, ...]
    rows: int
    judged_periods: int
    judged_rows: int
    known_ns: int | None
    bodies: tuple[LayerBody, ...] = ()


class Memory:
    """Fits and replays by their exact inputs: a boundary is worked out once.

    Least recently made ones are dropped beyond a limit.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, object] = {}

    def get(self, key: bytes, make: Callable[[], object]) -> object:
        """Return what was made for ``key``, or make it."""
        if key not in self._kept:
            if len(self._kept) >= _FIT_MEMORY:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = make()
        return self._kept[key]


def rungs_of(spec: ModelSpec, config: RefreshConfig) -> tuple[RungName, ...]:
    """Return the candidate sets that a base's clamps allow, cheapest first.

    Only regressors with one output and the identity link have any beyond ``none``.
    """
    clamps = spec.clamps
    if spec.kind != "regressor" or spec.link != "identity" or len(spec.labels) != 1:
        return ("none",)
    if "residual" not in clamps.kinds:
        return ("none",)
    needs_fusion = config.prior_weight != 1.0
    may_fuse = "fusion" in clamps.kinds and clamps.fusion_weight >= max(
        1.0, abs(config.prior_weight)
    )
    if "prior" not in clamps.kinds or (needs_fusion and not may_fuse):
        return ("none", "residual")
    if "normaliser" not in clamps.kinds or spec.normalise is None:
        return ("none", "residual", "prior")
    return ("none", "residual", "prior", "normaliser")


def choose(
    trail: Trail,
    labels: Versions,
    boundary_ns: int,
    *,
    spec: ModelSpec,
    config: RefreshConfig,
    score: Score,
    memory: Memory | None = None,
) -> Outcome:
    """Fit all candidates at a boundary, replay them out of time, and choose one.

    Args:
        trail: Rows; those at or after ``boundary_ns`` are not looked at.
        labels: Labels; those known after ``boundary_ns`` are not looked at.
        boundary_ns: Event time of the refresh.
        spec: Of the base.
        config: Constants.
        score: The base under another normaliser.
        memory: Kept between calls for one base and stream.
    """
    work = _Work(trail, labels, spec, config, score, memory or Memory())
    names = rungs_of(spec, config)
    fit = work.fit(boundary_ns)
    if fit is None or len(names) == 1:
        return _nothing(boundary_ns, names)
    errors = work.replay(boundary_ns, names)
    if not errors:
        return _nothing(boundary_ns, names, fit)
    count = sum(len(period) for period in errors)
    totals = np.concatenate(errors).sum(axis=0) / count
    chosen = _best(totals, config.margin)
    return Outcome(
        boundary_ns=boundary_ns,
        chosen=names[chosen],
        rungs=tuple(
            Rung(name, float(total), index == chosen)
            for index, (name, total) in enumerate(zip(names, totals, strict=True))
        ),
        rows=fit.rows,
        judged_periods=len(errors),
        judged_rows=count,
        known_ns=fit.known_ns,
        bodies=_bodies(fit, names[chosen], config),
    )


def fit_layers(
    trail: Trail,
    rows: np.ndarray,
    targets: np.ndarray,
    *,
    spec: ModelSpec,
    config: RefreshConfig,
    score: Score,
) -> Fit:
    """Fit residual, prior and normaliser to labelled rows.

    Args:
        trail: Rows.
        rows: Positions of the labelled ones in it, increasing, shape (m,).
        targets: Their labels, shape (m,), float64.
        spec: Of the base.
        config: Constants.
        score: The base under another normaliser.
    """
    seen = trail.seen[rows]
    plain = _linear(seen, trail.score[rows], targets, spec.clamps, config)
    normaliser = moved = None
    if "normaliser" in rungs_of(spec, config):
        normaliser = _normaliser(trail.features[rows], spec, config)
        moved = _linear(seen, score(trail.features[rows], normaliser), targets, spec.clamps, config)
    return Fit(len(rows), int(trail.time_ns[rows[-1]]), plain, normaliser, moved)


class _Work:
    """One refresh: the same fit at any boundary, with what was known then."""

    def __init__(
        self,
        trail: Trail,
        labels: Versions,
        spec: ModelSpec,
        config: RefreshConfig,
        score: Score,
        memory: Memory,
    ) -> None:
        self.trail = trail
        self.labels = labels
        self.spec = spec
        self.config = config
        self.score = score
        self.memory = memory

    def known(self, boundary_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and labels of rows before a boundary whose labels are known by then."""
        labels, trail = self.labels, self.trail
        times, values = latest_known(labels.time_ns, labels.known_at_ns, labels.value, boundary_ns)
        rows = np.searchsorted(trail.time_ns, times)
        is_here = rows < np.searchsorted(trail.time_ns, boundary_ns)
        rows, times, values = rows[is_here], times[is_here], values[is_here]
        is_same = trail.time_ns[rows] == times
        return rows[is_same], values[is_same]

    def fit(self, boundary_ns: int) -> Fit | None:
        """Fit with what was known at a boundary; None with too few labels."""
        rows, targets = self.known(boundary_ns)
        rows, targets = rows[-self.config.trailing_rows :], targets[-self.config.trailing_rows :]
        if len(rows) < self.config.min_rows:
            return None
        fit = self.memory.get(
            self._key(b"fit", rows, targets),
            lambda: fit_layers(
                self.trail,
                rows,
                targets,
                spec=self.spec,
                config=self.config,
                score=self.score,
            ),
        )
        assert isinstance(fit, Fit)  # noqa: S101 - keys of fits begin with their own word
        return fit

    def replay(self, boundary_ns: int, names: tuple[RungName, ...]) -> list[np.ndarray]:
        """Return absolute errors, (rows, rungs), of the newest periods that can be judged."""
        rows, targets = self.known(boundary_ns)
        label_of = dict(zip(rows.tolist(), targets.tolist(), strict=True))
        errors: list[np.ndarray] = []
        for start_ns in self._periods(boundary_ns):
            period = self._rows_of(start_ns)
            is_known = len(period) and all(row in label_of for row in period.tolist())
            fit = self.fit(start_ns) if is_known else None
            if fit is not None:
                wanted = np.array([label_of[row] for row in period.tolist()])
                errors.append(self._errors(fit, period, wanted, names))
            if len(errors) == self.config.judged_periods:
                break
        return errors

    def _periods(self, boundary_ns: int) -> Iterator[int]:
        """Yield starts of the periods before a boundary, newest first."""
        every_ns = self.config.every_ns
        for back in range(1, self.config.judged_periods + 2 * self.config.lag_periods):
            yield boundary_ns - back * every_ns

    def _rows_of(self, start_ns: int) -> np.ndarray:
        first, last = np.searchsorted(
            self.trail.time_ns, [start_ns, start_ns + self.config.every_ns]
        )
        return np.arange(first, last)

    def _errors(
        self, fit: Fit, period: np.ndarray, wanted: np.ndarray, names: tuple[RungName, ...]
    ) -> np.ndarray:
        def make() -> object:
            answers = [self._answer(fit, name, period) for name in names]
            return np.abs(np.stack(answers, axis=1) - wanted[:, None])

        made = f"errors {fit.known_ns} {fit.rows} {fit.plain.residual.intercept!r}"
        errors = self.memory.get(self._key(made.encode(), period, wanted), make)
        assert isinstance(errors, np.ndarray)  # noqa: S101 - as above
        return errors

    def _answer(self, fit: Fit, name: RungName, rows: np.ndarray) -> np.ndarray:
        """Return what a set would have answered, as the pipeline computes it."""
        trail, clamps = self.trail, self.spec.clamps
        answer: np.ndarray = trail.score[rows]
        if name == "none":
            return answer
        linear = fit.plain
        if name == "normaliser" and fit.normaliser is not None and fit.moved is not None:
            answer, linear = self.score(trail.features[rows], fit.normaliser), fit.moved
        answer = answer + _contribution(trail.seen[rows], linear.residual, clamps)
        if name == "residual":
            return answer
        age_s = (trail.time_ns[rows] - fit.known_ns) / 1e9
        answer += _faded_prior(linear.prior, age_s, clamps, self.config)
        return answer

    def _key(self, kind: bytes, rows: np.ndarray, values: np.ndarray) -> bytes:
        parts = (
            self.trail.time_ns[rows].tobytes(),
            self.trail.features[rows].tobytes(),
            np.ascontiguousarray(values).tobytes(),
        )
        return hashlib.blake2b(kind + b"".join(parts), digest_size=16).digest()


def _nothing(boundary_ns: int, names: tuple[RungName, ...], fit: Fit | None = None) -> Outcome:
    return Outcome(
        boundary_ns=boundary_ns,
        chosen="none",
        rungs=tuple(Rung(name, None, name == "none") for name in names),
        rows=0 if fit is None else fit.rows,
        judged_periods=0,
        judged_rows=0,
        known_ns=None if fit is None else fit.known_ns,
    )


def _best(totals: np.ndarray, margin: float) -> int:
    best = 0
    for index in range(1, len(totals)):
        if totals[index] < totals[best] * (1 - margin):
            best = index
    return best


def _bodies(fit: Fit, name: RungName, config: RefreshConfig) -> tuple[LayerBody, ...]:
    """Return a set's layers in the order in which the pipeline applies them."""
    if name == "none":
        return ()
    if name == "residual":
        return (fit.plain.residual,)
    fusion = () if config.prior_weight == 1.0 else (FusionLayer(0.0, 1.0, config.prior_weight),)
    if name == "normaliser" and fit.normaliser is not None and fit.moved is not None:
        return (fit.normaliser, fit.moved.residual, *fusion, fit.moved.prior)
    return (fit.plain.residual, *fusion, fit.plain.prior)


# --- the fits -----------------------------------------------------------------------


def _linear(
    seen: np.ndarray, score: np.ndarray, targets: np.ndarray, clamps: Clamps, config: RefreshConfig
) -> Linear:
    residual = _ridge(seen, targets - score, clamps, config)
    newest = slice(max(0, len(targets) - config.prior_rows), None)
    answer = score[newest] + _contribution(seen[newest], residual, clamps)
    prior = PriorLayer(value=(float(targets[newest].mean()),), base=(float(answer.mean()),))
    return Linear(residual, prior)


def _ridge(
    seen: np.ndarray, residuals: np.ndarray, clamps: Clamps, config: RefreshConfig
) -> ResidualLayer:
    """Least squares with a penalty on the weights but not on the intercept.

    Source: Hoerl and Kennard 1970.
    """
    n, f = seen.shape
    design = np.concatenate([seen, np.ones((n, 1))], axis=1)
    weighted = design * _row_weights(n, config)[:, None]
    gram = weighted.T @ design
    # The fewer rows there are, the less they may say.
    gram[np.arange(f), np.arange(f)] += config.ridge * config.trailing_rows / n
    gram[f, f] += _INTERCEPT_RIDGE
    solution = np.linalg.solve(gram, weighted.T @ residuals)
    largest = clamps.residual_weight
    solution = np.clip(np.nan_to_num(solution), -largest, largest)
    return ResidualLayer(float(solution[f]), tuple(map(float, solution[:f])))


def _row_weights(n: int, config: RefreshConfig) -> np.ndarray:
    if config.row_half_life is None:
        return np.ones(n)
    weights: np.ndarray = np.exp2(np.arange(1 - n, 1) / config.row_half_life)
    return weights


def _contribution(seen: np.ndarray, residual: ResidualLayer, clamps: Clamps) -> np.ndarray:
    total = (seen * np.array(residual.weights)).sum(axis=1) + residual.intercept
    cut: np.ndarray = np.clip(total, -clamps.residual, clamps.residual)
    return cut


def _faded_prior(
    prior: PriorLayer, age_s: np.ndarray, clamps: Clamps, config: RefreshConfig
) -> np.ndarray:
    term = config.prior_weight * (prior.value[0] - prior.base[0])
    term = min(max(term, -clamps.prior), clamps.prior)
    faded: np.ndarray = term * np.exp2(age_s / -config.prior_half_life_s)
    return faded


def _normaliser(features: np.ndarray, spec: ModelSpec, config: RefreshConfig) -> NormaliserLayer:
    """Move the base's mean and std a part of the way to the recent ones, within the clamps."""
    assert spec.normalise is not None  # noqa: S101 - `rungs_of` asks for it
    mean, std = np.array(spec.normalise.mean), np.array(spec.normalise.std)
    # The numbers are per feature element, or per last axis.
    values = features.reshape(-1, len(mean)).astype(np.float64)
    blend, shift = config.normaliser_blend, spec.clamps.normaliser_shift * _INSIDE
    ratio = 1 + (spec.clamps.normaliser_ratio - 1) * _INSIDE
    moved = mean + np.clip(blend * (values.mean(axis=0) - mean), -shift * std, shift * std)
    stretch = np.clip(1 - blend + blend * values.std(axis=0) / std, 1 / ratio, ratio)
    return NormaliserLayer(tuple(map(float, moved)), tuple(map(float, std * stretch)))


def seen_by_base(features: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Return features as a residual layer sees them: base-normalised, (n, f), float64."""
    scales = None
    if spec.normalise is not None:
        scales = scales_of(spec.normalise, features.shape[1:], "normalise")
    seen: np.ndarray = normalise(features, scales).reshape(len(features), -1).astype(np.float64)
    return seen
