"""A pipeline that remembers what each of its stages made of every window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from edge_runtime.pipeline.cascade import AnyScorer, Cascade
from edge_runtime.pipeline.decide import Decider, DeciderState
from edge_runtime.pipeline.fuse import Reals
from edge_runtime.pipeline.layers import Active
from edge_runtime.pipeline.pipeline import Pipeline, Question, rows_of_windows
from edge_runtime.pipeline.scales import Scales, normalise
from edge_runtime.pipeline.score import Route
from edge_runtime.ports import Session
from edge_runtime.spec import MAIN, Layer, LayerKind, Limit, ModelSpec
from edge_runtime.types import Decision, Output, StateKind, TensorSpec, Windows

__all__ = ["Asked", "Trace", "TracedPipeline"]


class Asked(msgspec.Struct, frozen=True, eq=False):
    """What one model was asked about a window, and what it said.

    Attributes:
        name: Of the stage; ``model`` for the bundle's own.
        features: Any shape; None where the model takes the samples.
        normalised: Features or samples on the model's scale; None without a normaliser.
        tensor: What the model was asked, in its own dtype.
        answer: What it said, in its own dtype.
        score: After activation and calibration, a number for each of its labels.
        source: Its input tensor.
        target: Its output tensor.
    """

    name: str
    features: np.ndarray | None
    normalised: np.ndarray | None
    tensor: np.ndarray
    answer: np.ndarray
    score: Reals
    source: TensorSpec
    target: TensorSpec


class Trace(msgspec.Struct, frozen=True, eq=False):
    """One window, stage by stage.

    Attributes:
        index: Stream index of its last sample.
        start_ns: Time of the first sample.
        end_ns: Time of the last sample.
        quality: What is suspect about its samples, bits of `Quality`.
        samples: Shape (length, channels), after the stream's filters.
        asked: The models that were asked, in order; the last one answered.
        score: The answer, a number for each label of the bundle.
        layers: Score after each layer, in the order of application.
        value: After all of them.
        smoothed: What was compared with the limits; None while there are too few values.
        limits: What it was compared with.
        before: What smoothing and limits remembered of the windows before.
        decisions: What came of it.
        effective_id: Of base and layers.
    """

    index: int
    start_ns: int
    end_ns: int
    quality: int
    samples: np.ndarray
    asked: tuple[Asked, ...]
    score: Reals
    layers: list[tuple[LayerKind, Reals]]
    value: Reals
    smoothed: Reals | None
    limits: tuple[Limit, ...]
    before: DeciderState
    decisions: tuple[Decision, ...]
    effective_id: str


class TracedPipeline(Pipeline):
    """The same pipeline, with its own eyes open: answers are the same bytes.

    It is the one place that derives from `Pipeline`: whatever was computed a second
    time, beside it, would be an explanation of something else.

    Args:
        spec: As of a `Pipeline`.
        session: As of a `Pipeline`.
        base: As of a `Pipeline`.
        layers: As of a `Pipeline`.
        stream: As of a `Pipeline`.
        micro_batch: As of a `Pipeline`.

    Attributes:
        traces: Of all windows; whoever reads them takes them out.

    Raises:
        ModelError: As a `Pipeline`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        session: Session,
        *,
        base: str,
        layers: Sequence[Layer] = (),
        stream: str = "main",
        micro_batch: int | None = None,
    ) -> None:
        self._heard = _Heard(session)
        self.traces: list[Trace] = []
        super().__init__(
            spec, self._heard, base=base, layers=layers, stream=stream, micro_batch=micro_batch
        )
        if spec.cascade:
            self.scorer = _WatchedCascade(spec, self._heard)
        self._decider = self._watched = _Watched(spec, stream)

    def _asked(self, windows: Windows, active: Active, scorer: AnyScorer) -> Question:
        question = super()._asked(windows, active, scorer)
        # What the model said before warmed it up.
        self._heard.take()
        return question

    def _told(self, question: Question, score: Reals) -> Output:
        stages = self.scorer.stage
        asked = self._who_was_asked(question, score)
        outputs = []
        for row, of_row in enumerate(asked):
            if stages is not None:
                self.scorer.stage = stages[row : row + 1]
            outputs.append(self._told_one(_row(question, row), score[row : row + 1], of_row))
        return self._merged(outputs)

    def _who_was_asked(self, question: Question, score: Reals) -> list[tuple[Asked, ...]]:
        """Return the models each window was shown."""
        if isinstance(self.scorer, _WatchedCascade):
            return self.scorer.take()
        answers = self._heard.take()
        return [
            (self._only_model(_row(question, row), score[row], answers[row]),)
            for row in range(len(score))
        ]

    def _only_model(self, question: Question, score: Reals, answer: np.ndarray) -> Asked:
        features, scales = question.features, question.active.scales
        seen = question.windows.samples if features is None else features
        return Asked(
            name=MAIN,
            features=None if features is None else features[0].copy(),
            normalised=_normalised(seen, scales),
            tensor=question.tensor[0].copy(),
            answer=answer,
            score=score,
            source=self._heard.inputs[0],
            target=self._heard.outputs[0],
        )

    def _told_one(self, question: Question, score: Reals, asked: tuple[Asked, ...]) -> Output:
        before = self._decider.state()
        output = super()._told(question, score)
        windows, active, estimates = question.windows, question.active, output.estimates
        layers = self._layers.trace(score, active, question.features, windows.end_ns)
        smoothed = self._watched.smoothed
        trace = Trace(
            index=windows.index.item(0),
            start_ns=windows.start_ns.item(0),
            end_ns=windows.end_ns.item(0),
            quality=0 if windows.quality is None else windows.quality.item(0),
            samples=windows.samples[0].copy(),
            asked=asked,
            score=score[0],
            layers=[(kind, values[0]) for kind, values in layers],
            value=estimates.value[0],
            smoothed=smoothed[0] if len(smoothed) else None,
            limits=active.limits,
            before=before,
            decisions=output.decisions,
            effective_id=self.effective_id,
        )
        self.traces.append(trace)
        return output


