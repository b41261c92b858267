"""The one pipeline behind all modes: pure, synchronous, without clock or I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np

from edge_runtime.errors import ModelError
from edge_runtime.pipeline.cascade import AnyScorer, scorer_of
from edge_runtime.pipeline.decide import Decider, DeciderState
from edge_runtime.pipeline.fuse import Reals
from edge_runtime.pipeline.joining import joined_many
from edge_runtime.pipeline.layers import Active, LayerSet
from edge_runtime.pipeline.score import BATCH, ModelState
from edge_runtime.pipeline.windows import Cutter, CutterState
from edge_runtime.ports import Session
from edge_runtime.quality import joined_masks
from edge_runtime.spec import Layer, ModelSpec, effective_id
from edge_runtime.types import (
    Decision,
    Estimates,
    Frame,
    Output,
    Upload,
    Windows,
    check_name,
)

__all__ = ["Pipeline", "Question", "rows_of_windows"]

_SNAPSHOT_VERSION = 1
_LARGEST_BLOCK_VALUES = 1 << 22


class _Snapshot(msgspec.Struct, frozen=True):
    version: int
    stream: str
    base: str
    cutter: CutterState
    decider: DeciderState
    model: bytes | None = b""
    recent: tuple[bytes, ...] = ()


class Question(msgspec.Struct, frozen=True, eq=False):
    """Windows for which the same layers count, and what the model is asked about them.

    Attributes:
        windows: The windows; their samples are a view of the buffer.
        active: The layers.
        tensor: Valid until the next question.
        features: If something needs them; may be a view of the buffer.
        inputs: A copy of what goes along with the estimates.
    """

    windows: Windows
    active: Active
    tensor: np.ndarray
    features: np.ndarray | None
    inputs: np.ndarray | None


class Pipeline:
    """Turns the frames of one stream into estimates and decisions.

    How the samples are spread over frames does not change a byte of what comes
    out, nor does a snapshot and restore in between. Used by one thread at a
    time; it keeps no reference to a frame.

    Args:
        spec: What the model needs and promises.
        session: The loaded model.
        base: Digest of the base bundle, hex.
        layers: Active layers, in any order, at most one of each kind.
        stream: Name of the stream.
        upload: What estimates keep of the window: its features, its samples, or neither.
        block: Windows that the session answers at once where so many are ready.
        micro_batch: Fewer windows from which it pays to fill up a block of 32.

    Attributes:
        spec: As given.
        base: As given.
        stream: As given.
        scorer: The part that asks the model.

    Raises:
        ConfigError: The stream's name may not stand in a topic.
        ShapeError: Features, labels or layers do not fit the model.
        BundleError: The layers do not go together or with this base.
    """

    def __init__(
        self,
        spec: ModelSpec,
        session: Session,
        *,
        base: str,
        layers: Sequence[Layer] = (),
        stream: str = "main",
        upload: Upload = "none",
        block: int = BATCH,
        micro_batch: int | None = None,
    ) -> None:
        self.spec = spec
        self.base = base
        self.stream = check_name(stream, "stream")
        self._upload: Upload = upload
        self._keeps_inputs = upload in ("features", "windows")
        self._has_reject = any(limit.reject is not None for limit in spec.limits)
        self._has_marks = self._has_reject or bool(spec.cascade)
        self._at_once = _windows_at_once(spec, block)
        self.scorer = scorer_of(spec, session, block, micro_batch)
        self._cutter = Cutter(spec.window, spec.stream, spec.filters)
        self._decider = Decider(spec, stream)
        self._routed: Active | None = None
        self._features_follow = False
        self.activate(layers)

    @property
    def effective_id(self) -> str:
        """Hash of the base and the active layers, 16 hex digits."""
        return self._effective_id

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The active layers, in the order they were given."""
        return self._layers.layers

    @property
    def discarded(self) -> dict[str, int]:
        """Discards by reason since the stream began.

        ``out_of_order``: samples not later than the one before. ``gap``: samples of
        windows that a gap cut short. ``not_finite``: windows with such a value.
        """
        return dict(self._cutter.discarded)

    @property
    def withheld(self) -> dict[str, int]:
        """Windows by label whose start or end was withheld as uncertain, since the stream began."""
        return self._decider.withheld

    @property
    def answered(self) -> dict[str, int]:
        """Windows by the stage that answered them, since this was made; none without a cascade."""
        return self.scorer.answered

    @property
    def common_session(self) -> Session | None:
        """The session, where asking it about several streams at once was measured to pay."""
        return self.scorer.session if self.scorer.gains_together else None

    @property
    def upload(self) -> Upload:
        """What estimates keep of the window."""
        return self._upload

    @property
    def nothing(self) -> Output:
        """An answer without windows."""
        return self._nothing

    @property
    def started(self) -> tuple[str, ...]:
        """Labels that have started and not ended."""
        return self._decider.started

    # --- running ------------------------------------------------------------------

    def push(self, frame: Frame) -> Output:
        """Take the next samples and return what they complete; often nothing.

        Args:
            frame: Samples of this stream, any number.

        Raises:
            ShapeError: Channels or dtype are not those of the stream.
            ModelError: The frame belongs to another stream, or the session failed.
        """
        if frame.stream != self.stream:
            raise self._foreign(frame)
        return self._pushed(frame) if self._is_quiet else self._pushed_silently(frame)

    def _foreign(self, frame: Frame) -> ModelError:
        return ModelError(
            f"a frame of stream {frame.stream!r}", expected=repr(self.stream), where="pipeline"
        )

    def run(self, frames: Iterable[Frame]) -> Iterator[Output]:
        """Push frames one by one and give out each answer."""
        return map(self.push, frames)

    @np.errstate(all="ignore")
    def answer(self, windows: Windows) -> Output:
        """Take windows that somebody else cut, in order, and return what `push` would."""
        return self._merged(
            [
                self._told(question, self.scorer.score(question.tensor))
                for part, active in self._runs(windows)
                for question in (self._asked(part, active, self.scorer),)
            ]
        )

    def begin(self) -> None:
        """Start afresh with the next sample, whatever its time: the clock was set back."""
        self._cutter.begin()

    @np.errstate(all="ignore")
    def ask(self, frame: Frame) -> list[Question]:
        """Take the next samples and return what the model must be asked: half of a `push`.

        `tell` is the other half; nothing else may be pushed in between.
        """
        if frame.stream != self.stream:
            raise self._foreign(frame)
        questions = []
        for windows in self._cutter.cut(frame):
            for part, active in self._runs(windows):
                one = self._asked(part, active, self.scorer)
                features = None if one.features is None else one.features.copy()
                # The buffers behind these arrays move on before the answer comes.
                tensor = one.tensor.copy()
                questions.append(msgspec.structs.replace(one, tensor=tensor, features=features))
        return questions

    def tell(self, answered: Sequence[tuple[Question, Reals]]) -> Output:
        """Take the scores of all that was asked and return what `push` would have."""
        return self._merged([self._told(question, score) for question, score in answered])

    def run_many(self, frames: Iterable[Frame]) -> Output:
        """Answer all frames at once, byte-equal to pushing them in any chunks.

        Small frames are joined first, so that the work is vectorised. Memory
        grows with the answers, not with the samples.
        """
        outputs = [self.push(block) for block in joined_many(frames)]
        return self._merged([output for output in outputs if len(output.estimates)])

    def score_windows(self, windows: Windows) -> Estimates:
        """Score windows that are already cut; touches no state of the stream.

        Args:
            windows: Finite samples of the spec's length and channels; in any order,
                unless an answer depends on the windows before: then they are one
                stretch, each following the one before, and begin with fresh state.

        Returns:
            One row per window, byte-equal to what `push` gives for it.
        """
        with np.errstate(all="ignore"):
            scorer = self.scorer.fork() if self.scorer.is_stateful else self.scorer
            parts = []
            for part, active in self._runs(windows):
                question = self._asked(part, active, scorer)
                estimates = self._estimated(question, scorer.score(question.tensor))
                if scorer.stage is not None:
                    estimates = msgspec.structs.replace(estimates, stage=scorer.stage)
                parts.append(estimates)
            if scorer.session is not self.scorer.session:
                scorer.session.close()
            if scorer is self.scorer:
                scorer.begin()
            # What comes next on the stream does not follow these windows.
            self._features_follow = False
        return self._merged_estimates(parts)

    def _pushed(self, frame: Frame) -> Output:
        windows = self._cutter.cut_next(frame)
        if windows is not None:
            return self._answered(windows, self._layers.always)
        outputs = []
        for windows in self._cutter.cut(frame):
            if len(windows.index) == 1:
                outputs.append(self._answered(windows, self._layers.always))
            else:
                outputs += [self._answered(part, active) for part, active in self._runs(windows)]
        return outputs[0] if len(outputs) == 1 else self._merged(outputs)

    def _answered(self, windows: Windows, active: Active | None) -> Output:
        """Answer windows under these layers; None asks which count for the only one."""
        if active is None:
            active = self._layers.at(windows.end_ns.item(0))
        question = self._asked(windows, active, self.scorer)
        return self._told(question, self.scorer.score(question.tensor))

    # Overflows are expected: what is not finite is counted, or saturates.
    _pushed_silently = np.errstate(all="ignore")(_pushed)

    def _runs(self, windows: Windows) -> Iterator[tuple[Windows, Active]]:
        """Split windows into pieces of bounded size for which the same layers count."""
        for part in _pieces(windows, self._at_once):
            for rows, active in self._layers.runs(part.end_ns):
                yield rows_of_windows(part, rows), active

    def _asked(self, windows: Windows, active: Active, scorer: AnyScorer) -> Question:
        """Return what the model is asked about windows."""
        samples = windows.samples
        if active is not self._routed or samples.dtype is not self._routed_dtype:
            self._choose_route(active, samples.dtype)
        route = self._route
        if self._is_plain:
            return Question(windows, active, route.feed(samples), None, None)
        features = None
        if self._needs_features:
            is_fresh = windows.is_fresh or not self._features_follow
            features = scorer.features(samples, is_fresh=is_fresh)
            self._features_follow = True
        tensor = route.feed(samples if features is None or route.is_direct else features)
        if scorer.is_told:
            if windows.is_fresh:
                scorer.begin()
            scorer.note(tensor)
        inputs = self._kept(samples, features) if self._keeps_inputs else None
        return Question(windows, active, tensor, features, inputs)

    def _told(self, question: Question, score: Reals) -> Output:
        """Decide on what the model answered."""
        estimates = self._estimated(question, score)
        decisions = self._decider.decide(
            estimates.value,
            estimates.index,
            estimates.end_ns,
            question.active.limits,
            self._effective_id,
        )
        if self._has_marks:
            estimates = self._marked(estimates)
        if decisions and estimates.quality is not None:
            decisions = _with_quality(decisions, estimates.index, estimates.quality)
        return Output(self.stream, estimates, decisions)

    def _marked(self, estimates: Estimates) -> Estimates:
        uncertain = self._decider.uncertain if self._has_reject else None
        return msgspec.structs.replace(estimates, uncertain=uncertain, stage=self.scorer.stage)

    def _estimated(self, question: Question, score: Reals) -> Estimates:
        windows, value = question.windows, score
        if question.active.steps:
            value = self._layers.refine(score, question.active, question.features, windows.end_ns)
        return Estimates(
            windows.index,
            windows.start_ns,
            windows.end_ns,
            score,
            value,
            question.inputs,
            self._effective_id,
            quality=windows.quality,
        )

    def _choose_route(self, active: Active, dtype: np.dtype) -> None:
        """Find out once how windows of this dtype reach the tensor under these layers."""
        self._routed, self._routed_dtype = active, dtype
        self._route = route = self.scorer.route(dtype, active.scales)
        wants_features = active.needs_features or self._upload == "features"
        self._needs_features = wants_features or not route.is_direct
        self._features_follow = self._features_follow and self._needs_features
        # The samples go to the model, and nothing else is wanted of them.
        self._is_plain = not (self._needs_features or self.scorer.is_told or self._keeps_inputs)
        # Features that only go along are made of samples that may be too large for them.
        is_extra = self._needs_features and route.is_direct
        self._is_quiet = route.is_quiet and not is_extra and not active.steps

    def _kept(self, samples: np.ndarray, features: np.ndarray | None) -> np.ndarray | None:
        """Copy what goes along with the estimates; the arrays may be views of the buffer."""
        if self._upload == "windows":
            return samples.copy()
        if self._upload == "features" and features is not None:
            return features.copy()
        return None

    # --- joining ------------------------------------------------------------------

    def _merged(self, outputs: Sequence[Output]) -> Output:
        if not outputs:
            return self._nothing
        estimates = self._merged_estimates([output.estimates for output in outputs])
        decisions = tuple(decision for output in outputs for decision in output.decisions)
        return Output(self.stream, estimates, decisions)

    def _merged_estimates(self, parts: Sequence[Estimates]) -> Estimates:
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return self._nothing.estimates
        inputs = [part.inputs for part in parts if part.inputs is not None]
        uncertain = [part.uncertain for part in parts if part.uncertain is not None]
        stages = [part.stage for part in parts if part.stage is not None]
        score = np.concatenate([part.score for part in parts])
        is_refined = any(part.value is not part.score for part in parts)
        return Estimates(
            index=np.concatenate([part.index for part in parts]),
            start_ns=np.concatenate([part.start_ns for part in parts]),
            end_ns=np.concatenate([part.end_ns for part in parts]),
            score=score,
            value=np.concatenate([part.value for part in parts]) if is_refined else score,
            inputs=np.concatenate(inputs) if inputs else None,
            effective_id=self._effective_id,
            uncertain=np.concatenate(uncertain) if uncertain else None,
            quality=joined_masks((part.quality, len(part)) for part in parts),
            stage=np.concatenate(stages) if stages else None,
        )

    def _empty_output(self) -> Output:
        none = np.empty(0, np.int64)
        scores = np.empty((0, len(self.spec.labels)))
        inputs = None
        if self._upload == "windows":
            shape = (0, self.spec.window.length, len(self.spec.stream.channels))
            inputs = np.empty(shape, self._cutter.dtype)
        elif self._upload == "features":
            inputs = np.empty((0, *self.scorer.feature_shape), np.float32)
        uncertain = np.empty(scores.shape, np.bool_) if self._has_reject else None
        estimates = Estimates(
            none,
            none,
            none,
            scores,
            scores,
            inputs,
            self._effective_id,
            uncertain=uncertain,
            stage=np.empty(0, np.uint8) if self.spec.cascade else None,
        )
        return Output(self.stream, estimates, ())

    # --- changing -----------------------------------------------------------------

    def activate(self, layers: Sequence[Layer]) -> None:
        """Replace the active layers, from the next window on.

        Open windows, smoothing and started labels go on. If this raises, the
        layers before stay active.

        Raises:
            BundleError: Two layers have one kind, or one is for another base.
            ShapeError: A layer's lengths do not fit the model.
        """
        shape = self.scorer.feature_shape
        self._layers = LayerSet(self.spec, layers, base=self.base, shape=shape)
        self._routed = None
        self._is_quiet = False
        self._effective_id = effective_id(self.base, layers)
        self._nothing = self._empty_output()

    def interrupt(self) -> bool:
        """Make the call of the model that is in progress fail; callable from any thread.

        Returns:
            Whether its runtime can be told to; a ``push`` then raises `ModelError`.
        """
        return self.scorer.interrupt()

    def take_over(self, other: Pipeline) -> None:
        """Go on where ``other``, the pipeline this one replaces, stands.

        With the same channels and window no window is lost. Smoothing goes on if
        labels and smoothing are the same; labels that both have stay started.
        ``other.started`` tells which labels this base does not know and nobody
        will end. ``other`` must not be used after.
        """
        self._cutter.take_over(other._cutter)
        self._decider.take_over(other._decider)
        self._features_follow = self.scorer.adopt_features(other.scorer) and other._features_follow
        self.scorer.take_over(other.scorer.recent)
        self._nothing = self._empty_output()

    def snapshot(self) -> bytes:
        """Return everything needed to go on in another process, but not the layers."""
        state = self.scorer.state()
        return msgspec.msgpack.encode(
            _Snapshot(
                version=_SNAPSHOT_VERSION,
                stream=self.stream,
                base=self.base,
                cutter=self._cutter.state(),
                decider=self._decider.state(),
                model=state.model,
                recent=state.recent,
            )
        )

    def restore(self, snapshot: bytes, *, base: str | None = None) -> None:
        """Go on from `snapshot`'s bytes; layers are not part of them.

        Args:
            snapshot: The bytes.
            base: Digest of the base that made them; None for this one. From another
                base it goes on as `take_over` does.

        Raises:
            ModelError: They are damaged, too large, or of another version, stream,
                base or window. The pipeline is then as it was.
        """
        found = self._decoded(snapshot, base or self.base)
        state = ModelState(found.model, found.recent)
        before = self._cutter.state(), self._decider.state()
        self._cutter.restore(found.cutter)
        self._features_follow = False
        try:
            if found.base == self.base:
                self._decider.restore(found.decider)
                self.scorer.restore(state)
            else:
                self._decider.adopt(found.decider)
                self.scorer.adopt(state)
        except ModelError:
            self._cutter.restore(before[0])
            self._decider.restore(before[1])
            raise
        self._nothing = self._empty_output()

    def _decoded(self, snapshot: bytes, base: str) -> _Snapshot:
        where = f"snapshot of {self.stream}"
        remedy = "Start without the snapshot; the samples in it are lost."
        if len(snapshot) > self._largest_snapshot_bytes:
            raise ModelError(
                f"{len(snapshot)} bytes",
                where=where,
                expected=f"at most {self._largest_snapshot_bytes}",
                remedy=remedy,
            )
        try:
            found = msgspec.msgpack.decode(snapshot, type=_Snapshot)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ModelError(str(error), where=where, remedy=remedy) from error
        is_ours = (found.version, found.stream, found.base)
        wanted = (_SNAPSHOT_VERSION, self.stream, base)
        if is_ours != wanted:
            raise ModelError(
                f"version, stream and base are {is_ours}",
                where=where,
                expected=str(wanted),
                remedy=remedy,
            )
        return found

    @property
    def _largest_snapshot_bytes(self) -> int:
        """Twice what a full buffer of the widest numbers needs, and room for names."""
        rows = self.spec.window.length * (len(self.spec.stream.channels) + 2)
        history = self.spec.smoothing.windows * len(self.spec.labels)
        names = sum(map(len, self.spec.labels))
        marks = sum(96 + 4 * limit.k_of_n[1] for limit in self.spec.limits if not limit.is_plain)
        kept = self.scorer.largest_state_bytes
        return 4096 + 16 * (rows + history) + 8 * (names + marks) + kept


