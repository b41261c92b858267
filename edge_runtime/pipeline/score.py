"""From window samples to scores: features, tensors, session, calibration."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from edge_runtime.errors import ModelError, ShapeError
from edge_runtime.pipeline.answer import reader_of
from edge_runtime.pipeline.features import Extractor
from edge_runtime.pipeline.feed import Feed, feed_features, feed_samples
from edge_runtime.pipeline.fuse import Reals
from edge_runtime.pipeline.scales import Scales
from edge_runtime.ports import Session
from edge_runtime.spec import ModelSpec, Raw
from edge_runtime.types import TensorSpec

__all__ = ["BATCH", "ModelState", "Route", "Scorer"]

BATCH = 32
"""A session is asked for this many windows at once, or for one, unless told otherwise.

Two shapes are few enough for admission to prove that they answer alike.
"""

_LARGEST_BATCHED_INPUT = 4096


class Route(NamedTuple):
    """How windows of one dtype reach the input tensor under one normalisation.

    Attributes:
        feed: Makes the tensor.
        is_direct: Whether it takes the samples themselves; else their features.
        is_quiet: Whether nothing can overflow, here and where the answer is read.
    """

    feed: Feed
    is_direct: bool
    is_quiet: bool


class ModelState(msgspec.Struct, frozen=True):
    """What brings another session of a model to the same state.

    Attributes:
        model: State that can be read; None where it cannot.
        recent: The last tensors the model saw, where it cannot.
    """

    model: bytes | None = b""
    recent: tuple[bytes, ...] = ()


class Scorer:
    """Windows to scores; used by one thread.

    What model and features keep from window to window is the only state here.

    Args:
        spec: What the model needs.
        session: The loaded model.
        block: Windows it is asked for at once where so many are ready.
        micro_batch: Fewer windows from which it pays to fill up a block of 32.

    Attributes:
        session: As given.
        extract: Computes the features.
        hears: What they depend on besides the stream itself.
        feature_shape: Of one window's features.
        has_memory: Whether the model keeps state from window to window.
        is_stateful: Whether an answer depends on the windows before, by model or features.
        is_told: Whether it must be told where a stretch begins, and what it is asked.
        stage: Which model of a cascade answered each window last asked about; None here.
        gains_together: Whether windows of several streams are cheaper asked about at once.

    Raises:
        ShapeError: Features do not fit the input tensor, or outputs the labels.
        ModelError: The model has no input or no output.
    """

    def __init__(
        self,
        spec: ModelSpec,
        session: Session,
        block: int = BATCH,
        micro_batch: int | None = None,
    ) -> None:
        self._spec = spec
        self.hears = spec.features, spec.window, spec.stream
        self._sizes = (block, micro_batch)
        self.session = session
        self._input, self._output = _tensors(session)
        window = (spec.window.length, len(spec.stream.channels))
        self.extract = Extractor(
            spec.features, window, rate_hz=spec.stream.rate_hz, hop=spec.window.hop
        )
        self.feature_shape = self.extract.shape
        self.has_memory = session.state_kind != "stateless"
        self.is_stateful = self.has_memory or self.extract.is_stateful
        self.is_told = self.has_memory
        self.stage: np.ndarray | None = None
        # What the model last saw of this stretch, to bring another one to the same state.
        self._recent: deque[np.ndarray] = deque(maxlen=spec.state.warm_up)
        self._labels = len(spec.labels)
        self._shape = self._fitted_shape()
        is_small = math.prod(self.feature_shape) <= _LARGEST_BATCHED_INPUT
        self._block = block if is_small else 1
        can_fill = is_small and block > 1 and not self.has_memory
        self._micro_batch = micro_batch if can_fill and micro_batch else BATCH
        self.gains_together = can_fill and micro_batch is not None and not self.is_stateful
        self._check_outputs()
        self._reading = reader_of(spec, self._input, self._output)
        self._read = self._reading.read

    @property
    def answered(self) -> dict[str, int]:
        """Windows by the stage that answered them: there are no stages here."""
        return {}

    @property
    def proves_finite(self) -> bool:
        """Whether a score without layers is finite only if all samples of its window are."""
        return self._reading.proves_finite and self._spec.features == (Raw(),)

    def interrupt(self) -> bool:
        """Make the session's call in progress fail; False where it cannot be told to."""
        interrupt = getattr(self.session, "interrupt", None)
        if interrupt is None:
            return False
        interrupt()
        return True

    def _fitted_shape(self) -> tuple[int, ...]:
        """Return the input tensor's shape without the batch axis."""
        shape = self._input.shape[1:]
        size = math.prod(self.feature_shape)
        unknown = [axis for axis in shape if axis < 1]
        known = math.prod(axis for axis in shape if axis >= 1)
        fits = size == known if not unknown else len(unknown) == 1 and size % known == 0
        if not fits:
            raise ShapeError(
                f"features have shape {self.feature_shape}, {size} numbers",
                where=f"{self._spec.name}@{self._spec.version}",
                expected=f"the input tensor's {self._input.shape}, {known} numbers",
                remedy="Change window or features in bundle.yaml to what the model was made for.",
            )
        return tuple(axis if axis >= 1 else size // known for axis in shape)

    def _check_outputs(self) -> None:
        labels = self._labels
        is_reconstruction = self._spec.output.activation == "reconstruction"
        size = 1 if is_reconstruction else math.prod(self._output.shape[1:])
        if size > 0 and size != labels:
            raise self._label_error(size)

    def _label_error(self, size: int) -> ShapeError:
        return ShapeError(
            f"the model answers {size} numbers, output tensor {self._output.shape}",
            where=f"{self._spec.name}@{self._spec.version}",
            expected=f"{len(self._spec.labels)}, one for each label",
            remedy="Give bundle.yaml one label per output, in order.",
        )

    def fork(self) -> Scorer:
        """Return a scorer of the same model with fresh state of its own."""
        return Scorer(self._spec, self.session.fork(), *self._sizes)

    def adopt_features(self, other: object) -> bool:
        """Go on with the features of ``other``, if they are the same; tell whether."""
        if not isinstance(other, Scorer):
            return False
        is_same = self.hears == other.hears
        if is_same:
            self.extract = other.extract
        return is_same

    # --- state --------------------------------------------------------------------

    def begin(self) -> None:
        """Start with fresh state: the next window follows none."""
        if self.has_memory:
            self.session.reset()
            self._recent.clear()

    def note(self, tensor: np.ndarray) -> None:
        """Remember what the model is about to see, shape (n, …)."""
        most = self._spec.state.warm_up
        if most:
            self._recent.extend(tensor[-most:].copy())

    def take_over(self, recent: Iterable[np.ndarray]) -> None:
        """Show the model what another one saw last, as far as it can make anything of it."""
        if self.has_memory:
            self._warm_up([tensor for tensor in recent if self._fits(tensor)])

    @property
    def recent(self) -> tuple[np.ndarray, ...]:
        """What the model saw last of this stretch, as far as its bundle says it matters."""
        return tuple(self._recent)

    def state(self) -> ModelState:
        """Return what must be kept to go on later as if nothing had happened."""
        model = self.session.state()
        if model is not None:
            return ModelState(model)
        return ModelState(None, tuple(tensor.tobytes() for tensor in self._recent))

    def restore(self, state: ModelState) -> None:
        """Go on from ``state``.

        Raises:
            ModelError: It is not this model's.
        """
        if state.model is not None:
            self.session.restore(state.model)
        else:
            self._warm_up(self._tensors_of(state))

    def adopt(self, state: ModelState) -> None:
        """Show this model what one of another base saw last, if it can make anything of it."""
        try:
            recent = self._tensors_of(state)
        except ModelError:
            recent = []
        self._warm_up(recent)

    @property
    def largest_state_bytes(self) -> int:
        """Most bytes that `state` takes."""
        tensor = math.prod(self._input.shape) * np.dtype(self._input.dtype).itemsize
        model = self.session.state() or b""
        return (self._spec.state.warm_up + 1) * (abs(tensor) + 8) + len(model)

    def _warm_up(self, recent: Iterable[np.ndarray]) -> None:
        """Bring the model to the state in which these windows leave it."""
        self._recent.clear()
        self._recent.extend(recent)
        self.session.reset()
        for tensor in self._recent:
            self.session.run(tensor[None])

    def _fits(self, tensor: np.ndarray) -> bool:
        return tensor.dtype == self._input.dtype and tensor.shape == self._input.shape[1:]

    def _tensors_of(self, state: ModelState) -> list[np.ndarray]:
        shape, dtype = self._input.shape[1:], self._input.dtype
        try:
            return [np.frombuffer(tensor, dtype).reshape(shape) for tensor in state.recent]
        except ValueError as error:
            raise ModelError(str(error), where="what the model saw last") from error

    # --- scores -------------------------------------------------------------------

    def features(self, samples: np.ndarray, *, is_fresh: bool = True) -> np.ndarray:
        """Return the features of windows (n, length, channels), float32; may be a view.

        Args:
            samples: The windows.
            is_fresh: False promises that they follow the windows of the call before.
        """
        return self.extract(samples, is_fresh=is_fresh)

    def route(self, dtype: np.dtype, scales: Scales | None) -> Route:
        """Return how windows of ``dtype`` reach the tensor when normalised with ``scales``."""
        if self._spec.features == (Raw(),):
            feed, is_quiet = feed_samples(dtype, self._input, self._shape, scales)
            return Route(feed, True, is_quiet and self._reading.is_quiet)
        feed = feed_features(self._input, self._shape, scales)
        is_quiet = scales is None and self.extract.is_quiet and self._reading.is_quiet
        return Route(feed, False, is_quiet)

    def score_features(self, features: np.ndarray, scales: Scales | None) -> Reals:
        """Return scores of features (n, …), float32, normalised with ``scales``."""
        return self.score(feed_features(self._input, self._shape, scales)(features))

    def score(self, tensor: np.ndarray) -> Reals:
        """Return scores in reported units, shape (n, labels), float64.

        Args:
            tensor: What `Route.feed` made, shape (n, …).
        """
        count = len(tensor)
        if count == 1:
            return self._scored(self.session.run(tensor), tensor)
        # Block by block, so that an answer is read while it is in the cache.
        parts = (tensor[rows] for rows in self._blocks(count))
        return np.concatenate([self._scored(self._run(part), part) for part in parts])

    def _scored(self, answers: np.ndarray, tensor: np.ndarray) -> Reals:
        if len(answers) != len(tensor):
            raise self._count_error(answers, tensor)
        scores = self._read(answers, tensor)
        if scores.shape[1] != self._labels:
            raise self._label_error(scores.shape[1])
        return scores

    def _blocks(self, count: int) -> Iterator[slice]:
        """Split windows into whole blocks of proven sizes, and a rest."""
        first = 0
        for size, least in ((self._block, self._block), (BATCH, self._micro_batch)):
            while least <= count - first:
                yield slice(first, min(first + size, count))
                first += size
        if first < count:
            yield slice(first, count)

    def _run(self, tensor: np.ndarray) -> np.ndarray:
        """Ask the session about a block; fill up a rest where that pays, else go one by one."""
        count, run = len(tensor), self.session.run
        if count in (self._block, BATCH):
            return run(tensor)
        if count < self._micro_batch:
            return self._stacked([run(tensor[row : row + 1]) for row in range(count)])
        filler = np.broadcast_to(tensor[-1:], (BATCH - count, *tensor.shape[1:]))
        return run(np.concatenate((tensor, filler)))[:count]

    def _stacked(self, answers: Sequence[np.ndarray]) -> np.ndarray:
        """Put the answers to single windows together; a model may answer in any shape."""
        for answer in answers:
            if answer.shape[1:] != answers[0].shape[1:]:
                raise self._label_error(answer.size)
        return np.concatenate(answers)

    def _count_error(self, answers: np.ndarray, tensor: np.ndarray) -> ModelError:
        return ModelError(
            f"the model answered {answers.shape} to {tensor.shape}",
            where=f"{self._spec.name}@{self._spec.version}",
            expected="one row per window",
        )


def _tensors(session: Session) -> tuple[TensorSpec, TensorSpec]:
    if len(session.inputs) != 1 or not session.outputs:
        raise ModelError(
            f"the model has {len(session.inputs)} inputs and {len(session.outputs)} outputs",
            expected="one input and at least one output",
            remedy="Export the model with a single input tensor.",
        )
    return session.inputs[0], session.outputs[0]
