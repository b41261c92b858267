"""The one pipeline behind all modes: pure, synchronous, without clock or I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np

from edge_runtime.errors import ModelError
from edge_runtime.pipeline.decide import Decider, DeciderState
from edge_runtime.pipeline.layers import Active, LayerSet
from edge_runtime.pipeline.score import BATCH, Scorer
from edge_runtime.pipeline.windows import Cutter, CutterState
from edge_runtime.ports import Session
from edge_runtime.spec import Layer, ModelSpec, effective_id
from edge_runtime.types import Estimates, Frame, Output, Upload, Windows, check_name

__all__ = ["Pipeline"]

_SNAPSHOT_VERSION = 1
_RUN_MANY_SAMPLES = 8192
_LARGEST_BLOCK_VALUES = 1 << 22


class _Snapshot(msgspec.Struct, frozen=True):
    version: int
    stream: str
    base: str
    cutter: CutterState
    decider: DeciderState


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

    Attributes:
        spec: As given.
        base: As given.
        stream: As given.

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
    ) -> None:
        self.spec = spec
        self.base = base
        self.stream = check_name(stream, "stream")
        self._upload = upload
        self._at_once = _windows_at_once(spec, block)
        self._scorer = Scorer(spec, session, block)
        self._cutter = Cutter(spec.window, spec.stream)
        self._decider = Decider(spec, stream)
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
            raise ModelError(
                f"a frame of stream {frame.stream!r}", expected=repr(self.stream), where="pipeline"
            )
        # Overflows are expected: what is not finite is counted, or saturates.
        with np.errstate(all="ignore"):
            outputs = [self._output_of(windows) for windows in self._cutter.cut(frame)]
        if not outputs:
            return self._nothing
        return outputs[0] if len(outputs) == 1 else self._merged(outputs)

    def run(self, frames: Iterable[Frame]) -> Iterator[Output]:
        """Push frames one by one and give out each answer."""
        return map(self.push, frames)

    def run_many(self, frames: Iterable[Frame]) -> Output:
        """Answer all frames at once, byte-equal to pushing them in any chunks.

        Small frames are joined first, so that the work is vectorised. Memory
        grows with the answers, not with the samples.
        """
        outputs = [self.push(block) for block in _joined(frames)]
        return self._merged([output for output in outputs if len(output.estimates)])

    def score_windows(self, windows: Windows) -> Estimates:
        """Score windows that are already cut; touches no state.

        Args:
            windows: Finite samples of the spec's length and channels, in any order.

        Returns:
            One row per window, byte-equal to what `push` gives for it.
        """
        with np.errstate(all="ignore"):
            parts = [
                self._answer(_rows(part, rows), active)
                for part in _pieces(windows, self._at_once)
                for rows, active in self._layers.runs(part.end_ns)
            ]
        return self._merged_estimates(parts)

    def _output_of(self, windows: Windows) -> Output:
        if len(windows) == 1:
            return self._decided(windows, self._layers.at(int(windows.end_ns[0])))
        return self._merged(
            [
                self._decided(_rows(part, rows), active)
                for part in _pieces(windows, self._at_once)
                for rows, active in self._layers.runs(part.end_ns)
            ]
        )

    def _decided(self, windows: Windows, active: Active) -> Output:
        """Score and decide windows for which the same layers count."""
        estimates = self._answer(windows, active)
        decisions = self._decider.decide(
            estimates.value,
            estimates.index,
            estimates.end_ns,
            limits=active.limits,
            effective_id=self._effective_id,
        )
        return Output(self.stream, estimates, tuple(decisions))

    def _answer(self, windows: Windows, active: Active) -> Estimates:
        samples = windows.samples
        scorer = self._scorer
        features = None
        if scorer.is_direct(samples, active.scales):
            score = scorer.score(samples, None)
            if active.needs_features or self._upload == "features":
                features = scorer.features(samples)
        else:
            features = scorer.features(samples)
            score = scorer.score(features, active.scales)
        return Estimates(
            windows.index,
            windows.start_ns,
            windows.end_ns,
            score,
            self._layers.refine(score, active, features, windows.end_ns),
            self._kept(samples, features),
            self._effective_id,
        )

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
        )

    def _empty_output(self) -> Output:
        none = np.empty(0, np.int64)
        scores = np.empty((0, len(self.spec.labels)))
        inputs = None
        if self._upload == "windows":
            shape = (0, self.spec.window.length, len(self.spec.stream.channels))
            inputs = np.empty(shape, self._cutter.dtype)
        elif self._upload == "features":
            inputs = np.empty((0, *self._scorer.feature_shape), np.float32)
        estimates = Estimates(none, none, none, scores, scores, inputs, self._effective_id)
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
        shape = self._scorer.feature_shape
        self._layers = LayerSet(self.spec, layers, base=self.base, shape=shape)
        self._effective_id = effective_id(self.base, layers)
        self._nothing = self._empty_output()

    def interrupt(self) -> bool:
        """Make the call of the model that is in progress fail; callable from any thread.

        Returns:
            Whether its runtime can be told to; a ``push`` then raises `ModelError`.
        """
        return self._scorer.interrupt()

    def take_over(self, other: Pipeline) -> None:
        """Go on where ``other``, the pipeline this one replaces, stands.

        With the same channels and window no window is lost. Smoothing goes on if
        labels and smoothing are the same; labels that both have stay started.
        ``other.started`` tells which labels this base does not know and nobody
        will end. ``other`` must not be used after.
        """
        self._cutter.take_over(other._cutter)
        self._decider.take_over(other._decider)
        self._nothing = self._empty_output()

    def snapshot(self) -> bytes:
        """Return everything needed to go on in another process, but not the layers."""
        return msgspec.msgpack.encode(
            _Snapshot(
                version=_SNAPSHOT_VERSION,
                stream=self.stream,
                base=self.base,
                cutter=self._cutter.state(),
                decider=self._decider.state(),
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
        before = self._cutter.state()
        self._cutter.restore(found.cutter)
        try:
            if found.base == self.base:
                self._decider.restore(found.decider)
            else:
                self._decider.adopt(found.decider)
        except ModelError:
            self._cutter.restore(before)
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
        rows = self.spec.window.length * (len(self.spec.stream.channels) + 1)
        history = self.spec.smoothing.windows * len(self.spec.labels)
        names = sum(map(len, self.spec.labels))
        return 4096 + 16 * (rows + history) + 8 * names


def _windows_at_once(spec: ModelSpec, block: int) -> int:
    """Return how many windows may be in work together: whole batches, or one."""
    values = spec.window.length * len(spec.stream.channels)
    blocks = min(_LARGEST_BLOCK_VALUES // values, max(1024, block)) // block
    return max(1, blocks * block)


def _pieces(windows: Windows, count: int) -> Iterator[Windows]:
    for first in range(0, len(windows), count):
        yield _rows(windows, slice(first, first + count))


def _rows(windows: Windows, rows: slice) -> Windows:
    if rows.start == 0 and rows.stop >= len(windows):
        return windows
    return Windows(
        windows.index[rows], windows.start_ns[rows], windows.end_ns[rows], windows.samples[rows]
    )


def _joined(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Join frames that follow each other into larger ones."""
    waiting: list[Frame] = []
    count = 0
    for frame in frames:
        if waiting and (count >= _RUN_MANY_SAMPLES or not _follows(frame, waiting[-1])):
            yield _concatenated(waiting)
            waiting, count = [], 0
        waiting.append(frame)
        count += len(frame)
    if waiting:
        yield _concatenated(waiting)


def _follows(frame: Frame, before: Frame) -> bool:
    return (
        frame.index == before.index + len(before)
        and frame.stream == before.stream
        and frame.samples.dtype == before.samples.dtype
        and frame.samples.shape[1] == before.samples.shape[1]
    )


def _concatenated(frames: Sequence[Frame]) -> Frame:
    if len(frames) == 1:
        return frames[0]
    return Frame(
        stream=frames[0].stream,
        index=frames[0].index,
        time_ns=np.concatenate([frame.time_ns for frame in frames]),
        samples=np.concatenate([frame.samples for frame in frames]),
        clock=frames[0].clock,
    )