def _windows_at_once(spec: ModelSpec, block: int) -> int:
    """Return how many windows may be in work together: whole batches, or one."""
    values = spec.window.length * len(spec.stream.channels)
    blocks = min(_LARGEST_BLOCK_VALUES // values, max(1024, block)) // block
    return max(1, blocks * block)


def _pieces(windows: Windows, count: int) -> Iterator[Windows]:
    for first in range(0, len(windows), count):
        yield rows_of_windows(windows, slice(first, first + count))


def rows_of_windows(windows: Windows, rows: slice) -> Windows:
    """Return some of the windows, without copying."""
    if rows.start == 0 and rows.stop >= len(windows):
        return windows
    return Windows(
        windows.index[rows],
        windows.start_ns[rows],
        windows.end_ns[rows],
        windows.samples[rows],
        windows.is_fresh and rows.start == 0,
        None if windows.quality is None else windows.quality[rows],
    )


def _with_quality(
    decisions: Sequence[Decision], index: np.ndarray, quality: np.ndarray
) -> tuple[Decision, ...]:
    """Tell with decisions what is suspect about the windows at which they were made."""
    masks = dict(zip(index.tolist(), quality.tolist(), strict=True))
    return tuple(
        msgspec.structs.replace(decision, quality=masks[decision.index]) for decision in decisions
    )
