"""Models that are asked one after the other, each about the windows the one before left.

Which model answers a window depends on that window's values alone, so that chunks
change nothing. Windows of one block are asked about together, in the batch shapes
that admission proves for each model by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import msgspec
import numpy as np

from edge_runtime.errors import ModelError
from edge_runtime.pipeline.features import Extractor
from edge_runtime.pipeline.fuse import Reals
from edge_runtime.pipeline.scales import Scales, scales_of
from edge_runtime.pipeline.score import BATCH, ModelState, Route, Scorer
from edge_runtime.ports import Session
from edge_runtime.spec import AskNext, ModelSpec, StageSpec

__all__ = ["AnyScorer", "Cascade", "models_of", "scorer_of"]


def scorer_of(
    spec: ModelSpec, session: Session, block: int = BATCH, micro_batch: int | None = None
) -> AnyScorer:
    """Return what scores the windows of a bundle, with a cascade or without.

    Args:
        spec: What the bundle says.
        session: Its models, loaded; of a cascade those of its stages are ``session.stages``.
        block: Windows a model is asked for at once where many are ready; of a cascade 32.
        micro_batch: Fewer windows from which it pays to fill up a block; not of a cascade.
    """
    return Cascade(spec, session) if spec.cascade else Scorer(spec, session, block, micro_batch)


def models_of(spec: ModelSpec, session: Session) -> list[tuple[ModelSpec, Session]]:
    """Return every model of a bundle as a bundle of its own, in the order they are asked.

    Raises:
        ModelError: ``session`` has other stages than ``spec``.
    """
    sessions: Sequence[Session] = getattr(session, "stages", ())
    if len(sessions) != len(spec.cascade):
        raise ModelError(
            f"the session has {len(sessions)} stages",
            where=f"{spec.name}@{spec.version}",
            expected=f"{len(spec.cascade)}, as the bundle declares",
            remedy="Open the bundle with open_session or open_pipeline.",
        )
    stages = zip(spec.cascade, sessions, strict=True)
    alone = msgspec.structs.replace(spec, cascade=())
    return [*((_spec_of(stage, spec), own) for stage, own in stages), (alone, session)]


def _spec_of(stage: StageSpec, spec: ModelSpec) -> ModelSpec:
    return msgspec.structs.replace(
        spec,
        artefacts=stage.artefacts or spec.artefacts,
        labels=stage.labels or spec.labels,
        features=stage.features,
        normalise=stage.normalise,
        output=stage.output,
        state=stage.state,
        limits=(),
        cascade=(),
    )


class Cascade:
    """Windows to scores through several models; stands in for a `Scorer`.

    Its tensor is the samples: what a model needs of them is made for those windows
    alone that it is asked about.

    Args:
        spec: What the bundle says.
        session: Its models; of the main model itself, the stages' are ``session.stages``.

    Attributes:
        session: As given.
        feature_shape: Of one window's features, as the main model takes them.
        has_memory: Whether a model keeps state from window to window.
        is_stateful: Whether an answer depends on the windows before.
        is_told: As of a `Scorer`.
        stage: Which model answered each window last asked about, shape (n,), uint8.
        gains_together: As of a `Scorer`.
        proves_finite: As of a `Scorer`.

    Raises:
        ShapeError: Features or labels of a model do not fit its tensors.
        ModelError: A model has no input or no output, or the stages differ.
    """

    is_told = True
    gains_together = False
    proves_finite = False

    def __init__(self, spec: ModelSpec, session: Session) -> None:
        self._spec = spec
        self.session = session
        models = models_of(spec, session)
        feeds = [False, *(stage.feeds for stage in spec.cascade)]
        ways = [*spec.cascade, None]
        self._models = [
            (_Model(*model, is_fed=is_fed), _WayOut(stage, model[0].labels))
            for model, stage, is_fed in zip(models, ways, feeds, strict=True)
        ]
        self._numbers = [np.full(1, number, np.uint8) for number in range(len(models))]
        scorers = [model.scorer for model, _ in self._models]
        self.feature_shape = scorers[-1].feature_shape
        self.has_memory = any(scorer.has_memory for scorer in scorers)
        self.is_stateful = any(scorer.is_stateful for scorer in scorers)
        self.stage: np.ndarray | None = np.empty(0, np.uint8)
        self.recent: tuple[np.ndarray, ...] = ()
        # Shared with forks: whoever chooses a route chooses it for all.
        self._routes: list[Route] = []
        self._answered = [0] * len(self._models)

    @property
    def answered(self) -> dict[str, int]:
        """Windows by the stage that answered them, since this was made."""
        return dict(zip(self._spec.stages, self._answered, strict=True))

    def interrupt(self) -> bool:
        """Make a call in progress fail; False where no model can be told to."""
        told = [model.scorer.interrupt() for model, _ in self._models]
        return any(told)

    def fork(self) -> Cascade:
        """Return one of the same models with fresh state of its own."""
        twin = Cascade(self._spec, self.session.fork())
        twin._routes = self._routes
        return twin

    def adopt_features(self, other: object) -> bool:
        """Take over nothing: features are computed anew."""
        del other
        return False

    # --- scores -------------------------------------------------------------------

    def features(self, samples: np.ndarray, *, is_fresh: bool = True) -> np.ndarray:
        """Return what the main model would see of windows, whoever answers them."""
        return self._along(samples, is_fresh=is_fresh)

    @cached_property
    def _along(self) -> Extractor:
        # The main model's own one hears other windows: those that it is asked about.
        return self._models[-1][0].scorer.extract.fork()

    def route(self, dtype: np.dtype, scales: Scales | None) -> Route:
        """Find out how windows of ``dtype`` reach each model; layers move the main one's."""
        self._routes[:] = [model.route(dtype) for model, _ in self._models[:-1]]
        self._routes.append(self._models[-1][0].scorer.route(dtype, scales))
        return _AS_THEY_ARE

    def score(self, samples: np.ndarray) -> Reals:
        """Return scores in reported units, shape (n, labels), float64.

        Args:
            samples: Windows, shape (n, length, channels).
        """
        if len(samples) == 1:
            return self._score_one(samples)
        left, every = np.arange(len(samples)), np.empty((len(samples), len(self._spec.labels)))
        self.stage = stage = np.empty(len(samples), np.uint8)
        for number, (model, way_out) in enumerate(self._models):
            scores = model.answers(samples, left, self._routes[number])
            is_left = way_out.leaves(scores)
            here = left[~is_left]
            every[here], stage[here] = way_out.answer(scores[~is_left]), number
            self._answered[number] += len(here)
            left = left[is_left]
        return every

    def _score_one(self, samples: np.ndarray) -> Reals:
        """Do the same for one window, whose cost is that of calls."""
        number, scores = 0, self._answer(0, samples)
        while self._models[number][1].leaves_one(scores):
            number += 1
            scores = self._answer(number, samples)
        for later in range(number + 1, len(self._models)):
            self._models[later][0].pass_over(samples, self._routes[later])
        self.stage = self._numbers[number]
        self._answered[number] += 1
        return self._models[number][1].answer(scores)

    def _answer(self, number: int, samples: np.ndarray) -> Reals:
        return self._models[number][0].answer(samples, self._routes[number])

    # --- state --------------------------------------------------------------------

    def begin(self) -> None:
        """Start with fresh state: the next window follows none."""
        for model, _ in self._models:
            model.begin()

    def note(self, samples: np.ndarray) -> None:
        """Do nothing: each model remembers what it sees itself."""

    def take_over(self, recent: Sequence[np.ndarray]) -> None:
        """Start with fresh state: what the bundle before saw is no window of a stage."""
        del recent
        self.begin()

    def adopt(self, state: ModelState) -> None:
        """Do the same after a restart."""
        del state
        self.begin()

    def state(self) -> ModelState:
        """Return what must be kept to go on later as if nothing had happened."""
        return ModelState(msgspec.msgpack.encode([model.state() for model, _ in self._models]))

    def restore(self, state: ModelState) -> None:
        """Go on from ``state``.

        Raises:
            ModelError: It is not that of these models; all of them are then as they were.
        """
        try:
            found = msgspec.msgpack.decode(state.model or b"", type=list[_StageState])
        except (msgspec.DecodeError, RecursionError) as error:
            raise self._misfit(str(error)) from error
        if len(found) != len(self._models):
            raise self._misfit(f"it has {len(found)} models")
        before = [model.state() for model, _ in self._models]
        try:
            self._restore(found)
        except ModelError:
            self._restore(before)
            raise

    def _restore(self, states: Sequence[_StageState]) -> None:
        for (model, _), state in zip(self._models, states, strict=True):
            model.restore(state)

    def _misfit(self, what: str) -> ModelError:
        return ModelError(
            f"the snapshot's state of the cascade does not fit: {what}",
            expected=f"{len(self._models)} models: {', '.join(self._spec.stages)}",
            remedy="Start without the snapshot; its models start afresh.",
        )

    @property
    def largest_state_bytes(self) -> int:
        """Most bytes that `state` takes."""
        return sum(64 + model.scorer.largest_state_bytes for model, _ in self._models)