def _row(question: Question, row: int) -> Question:
    """Return one window of a question."""
    rows, features = slice(row, row + 1), question.features
    return msgspec.structs.replace(
        question,
        windows=rows_of_windows(question.windows, rows),
        tensor=question.tensor[rows],
        features=None if features is None else features[rows],
    )


def _normalised(seen: np.ndarray, scales: Scales | None) -> np.ndarray | None:
    if scales is None:
        return None
    normalised: np.ndarray = normalise(seen.astype(np.float32), scales)[0]
    return normalised


class _Watched(Decider):
    """A decider that keeps what it compared with the limits last.

    Attributes:
        smoothed: Of the windows last decided, shape (n, labels); fewer rows while there
            are too few values.
    """

    smoothed: np.ndarray

    def decide(
        self,
        values: np.ndarray,
        index: np.ndarray,
        end_ns: np.ndarray,
        limits: tuple[Limit, ...],
        effective_id: str,
    ) -> tuple[Decision, ...]:
        """Take the next windows' values, see `Decider.decide`."""
        self.smoothed = values
        return super().decide(values, index, end_ns, limits, effective_id)

    def smooth(self, values: np.ndarray, end_ns: np.ndarray) -> tuple[np.ndarray, int]:
        """Smooth the next windows' values, see `Decider.smooth`."""
        self.smoothed, first = super().smooth(values, end_ns)
        return self.smoothed, first


class _Shown(msgspec.Struct):
    """What the route to one model was given last, and the tensor it made of that."""

    route: Route
    scales: Scales | None
    seen: np.ndarray
    tensor: np.ndarray

    def feed(self, seen: np.ndarray) -> np.ndarray:
        self.seen, self.tensor = seen, self.route.feed(seen)
        return self.tensor


class _WatchedCascade(Cascade):
    """A cascade that keeps, window by window, what each of its models was asked and said."""

    def __init__(self, spec: ModelSpec, session: _Heard) -> None:
        super().__init__(spec, session)
        self._names = spec.stages
        self._sessions = [*session.stages, session]
        self._shown: list[_Shown] = []
        self._who: list[list[Asked]] = []

    def take(self) -> list[tuple[Asked, ...]]:
        """Return the models each window was shown, and forget them."""
        who, self._who = self._who, []
        return [tuple(one) for one in who]

    def route(self, dtype: np.dtype, scales: Scales | None) -> Route:
        """Find out how windows reach each model, and watch them on their way."""
        way = super().route(dtype, scales)
        of_stages = [model.scales for model, _ in self._models[:-1]]
        nothing = np.empty(0)
        self._shown = [
            _Shown(route, own, nothing, nothing)
            for route, own in zip(self._routes, [*of_stages, scales], strict=True)
        ]
        self._routes[:] = [one.route._replace(feed=one.feed) for one in self._shown]
        return way

    def score(self, samples: np.ndarray) -> Reals:
        """Return scores, see `Cascade.score`: of one window after the other."""
        told = [(self._score_one(one), self.stage) for one in _one_by_one(samples)]
        self.stage = np.concatenate([stage for _, stage in told if stage is not None])
        return np.concatenate([scores for scores, _ in told])

    def _score_one(self, samples: np.ndarray) -> Reals:
        self._who.append([])
        return super()._score_one(samples)

    def _answer(self, number: int, samples: np.ndarray) -> Reals:
        heard = self._sessions[number]
        # What it said before was warm-up, or about windows that others answered.
        heard.take()
        scores = super()._answer(number, samples)
        shown = self._shown[number]
        self._who[-1].append(
            Asked(
                name=self._names[number],
                features=None if shown.route.is_direct else shown.seen[0].copy(),
                normalised=_normalised(shown.seen, shown.scales),
                tensor=shown.tensor[0].copy(),
                answer=heard.take()[-1],
                score=scores[0].copy(),
                source=heard.inputs[0],
                target=heard.outputs[0],
            )
        )
        return scores


def _one_by_one(samples: np.ndarray) -> Iterator[np.ndarray]:
    return (samples[row : row + 1] for row in range(len(samples)))


class _Heard:
    """A session that keeps what the model said."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._answers: list[np.ndarray] = []
        self.inputs, self.outputs = session.inputs, session.outputs
        self.state_kind: StateKind = session.state_kind
        self.stages: tuple[_Heard, ...] = tuple(map(_Heard, getattr(session, "stages", ())))

    def take(self) -> np.ndarray:
        """Return what it said, a row for each window it was shown, and forget it."""
        answers, self._answers = self._answers, []
        return np.concatenate(answers) if answers else np.empty(0)

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Answer a batch, see `Session.run`."""
        answer = self._session.run(batch)
        self._answers.append(answer.copy())
        return answer

    def reset(self) -> None:
        """Forget state kept between calls."""
        self._session.reset()

    def fork(self) -> _Heard:
        """Return a session with state of its own."""
        return _Heard(self._session.fork())

    def state(self) -> bytes | None:
        """Return the state kept between calls."""
        return self._session.state()

    def restore(self, state: bytes) -> None:
        """Go on from `state`'s bytes."""
        self._session.restore(state)

    def close(self) -> None:
        """Free the model."""
        self._session.close()
