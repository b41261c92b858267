"""A pipeline for samples in any order: it waits for them, and revises what it answered.

Samples are kept until they are too old to change anything. From time to time the
pipeline behind is remembered as a whole (a *checkpoint*). When late samples come, the
last checkpoint before the first slot that they could change is restored, the slots
since are made again, and what is answered otherwise than before is told as a revision.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np

from edge_runtime.errors import ConfigError, ModelError, ShapeError
from edge_runtime.pipeline.cascade import AnyScorer
from edge_runtime.pipeline.pipeline import Pipeline
from edge_runtime.pipeline.timeline.behind import Behind, Stage
from edge_runtime.pipeline.timeline.grid import Grid
from edge_runtime.pipeline.timeline.ledger import Ledger, LedgerState, joined_estimates
from edge_runtime.pipeline.timeline.past import Checkpoint, Past
from edge_runtime.pipeline.timeline.rows import Rows, RowsState
from edge_runtime.pipeline.timeline.watermark import (
    NEVER_NS,
    BackState,
    Setback,
    Watermark,
    WatermarkState,
)
from edge_runtime.ports import Session, Timing
from edge_runtime.quality import masks_or_none
from edge_runtime.spec import Layer, ModelSpec
from edge_runtime.types import Estimates, Frame, Output, SideRows, Windows

__all__ = ["TimedPipeline"]

_SNAPSHOT_VERSION = 1
# Samples that may lie in one slot: a sensor that floods is thinned to that.
_MOST_IN_A_SLOT = 64


class _Snapshot(msgspec.Struct, frozen=True):
    version: int
    stream: str
    need: bytes
    watermark: WatermarkState
    held: RowsState
    rows: RowsState
    late: RowsState
    back: BackState | None
    shift: int
    stage: Stage
    checkpoints: tuple[Checkpoint, ...]
    ledger: LedgerState
    discarded: dict[str, int]


class TimedPipeline:
    """Turns samples of one stream, in any order, into estimates and decisions.

    It has everything a `Pipeline` has, and tells late samples' effects as revisions.
    How samples are spread over frames does not change a byte of what comes out, nor
    does a snapshot in between. Once all samples are in, what was told last of every
    window is what a stream in order would have got, unless a sample came later than
    ``timing.allowed_lateness_s`` or from before the last change of layers.

    Used by one thread; knows no clock: `pass_time` tells it that time goes on.

    Args:
        pipeline: Behind the grid; nothing else may push into it.
        timing: How long to wait, and whom to believe.

    Raises:
        ConfigError: The bundle has no grid, or ``upload`` asks for windows of sessions.
    """

    def __init__(self, pipeline: Pipeline, timing: Timing | None = None) -> None:
        spec = pipeline.spec
        self._inner = pipeline
        self._timing = timing or Timing()
        self._check(pipeline)
        self._grid = Grid(spec.stream, spec.window.gap_periods)
        self._watermark = Watermark(self._timing, self._grid.period_ns)
        self._setback = Setback(self._timing)
        self._lateness_ns = round(self._timing.allowed_lateness_s * 1e9)
        self._revise_ns = round(self._timing.revise_s * 1e9)
        self._behind = Behind(pipeline, self._grid.period_ns)
        period_ns, hop = self._grid.period_ns, spec.window.hop
        self._past = Past(pipeline.nothing, self._lateness_ns, period_ns, hop)
        self._dtype: np.dtype | None = None
        self._lost = {"late": 0, "future": 0, "duplicate": 0, "flood": 0}
        self._outputs: list[Output] = []
        self._is_replaying = False
        self._shift = 0
        self._begin()

    def _check(self, pipeline: Pipeline) -> None:
        spec = pipeline.spec
        if spec.stream.grid is None:
            raise ConfigError(
                f"{spec.name}@{spec.version} has no stream.grid",
                expected="a bundle for samples on a grid",
                remedy="Add 'grid: {}' to its stream, or leave out the stream's time options.",
            )
        if spec.window.kind == "session" and pipeline.upload == "windows":
            raise ConfigError(
                "upload is windows, and windows are sessions",
                where=pipeline.stream,
                expected="features, decisions or none",
                remedy="Sessions have no common length.",
            )

    def _begin(self) -> None:
        """Start with nothing: at first, and after a clock was set back."""
        channels = len(self._inner.spec.stream.channels)
        none = Rows.none(channels, self._dtype or np.dtype(np.float32))
        self._held = self._rows = self._late = none
        self._past.begin(self._inner.nothing)
        self._past.remember(self._behind.stage())

    # --- what a pipeline has ----------------------------------------------------------

    @property
    def spec(self) -> ModelSpec:
        """What the model needs and promises."""
        return self._inner.spec

    @property
    def base(self) -> str:
        """Digest of the base bundle, hex."""
        return self._inner.base

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return self._inner.stream

    @property
    def scorer(self) -> AnyScorer:
        """The part that asks the model."""
        return self._inner.scorer

    @property
    def effective_id(self) -> str:
        """Hash of the base and the active layers, 16 hex digits."""
        return self._inner.effective_id

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The active layers."""
        return self._inner.layers

    @property
    def started(self) -> tuple[str, ...]:
        """Labels that have started and not ended."""
        return self._inner.started

    @property
    def common_session(self) -> Session | None:
        """None: what is due depends on the watermark, not on frames."""
        return None

    @property
    def timing(self) -> Timing:
        """How long it waits, and whom it believes."""
        return self._timing

    @property
    def next_index(self) -> int | None:
        """Windows that end here or later are still to be answered; None before the first slot."""
        slot = self._behind.slot
        return None if slot is None else slot + self._shift

    def is_final(self, index: int) -> bool:
        """Tell whether nothing can be said any more of a window that ends at ``index``.

        False may only say that it is not known yet.
        """
        slot = self._past.oldest if self._lateness_ns else self._behind.slot
        # A session is told only after its silence.
        return slot is not None and index < slot + self._shift - self._behind.silence

    @property
    def idle_s(self) -> float | None:
        """After how long without a sample `pass_time` is to be called."""
        return self._timing.idle_s

    @property
    def settles_s(self) -> float:
        """How long after its last sample nothing of the stream waits any more."""
        return (self._end_ns + round(self._timing.delay_s * 1e9)) / 1e9

    @property
    def newest_ns(self) -> int | None:
        """Latest believed event time; None before the first."""
        return self._watermark.state.newest_ns

    @property
    def behind(self) -> Pipeline:
        """The pipeline behind the grid."""
        return self._inner

    @property
    def watermark_ns(self) -> int | None:
        """Event time up to which everything is taken to have come; None before the first."""
        at_ns = self._watermark.at_ns
        return None if at_ns == NEVER_NS else at_ns

    @property
    def discarded(self) -> dict[str, int]:
        """Discards by reason since the stream began.

        Those of `Pipeline.discarded`, less what late samples have healed, and of samples:
        ``late``, ``future``, ``duplicate`` (of an instant that has one), ``flood`` (more
        than 64 in a slot). ``unaligned``: slots before the first whole window of a run.
        ``incomplete``: slots where some channels have a value and others none.
        """
        return self._behind.discarded | self._lost

    @property
    def answered(self) -> dict[str, int]:
        """Windows by the stage that answered them; see `Pipeline`. Those revised count again."""
        return self._inner.answered

    @property
    def withheld(self) -> dict[str, int]:
        """Windows by label whose start or end was withheld as uncertain; see `Pipeline`."""
        return self._inner.withheld

    @property
    def bridged(self) -> int:
        """Slots that the gap policy gave a value."""
        return self._behind.bridged

    def run(self, frames: Iterable[Frame]) -> Iterator[Output]:
        """Push frames one by one and give out each answer."""
        return map(self.push, frames)

    def run_many(self, frames: Iterable[Frame]) -> Output:
        """Answer all frames at once, and the end of the stream."""
        return self._merged([*map(self.push, frames), self.finish()])

    def score_windows(self, windows: Windows) -> Estimates:
        """Score windows that are already cut; see `Pipeline.score_windows`."""
        return self._inner.score_windows(windows)

    def interrupt(self) -> bool:
        """Make the call of the model that is in progress fail; callable from any thread."""
        return self._inner.interrupt()

    # --- samples ----------------------------------------------------------------------

    @np.errstate(all="ignore")
    def push(self, frame: Frame) -> Output:
        """Take samples in any order and return what is due: answers, and revisions of some.

        Raises:
            ShapeError: Channels or dtype are not those of the stream.
            ModelError: The frame belongs to another stream, or the session failed.
        """
        self._take(self._held.joined(self._rows_of(frame)))
        return self._collected()

    @np.errstate(all="ignore")
    def pass_time(self, passed_s: float) -> Output:
        """Let time go on without samples, and return what is due then.

        Args:
            passed_s: Since the last sample came.
        """
        self._watermark.pass_time(round(passed_s * 1e9))
        self._settle()
        return self._collected()

    @np.errstate(all="ignore")
    def finish(self) -> Output:
        """Wait for nothing any more, and return all that is left: the stream has ended.

        Samples that come all the same are late.
        """
        count = self._watermark.believe_held()
        if count:
            self._add(self._held)
        else:
            self._set_aside("future", self._held)
        self._held = self._held.take(slice(0, 0))
        self._settle()
        self._raise_to_end()
        return self._collected()

    def _raise_to_end(self) -> None:
        newest_ns = self._watermark.state.newest_ns
        if newest_ns is not None:
            self._watermark.raise_to(newest_ns + self._end_ns)
            self._release()

    @property
    def _end_ns(self) -> int:
        """How far the watermark must be ahead of the last sample for all to be answered."""
        silence_s = self.spec.window.silence_s or 0.0
        return self._grid.reach_ns + round(silence_s * 1e9) + self._grid.period_ns

    def _rows_of(self, frame: Frame) -> Rows:
        if frame.stream != self.stream:
            raise ModelError(
                f"a frame of stream {frame.stream!r}", expected=repr(self.stream), where="pipeline"
            )
        self._check_frame(frame)
        kept = _kept(frame.samples.dtype)
        if self._dtype is None:
            self._adopt(kept)
        # The source may use its buffers again.
        masks = masks_or_none(frame.quality)
        return Rows(
            frame.time_ns.copy(),
            frame.samples.astype(kept),
            None if masks is None else masks.copy(),
        )

    def _check_frame(self, frame: Frame) -> None:
        channels = len(self.spec.stream.channels)
        dtype = frame.samples.dtype
        fits = dtype.kind in "biuf" and self._dtype in (None, _kept(dtype))
        if frame.samples.shape[1] != channels or frame.time_ns.dtype != np.int64 or not fits:
            raise ShapeError(
                f"frame has samples {frame.samples.shape} {dtype} and times {frame.time_ns.dtype}",
                where=frame.stream,
                expected=f"{channels} channels of {self._dtype or 'a real number type'}, int64",
                remedy="A source must keep its channels and one sample type for the whole stream.",
            )

    def _adopt(self, dtype: np.dtype) -> None:
        """Take on the dtype of the first frame."""
        self._dtype = dtype
        none = Rows.none(len(self.spec.stream.channels), dtype)
        self._held = self._rows = self._late = none

    # --- event time -------------------------------------------------------------------

    def _take(self, rows: Rows) -> None:
        """Sort out which stamps are believed; go on with those, up to a clock set back."""
        sane = (rows.time_ns > NEVER_NS) & (rows.time_ns < -NEVER_NS)
        if not sane.all():
            self._set_aside("future", rows.take(~sane))
            rows = rows.take(sane)
        before = self._watermark.state
        believed, future, marks = self._watermark.admit(rows.time_ns)
        time_ns = rows.time_ns[believed]
        passed_ns = np.concatenate(([before.at_ns], marks[:-1])) - self._lateness_ns
        at = self._setback.where(time_ns, time_ns <= passed_ns[: len(time_ns)])
        if at is not None:
            self._set_back(rows, believed.item(at), before)
            return
        self._set_aside("future", rows.take(future))
        held = len(self._watermark.state.held_ns)
        self._held = rows.take(slice(len(rows) - held, len(rows)))
        self._sort_in(rows.take(believed), before.at_ns, marks)

    def _sort_in(self, rows: Rows, at_ns: int, marks: np.ndarray) -> None:
        """Take believed rows, and revise wherever the watermark passes the time for it."""
        if not len(rows):
            return
        is_late = rows.time_ns <= np.concatenate(([at_ns], marks[:-1]))
        first = 0
        if is_late.any() or len(self._late):
            laps = np.concatenate(([at_ns], marks)) // self._revise_ns
            for last in np.flatnonzero(np.diff(laps)).tolist():
                if len(self._late) or is_late[first:last].any():
                    self._sort_in_part(rows, is_late, marks, slice(first, last))
                    self._revise()
                    first = last
        self._sort_in_part(rows, is_late, marks, slice(first, len(rows)))

    def _sort_in_part(
        self, rows: Rows, is_late: np.ndarray, marks: np.ndarray, part: slice
    ) -> None:
        if part.start == part.stop:
            return
        some, late = rows.take(part), is_late[part]
        if late.any():
            self._sort_late(some, late, marks[part])
            some = some.take(~late)
        self._add(some)
        self._release(marks.item(part.stop - 1))

    def _sort_late(self, rows: Rows, late: np.ndarray, marks: np.ndarray) -> None:
        """Keep late rows for a revision, or set them aside."""
        # A late row does not move the watermark: after it is what was before it.
        is_too_late = rows.time_ns <= marks - self._lateness_ns
        self._set_aside("late", rows.take(late & is_too_late))
        self._late = self._late.joined(rows.take(late & ~is_too_late))

    def _add(self, rows: Rows) -> None:
        if len(rows):
            self._rows, lost = self._rows.merged(rows, _MOST_IN_A_SLOT, self._grid.period_ns)
            self._count(lost)

    def _count(self, lost: dict[str, int]) -> None:
        for reason, count in lost.items():
            self._lost[reason] += count

    def _set_aside(self, reason: str, rows: Rows) -> None:
        if len(rows):
            self._lost[reason] += len(rows)
            side = SideRows(
                "late" if reason == "late" else "future",
                rows.time_ns,
                rows.samples,
                masks_or_none(rows.quality),
            )
            nothing = self._inner.nothing
            self._outputs.append(msgspec.structs.replace(nothing, aside=(side,)))

    def _settle(self) -> None:
        """Revise and release as far as the watermark is."""
        self._revise()
        self._release()

    # --- a clock that was set back ------------------------------------------------------

    def _set_back(self, rows: Rows, at: int, before: WatermarkState) -> None:
        """Finish the stream as it was before row ``at``, and begin anew with that one."""
        self._watermark.state = before
        # None of those before tells of a clock set back.
        self._take(rows.take(slice(0, at)))
        self._settle()
        self._raise_to_end()
        last = self._behind.slot or 0
        time_ns = rows.time_ns.item(at)
        self._setback.state = None
        held, self._held = self._held, self._held.take(slice(0, 0))
        self._set_aside("future", held)
        self._watermark.state = WatermarkState(newest_ns=time_ns)
        # Samples of the new time that are not yet late may lie before this one.
        waits_ns = round(self._timing.delay_s * 1e9) + self._lateness_ns
        self._shift += max(0, last - self._grid.earliest(time_ns - waits_ns))
        self._behind.begin()
        self._begin()
        self._take(rows.take(slice(at, len(rows))))

    # --- slots ------------------------------------------------------------------------

    def _release(self, watermark_ns: int | None = None) -> None:
        """Make the slots that no sample on time can change any more."""
        at_ns = self._watermark.at_ns if watermark_ns is None else watermark_ns
        behind = self._behind
        if behind.slot is None:
            if not len(self._rows) or self._rows.time_ns.item(0) > at_ns:
                return
            behind.slot = self._first_slot()
        known = self._grid.known(self._rows, at_ns)
        if known >= behind.slot:
            self._make(behind.slot, known)
            self._forget(at_ns)

    def _first_slot(self) -> int:
        return self._grid.slot_of(self._rows.time_ns.item(0))

    def _make(self, first: int, last: int) -> None:
        """Make slots and push them, with a checkpoint every so many."""
        slots = self._grid.between(self._rows, first, last)
        cuts = self._past.cuts(slots.number)
        begins = cuts if cuts[:1] == [0] else [0, *cuts]
        incomplete = deque(slots.incomplete.tolist())
        for begin, end in zip(begins, [*begins[1:], len(slots)], strict=True):
            if begin in cuts:
                at = slots.number.item(begin)
                self._behind.slot = at
                self._pass_over(incomplete, at)
                self._past.remember(self._behind.stage())
            known = slots.number.item(end) - 1 if end < len(slots) else last
            self._pass_over(incomplete, known)
            for output in self._behind.feed(slots.take(slice(begin, end)), known, self._shift):
                self._say(output)
        self._behind.slot = last + 1

    def _pass_over(self, incomplete: deque[int], last: int) -> None:
        """Count slots up to ``last`` that lack a channel, and take them away."""
        while incomplete and incomplete[0] <= last:
            incomplete.popleft()
            self._behind.incomplete += 1

    def _say(self, output: Output) -> None:
        if not output.is_empty:
            self._outputs.append(self._past.say(output, is_again=self._is_replaying))

    # --- revisions --------------------------------------------------------------------

    def _revise(self) -> None:
        """Make the slots that late samples may have changed again, and tell what differs."""
        late, self._late = self._late, self._late.take(slice(0, 0))
        if not len(late):
            return
        late = self._within_reach(late)
        before = self._rows
        self._add(late)
        if not len(late) or self._is_same(before):
            return
        self._replay(self._grid.earliest(int(late.time_ns.min())))

    def _is_same(self, before: Rows) -> bool:
        """Whether late samples brought nothing new; their marks come with values."""
        rows = self._rows
        return len(rows) == len(before) and rows.samples.tobytes() == before.samples.tobytes()

    def _within_reach(self, late: Rows) -> Rows:
        """Set aside what lies before the oldest checkpoint."""
        slot = self._past.oldest
        if slot is None:
            return late
        is_within = (late.time_ns - self._grid.reach_ns) // self._grid.period_ns >= slot
        self._set_aside("late", late.take(~is_within))
        return late.take(is_within)

    def _replay(self, slot: int) -> None:
        """Go back to the last checkpoint before a slot, and come here again."""
        end, here = self._behind.slot, self._behind.stage()
        outputs, self._outputs = self._outputs, []
        rewound = self._past.rewind(slot)
        self._is_replaying = True
        try:
            self._behind.go_to(rewound.stage)
            if end is not None:
                first = self._behind.slot
                self._make(self._first_slot() if first is None else first, end - 1)
        except ModelError:
            # The model failed half way: what was told stands.
            self._past.undo(rewound)
            self._outputs = outputs
            self._behind.go_to(here)
            raise
        finally:
            self._is_replaying = False
        after, self._outputs = self._outputs, outputs
        changed = self._past.differences(rewound, after)
        if not changed.is_empty:
            self._outputs.append(msgspec.structs.replace(changed, started=self.started))

    def _forget(self, at_ns: int) -> None:
        """Let go of everything that no sample within the allowed lateness can change."""
        slot = self._behind.slot or 0
        if self._lateness_ns:
            # What waits for its revision was in time when it came.
            reach_ns = min([at_ns - self._lateness_ns, *self._late.time_ns.tolist()])
            oldest = self._past.forget(self._grid.earliest(reach_ns))
            slot = self._first_slot() if oldest is None else oldest
        oldest_ns = self._grid.oldest_ns(slot)
        # Only now and then: whoever lets go of a row copies all the others.
        old = int(np.searchsorted(self._rows.time_ns, oldest_ns))
        if old > len(self._rows) // 2:
            self._rows = self._rows.take(slice(old, len(self._rows)))

    def _forget_past(self) -> None:
        """End what can be revised: from here on answers are made otherwise."""
        self._late, late = self._late.take(slice(0, 0)), self._late
        self._set_aside("late", late)
        self._past.begin(self._inner.nothing)
        self._past.remember(self._behind.stage())

    # --- giving out -------------------------------------------------------------------

    def _collected(self) -> Output:
        outputs, self._outputs = self._outputs, []
        return self._merged(outputs)

    def _merged(self, outputs: Sequence[Output]) -> Output:
        nothing = self._inner.nothing
        estimates = joined_estimates([one.estimates for one in outputs], nothing.estimates)
        gone = [one.retracted for one in outputs if one.retracted is not None]
        if estimates.revision is None:
            estimates = msgspec.structs.replace(
                estimates, revision=np.zeros(len(estimates), np.int64)
            )
        return Output(
            self.stream,
            estimates,
            tuple(decision for one in outputs for decision in one.decisions),
            joined_estimates(gone, nothing.estimates) if gone else None,
            tuple(side for one in outputs for side in one.aside),
            self.started if any(one.started is not None for one in outputs) else None,
        )

    # --- changing ---------------------------------------------------------------------

    def activate(self, layers: Sequence[Layer]) -> None:
        """Replace the active layers, from the next slot on; what is before is final.

        Raises:
            BundleError: Two layers have one kind, or one is for another base.
            ShapeError: A layer's lengths do not fit the model.
        """
        self._inner.activate(layers)
        self._forget_past()

    def take_over(self, other: Pipeline | TimedPipeline) -> None:
        """Go on where ``other``, the pipeline this one replaces, stands; see `Pipeline`.

        With the same grid no sample that waits is lost. ``other`` must not be used after.
        """
        if not isinstance(other, TimedPipeline):
            self._inner.take_over(other)
            self._forget_past()
            return
        self._inner.take_over(other._inner)  # noqa: SLF001 - our own kind
        if self.spec.stream == other.spec.stream:
            self._adopt_waiting(other)
        self._lost = dict(other._lost)  # noqa: SLF001
        self._forget_past()

    def _adopt_waiting(self, other: TimedPipeline) -> None:
        self._watermark.state = other._watermark.state
        self._dtype, self._held, self._rows = other._dtype, other._held, other._rows
        self._setback.state = other._setback.state
        self._late, self._shift = other._late, other._shift
        is_same = self.spec.window == other.spec.window
        self._behind.adopt(other._behind, is_same_window=is_same)

    # --- state ------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Return everything needed to go on in another process, but not the layers."""
        checkpoints, ledger = self._past.state()
        return msgspec.msgpack.encode(
            _Snapshot(
                version=_SNAPSHOT_VERSION,
                stream=self.stream,
                need=self._need,
                watermark=self._watermark.state,
                held=self._held.state(),
                rows=self._rows.state(),
                late=self._late.state(),
                back=self._setback.state,
                shift=self._shift,
                stage=self._behind.stage(),
                checkpoints=checkpoints,
                ledger=ledger,
                discarded=self._lost,
            )
        )

    def restore(self, snapshot: bytes, *, base: str | None = None) -> None:
        """Go on from `snapshot`'s bytes; layers are not part of them.

        Args:
            snapshot: The bytes.
            base: Digest of the base that made them; None for this one. From another
                base, what was answered before can not be revised.

        Raises:
            ModelError: They are damaged, or of another version, stream, base or window.
        """
        found = self._decoded(snapshot)
        is_other = base is not None and base != self.base
        if is_other and found.need != self._need:
            # Its slots are others: what waits there means nothing here.
            self._inner.restore(found.stage.pipeline, base=base)
            self._forget_past()
            return
        channels = len(self.spec.stream.channels)
        parts = [Rows.of_state(one, channels) for one in (found.held, found.rows, found.late)]
        ledger = Ledger(self._inner.nothing)
        if not is_other:
            ledger.restore(found.ledger)
        self._behind.go_to(found.stage, base=base)
        self._past.go_on(found.checkpoints, ledger)
        self._held, self._rows, self._late = parts
        self._restore_rest(found)
        if is_other:
            self._forget_past()

    def _restore_rest(self, found: _Snapshot) -> None:
        # What a push that failed half way has told belongs to what is undone.
        self._outputs = []
        self._watermark.state = found.watermark
        self._setback.state = found.back
        self._shift, self._lost = found.shift, dict(found.discarded)
        is_begun = found.watermark != WatermarkState() or len(self._held)
        self._dtype = self._rows.samples.dtype if is_begun else None

    @property
    def _need(self) -> bytes:
        """What slots and windows depend on."""
        return msgspec.json.encode((self.spec.stream, self.spec.window))

    def _decoded(self, snapshot: bytes) -> _Snapshot:
        where = f"snapshot of {self.stream}"
        remedy = "Start without the snapshot; the samples in it are lost."
        try:
            found = msgspec.msgpack.decode(snapshot, type=_Snapshot)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ModelError(str(error), where=where, remedy=remedy) from error
        if (found.version, found.stream) != (_SNAPSHOT_VERSION, self.stream):
            raise ModelError(
                f"version and stream are {(found.version, found.stream)}",
                where=where,
                expected=str((_SNAPSHOT_VERSION, self.stream)),
                remedy=remedy,
            )
        return found


def _kept(dtype: np.dtype) -> np.dtype:
    """Return the dtype in which samples are kept."""
    return np.dtype(np.float32) if dtype.kind == "f" else dtype.newbyteorder("=")