AnyScorer = Scorer | Cascade
"""What a pipeline asks about its windows."""

_AS_THEY_ARE = Route(lambda samples: samples, is_direct=True, is_quiet=False)


class _StageState(msgspec.Struct, frozen=True, array_like=True):
    """One model of a cascade: its state, and whether its stretch goes on."""

    state: ModelState
    follows: bool


class _Model:
    """One model of a cascade and where its stretch stands.

    Args:
        spec: The model as a bundle of its own.
        session: Loaded.
        is_fed: Whether it sees windows too that it is not asked about.

    Attributes:
        scorer: Of the model.
        scales: Of its own normaliser; None without one.
    """

    def __init__(self, spec: ModelSpec, session: Session, *, is_fed: bool) -> None:
        self.scorer = Scorer(spec, session)
        shape, normalise = self.scorer.feature_shape, spec.normalise
        self.scales = None if normalise is None else scales_of(normalise, shape, "normalise")
        self._labels = len(spec.labels)
        # To feed a model that remembers nothing would be a waste.
        self._is_fed = is_fed and self.scorer.is_stateful
        self._looks_back = self.scorer.is_stateful or self.scorer.extract.looks_back
        # Whether the next window follows the last one that model and features saw.
        self._follows = self._features_follow = False

    def route(self, dtype: np.dtype) -> Route:
        """Return how windows reach this model under its own normaliser."""
        return self.scorer.route(dtype, self.scales)

    def answers(self, samples: np.ndarray, rows: np.ndarray, route: Route) -> Reals:
        """Return the scores of some rows of a block; all blocks must be shown, in order."""
        count = len(samples)
        if self._is_fed:
            every = self._heard(samples, route, follows=self._follows)
            return every if len(rows) == count else every.take(rows, axis=0)
        if self._looks_back:
            parts = [
                self._heard(samples[run], route, follows=self._follows and run.start == 0)
                for run in _runs(rows)
            ]
            self._follows = bool(len(rows)) and rows.item(-1) == count - 1
            return np.concatenate(parts) if parts else np.empty((0, self._labels))
        if not len(rows):
            return np.empty((0, self._labels))
        return self._seen(samples if len(rows) == count else samples[rows], route)

    def answer(self, samples: np.ndarray, route: Route) -> Reals:
        """Return the scores of one window."""
        if self._looks_back:
            return self._heard(samples, route, follows=self._follows)
        return self._seen(samples, route)

    def pass_over(self, samples: np.ndarray, route: Route) -> None:
        """Take note of a window that this model is not asked about."""
        if self._is_fed:
            self._heard(samples, route, follows=self._follows)
        else:
            self._follows = False

    def _seen(self, samples: np.ndarray, route: Route) -> Reals:
        seen = samples if route.is_direct else self.scorer.features(samples)
        return self.scorer.score(route.feed(seen))

    def _heard(self, samples: np.ndarray, route: Route, *, follows: bool) -> Reals:
        """Return scores of windows that follow each other."""
        scorer, is_fresh = self.scorer, not (follows and self._features_follow)
        if not follows:
            scorer.begin()
        seen = samples if route.is_direct else scorer.features(samples, is_fresh=is_fresh)
        tensor = route.feed(seen)
        if scorer.has_memory:
            scorer.note(tensor)
        self._follows = self._features_follow = True
        return scorer.score(tensor)

    def begin(self) -> None:
        """Let the next window begin a stretch."""
        self._follows = False

    def state(self) -> _StageState:
        """Return what must be kept."""
        return _StageState(self.scorer.state(), self._follows)

    def restore(self, state: _StageState) -> None:
        """Go on from ``state``; features are computed anew."""
        self.scorer.restore(state.state)
        self._follows, self._features_follow = state.follows, False


