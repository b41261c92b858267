"""The loop of a keyed stream: rows of many devices in, the results of each out.

Threads: one for the source, one for the sinks that are told at once, one that decides
and commits. State crosses between them only through the queues of `Inbox` and `Shower`.

Delivery: the source's position, the snapshots of all devices that were heard of, and how
far files have come are committed in one transaction, so that a recording is neither lost
nor doubled across a crash. A live source loses at most what came since the last commit.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from edge_runtime import registry
from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.clock import SystemClock
from edge_runtime.config import DeviceConfig, StreamConfig, split_kind
from edge_runtime.errors import ConfigError
from edge_runtime.metrics import Family, Histogram
from edge_runtime.modes.crew import Crew
from edge_runtime.modes.inbox import Inbox
from edge_runtime.modes.keyed.quiet import Quiet
from edge_runtime.modes.keyed.split import split
from edge_runtime.modes.keyed.status import KeyedStatus
from edge_runtime.modes.keyed.store import KeyStore
from edge_runtime.modes.models import TimedSession, stage_times
from edge_runtime.modes.reader import Reader
from edge_runtime.modes.showing import Files, Shower, open_sinks
from edge_runtime.modes.status import Made
from edge_runtime.pipeline import (
    AnyPipeline,
    KeyedPipelines,
    Pipeline,
    TimedPipeline,
    timed_if_asked,
)
from edge_runtime.ports import Choice, Clock, Source, SourceHealth
from edge_runtime.profiles import explain_choice
from edge_runtime.sync.hold import hold
from edge_runtime.sync.state import StateStore
from edge_runtime.types import Frame, Output
from edge_runtime.version import __version__

if TYPE_CHECKING:
    from edge_runtime.modes.exposition import StreamNumbers

__all__ = ["KeyedLimits", "KeyedStream"]

# Frames that wait, besides those in hand; when full, the source waits (policy: block).
_INBOX_FRAMES = 64
# Rows that are handled together, where so many wait: each device's are one push.
_MOST_ROWS = 8192
# Results that are written together at the end of a stream.
_MOST_OUTPUTS = 256
_WAIT_S = 0.5
_IDLE_S = 5.0
_NEVER_NS = 1 << 62
_EVICTED = "Times a device was put away to make room for another."


class KeyedLimits(msgspec.Struct, frozen=True):
    """How much a keyed stream takes on.

    Attributes:
        live: Devices in memory; those not heard of for longest sleep on the disk.
        keys: Devices altogether; rows of further ones are left out and counted.
    """

    live: Annotated[int, msgspec.Meta(ge=1)] = 1000
    keys: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000


class _Ended(msgspec.Struct, frozen=True):
    """The source delivers no more: it has ended, or the stream does."""

    is_exhausted: bool


_Item = Frame | _Ended


class KeyedStream:
    """Answers every device of one source as if it were alone.

    Args:
        config: Of one stream, whose source has a ``key``; its sinks; where state is kept.
        limits: How much it takes on.
        clock: Tells time; the machine's own by default.

    Raises:
        ConfigError: There is more than one stream, or a sink is for one device alone.
    """

    def __init__(
        self,
        config: DeviceConfig,
        *,
        limits: KeyedLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._config = config
        self._name, self._stream = _only_stream(config)
        for options in config.sinks:
            _check_sink(split_kind(options)[0])
        self._limits = limits or KeyedLimits()
        self._clock = clock or SystemClock()
        self._inbox: Inbox[_Item] = Inbox(_INBOX_FRAMES)
        self._stop = threading.Event()
        self._closing = threading.Event()
        self._crew = Crew(self._stop)
        self._made = Made()
        self._left_out: Counter[str] = Counter()
        self._outputs: list[Output] = []
        self._pushes = Histogram()
        self._frames = 0
        self._samples = 0
        self._due_ns = _NEVER_NS
        self._status = KeyedStatus(self._name)
        self._source: Source | None = None
        self._shower: Shower | None = None

    def run(self) -> None:
        """Run until the source has ended or `stop` is called.

        Raises:
            EdgeError: It could not be started, a model failed, or a thread did; started
                again it goes on from the last commit.
        """
        with ExitStack() as stack:
            self._open(stack)
            self._work()
        if self._crew.failure is not None:
            raise self._crew.failure

    def stop(self) -> None:
        """Commit and end; callable from any thread and from a signal handler."""
        self._stop.set()
        # A signal handler may have interrupted this thread's own use of the source.
        threading.Thread(target=self._wake, name="stop", daemon=True).start()

    def _wake(self) -> None:
        if self._source is not None:
            self._source.close()

    def status(self) -> KeyedStatus:
        """Return what it has done up to the last commit; callable from any thread."""
        return self._status

    # --- start ------------------------------------------------------------------------

    def _open(self, stack: ExitStack) -> None:
        """Open everything in the order of its need; the stack closes it in reverse."""
        folder = Path(self._config.state)
        stack.enter_context(hold(folder))
        state = StateStore(folder / "state.db", self._clock)
        stack.callback(state.close)
        epoch, _ = state.start()
        self._store = KeyStore(folder / "keys.db", self._clock)
        stack.callback(self._store.close)
        self._position = self._store.position(self._name)
        self._open_model(stack)
        self._open_sinks(stack, epoch)
        # Else what is written before the first commit would be there twice after a crash.
        self._commit()
        self._start_metrics(stack)
        self._start_source(stack)

    def _open_model(self, stack: ExitStack) -> None:
        bundle = load_bundle(self._stream.model.bundle)
        choice = explain_choice(bundle, self._stream.model.choice, self._config.profiles).choice
        self._session = TimedSession(open_session(bundle, choice), Histogram())
        stack.callback(self._session.close)
        self._model = trial = self._pipeline(bundle, choice)
        self._keyed: KeyedPipelines[str] = KeyedPipelines(
            lambda _: self._pipeline(bundle, choice),
            most_live=self._limits.live,
            snapshots=self._store,
        )
        stack.callback(self._keyed.let_go)
        if trial.scorer.has_memory:
            stack.callback(trial.scorer.session.close)
        self._quiet = Quiet(None, 0.0, self._clock)
        if isinstance(trial, TimedPipeline):
            self._quiet = Quiet(trial.idle_s, trial.settles_s, self._clock)

    def _pipeline(self, bundle: Bundle, choice: Choice) -> AnyPipeline:
        pipeline = Pipeline(
            bundle.spec,
            self._session.fork(),
            base=bundle.digest,
            stream=self._name,
            micro_batch=choice.micro_batch,
        )
        return timed_if_asked(pipeline, self._stream.time)

    def _open_sinks(self, stack: ExitStack, epoch: int) -> None:
        files, prompt = open_sinks(self._config, stack, epoch)
        self._files = Files(files, is_durable=self._config.outbox.durable == "full")
        self._files.resume(self._store.marks())
        if prompt:
            self._shower = Shower(prompt, lambda: None)
            self._crew.start(stack, "sinks", self._shower.run)
            stack.callback(self._shower.finish)

    def _start_metrics(self, stack: ExitStack) -> None:
        if self._config.metrics is None:
            return
        from edge_runtime.modes.exposition import MetricsServer

        where = self._config.metrics
        server = MetricsServer(where.host, where.port, self.metrics)
        self._crew.start(stack, "metrics", server.run)
        stack.callback(server.stop)

    def _start_source(self, stack: ExitStack) -> None:
        """Open the source here, so that a wrong one fails the start, and read it in a thread."""
        kind, rest = split_kind(self._stream.source)
        source = registry.create("sources", kind, rest, f"streams.{self._name}.source")
        self._made.health = getattr(source, "health", SourceHealth)
        need = self._model.spec.stream
        reader = Reader(
            self._name,
            source,
            open_at=lambda index: source.open(self._name, need, index),
            offer=self._offer,
            made=self._made,
            stop=self._stop,
            closing=self._closing,
        )
        reader.open(self._position)
        self._source = source
        self._crew.start(stack, "source", lambda: self._read(source, reader))
        # Run first when the stack unwinds: nobody takes frames any more.
        stack.callback(source.close)
        stack.callback(self._closing.set)

    # --- the source's thread ------------------------------------------------------------

    def _read(self, source: Source, reader: Reader) -> None:
        try:
            reader.run()
        finally:
            self._offer(_Ended(source.is_exhausted))

    def _offer(self, item: _Item) -> None:
        """Hand something on; waits while nobody takes it."""
        while not (self._closing.is_set() or self._inbox.put(item, _WAIT_S)):
            pass

    # --- deciding -------------------------------------------------------------------------

    def _work(self) -> None:
        is_over = False
        while not is_over:
            item = self._inbox.get(self._wait_s() if self._inbox.is_empty else 0.0)
            if isinstance(item, Frame):
                self._push(self._gathered(item))
            elif item is not None:
                is_over = True
                self._finish(item)
            for key, passed_s in self._quiet.due():
                self._pass_time(key, passed_s)
            self._write()
            if self._clock.monotonic_ns() >= self._due_ns:
                self._commit()
        self._commit()

    def _wait_s(self) -> float:
        next_ns = min(self._due_ns, self._quiet.next_ns)
        return min(_IDLE_S, max(0, next_ns - self._clock.monotonic_ns()) / 1e9)

    def _gathered(self, first: Frame) -> list[Frame]:
        """Take along what waits already: one push for a device costs less than many."""
        frames, rows = [first], len(first)
        while rows < _MOST_ROWS and (item := self._inbox.get(0.0)) is not None:
            if not isinstance(item, Frame):
                self._inbox.put_back(item)
                break
            frames.append(item)
            rows += len(item)
        return frames

    def _push(self, frames: Sequence[Frame]) -> None:
        start_ns = time.perf_counter_ns()
        for key, frame in split(frames):
            if key is None:
                self._left_out["no_key"] += len(frame)
            elif len(self._keyed) >= self._limits.keys and key not in self._keyed:
                self._left_out["too_many_keys"] += len(frame)
            else:
                self._quiet.note(key)
                self._note(key, self._keyed.push(key, frame))
        self._pushes.note(time.perf_counter_ns() - start_ns)
        self._position = frames[-1].index + len(frames[-1])
        self._frames += len(frames)
        self._samples += sum(map(len, frames))
        self._make_due()

    def _pass_time(self, key: str, passed_s: float) -> None:
        pipeline = self._keyed.of(key)
        if isinstance(pipeline, TimedPipeline):
            self._note(key, pipeline.pass_time(passed_s))
            self._make_due()

    def _finish(self, ended: _Ended) -> None:
        """Answer what waits, if no sample comes any more."""
        if not ended.is_exhausted:
            return
        for key, output in self._keyed.finish():
            self._note(key, output)
            if len(self._outputs) >= _MOST_OUTPUTS:
                self._write()

    def _make_due(self) -> None:
        if self._due_ns == _NEVER_NS:
            commit_ns = round(self._config.outbox.commit_s * 1e9)
            self._due_ns = self._clock.monotonic_ns() + commit_ns

    def _note(self, key: str, output: Output) -> None:
        if output.is_empty:
            return
        self._made.estimates += len(output.estimates)
        self._made.decisions += len(output.decisions)
        if output.estimates.quality is not None:
            self._made.note_suspect(output.estimates.quality)
        self._outputs.append(msgspec.structs.replace(output, device=key))

    # --- giving out -----------------------------------------------------------------------

    def _write(self) -> None:
        """Hand results on; what files get before the next commit, a crash takes back."""
        outputs, self._outputs = self._outputs, []
        if not outputs:
            return
        if not self._files.is_empty:
            self._files.write(outputs)
        if self._shower is not None:
            for output in outputs:
                self._shower.put(output)

    def _commit(self) -> None:
        self._write()
        self._keyed.save()
        self._store.commit(self._name, self._position, self._files.write(()))
        self._due_ns = _NEVER_NS
        self._status = self._current_status()

    def _current_status(self) -> KeyedStatus:
        keyed, tally, made = self._keyed, self._keyed.tally, self._made

        def counted(wanted: str) -> dict[str, int]:
            return {name: count for (what, name), count in tally.items() if what == wanted}

        return KeyedStatus(
            stream=self._name,
            position=self._position,
            base=self._model.base,
            effective_id=self._model.effective_id,
            devices=len(keyed),
            live=keyed.live,
            evicted=keyed.evicted,
            estimates=made.estimates,
            decisions=made.decisions,
            discarded=counted("discarded") | self._left_out,
            withheld=counted("withheld"),
            stages=counted("answered"),
            bridged=tally["bridged", ""],
            suspect=made.suspect,
            unusable=keyed.unusable,
            restarts=made.restarts,
            source=made.health(),
            blocks_lost=self._files.blocks_lost + (self._shower.blocks_lost if self._shower else 0),
        )

    # --- metrics --------------------------------------------------------------------------

    def metrics(self) -> Iterator[Family]:
        """Return totals over all devices; callable from any thread while it runs."""
        from edge_runtime.modes.exposition import families_of

        now = self._status
        yield from families_of(
            {self._name: self._numbers(now)},
            device={"device": self._config.device, "version": __version__},
            outbox={},
            lost={"sink_failed": now.blocks_lost},
            link={},
            updates={},
            tapes={},
        )
        of = {"stream": self._name}
        yield Family("devices_known", "gauge", "Devices of a keyed stream.", ((of, now.devices),))
        yield Family("devices_live", "gauge", "Of these, in memory.", ((of, now.live),))
        yield Family("devices_evicted_total", "counter", _EVICTED, ((of, now.evicted),))

    def _numbers(self, now: KeyedStatus) -> StreamNumbers:
        from edge_runtime.modes.exposition import StreamNumbers

        spec = self._model.spec
        return StreamNumbers(
            counts={
                "frames_received_total": self._frames,
                "samples_received_total": self._samples,
                "windows_scored_total": now.estimates,
                "decisions_made_total": now.decisions,
                "decisions_withheld_total": sum(now.withheld.values()),
                "source_restarts_total": now.restarts,
                "samples_lost_total": now.source.lost_samples,
                "slots_bridged_total": now.bridged,
            },
            discarded=now.discarded,
            push=self._pushes,
            model=f"{spec.name}@{spec.version}",
            inference=self._session.answers,
            facts={"base": now.base, "effective_id": now.effective_id},
            faults=now.source.faults,
            suspect=now.suspect,
            stages=now.stages,
            inferences=stage_times(spec, self._session),
            jitter_s=now.source.jitter_s,
        )


def _only_stream(config: DeviceConfig) -> tuple[str, StreamConfig]:
    if len(config.streams) != 1:
        raise ConfigError(
            f"there are {len(config.streams)} streams",
            where="streams",
            expected="one, whose source is of many devices",
            remedy="Run a process for each of them.",
        )
    return next(iter(config.streams.items()))


def _check_sink(kind: str) -> None:
    if getattr(registry.find("sinks", kind), "is_of_one_device", False):
        raise ConfigError(
            f"sink {kind!r} shows one device, and the stream is of many",
            where="sinks",
            expected="a sink whose rows say which device they are of",
            remedy="Use jsonl, webhook or terminal.",
        )