def _runs(rows: np.ndarray) -> Iterator[slice]:
    """Split rising rows into slices of those that follow each other."""
    bounds = np.flatnonzero(np.diff(rows) != 1) + 1
    for first, last in itertools.pairwise((0, *bounds.tolist(), len(rows))):
        if first < last:
            yield slice(rows.item(first), rows.item(last - 1) + 1)


class _WayOut:
    """Which windows a model leaves to the next one, and what is answered of the others.

    Args:
        stage: None for the bundle's own model, which leaves none.
        labels: Of the model.
    """

    def __init__(self, stage: StageSpec | None, labels: Sequence[str]) -> None:
        rule = AskNext(0.0) if stage is None else stage.ask_next
        self._is_last = stage is None
        self._at_least = -math.inf if rule.at_least is None else rule.at_least
        self._below = rule.below
        self._value = _value_of(rule, labels)
        self._idle = np.array([stage.idle], np.float64) if stage and stage.idle else None

    def leaves(self, scores: Reals) -> np.ndarray:
        """Tell which windows are left to the next stage, shape (n,); NaN is."""
        if self._is_last:
            return np.zeros(len(scores), np.bool_)
        value = self._value(scores)
        is_kept: np.ndarray = value < self._at_least
        if self._below is not None:
            is_kept |= value >= self._below
        is_left: np.ndarray = ~is_kept
        return is_left

    def leaves_one(self, scores: Reals) -> bool:
        """Tell whether one window is."""
        if self._is_last:
            return False
        value = self._value(scores).item()
        return not (value < self._at_least or (self._below is not None and value >= self._below))

    def answer(self, scores: Reals) -> Reals:
        """Return the answers of windows that end here."""
        if self._idle is None:
            return scores
        answers: Reals = self._idle.repeat(len(scores), axis=0)
        return answers


def _largest(scores: Reals) -> Reals:
    largest: Reals = scores.max(axis=1)
    return largest


def _value_of(rule: AskNext, labels: Sequence[str]) -> Callable[[Reals], Reals]:
    if rule.label is None and len(labels) > 1:
        return _largest
    column = 0 if rule.label is None else labels.index(rule.label)

    def value(scores: Reals) -> Reals:
        column_of: Reals = scores[:, column]
        return column_of

    return value
