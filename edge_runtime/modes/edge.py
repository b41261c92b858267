"""Edge mode: sources in, decisions out, records kept until the cloud has them.

Threads: one per source, one pipeline, one storage writer, one network, one for the
sinks that are told at once. State crosses between them only through the queues made
here, in `writer` and in `showing`.

Delivery: source position, pipeline snapshot, the records that came of them and how
far files have come are committed in one transaction, so that a recording is neither
lost nor doubled across a crash. A live sensor loses at most the open group commit, and
the next start reports it as a gap.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_runtime import registry
from edge_runtime.clock import SystemClock
from edge_runtime.config import DeviceConfig, SyncConfig
from edge_runtime.config.device import split_kind
from edge_runtime.errors import StoreError
from edge_runtime.modes.boot import boot_stream
from edge_runtime.modes.commands import set_log_level
from edge_runtime.modes.crew import Crew
from edge_runtime.modes.failures import Failures
from edge_runtime.modes.gathering import Gatherer
from edge_runtime.modes.idling import Idling
from edge_runtime.modes.inbox import Inbox
from edge_runtime.modes.models import SharedModels
from edge_runtime.modes.reader import Reader, is_live
from edge_runtime.modes.serving import Commit, Serving
from edge_runtime.modes.showing import Files, Shower, open_sinks
from edge_runtime.modes.status import DeviceStatus, Made, StreamStatus, stream_status
from edge_runtime.modes.taping import open_recorder
from edge_runtime.modes.updates import StreamUpdates
from edge_runtime.modes.uplink import Connect, Uplink
from edge_runtime.modes.vitals import Crash, Vitals
from edge_runtime.modes.watchdog import Watchdog
from edge_runtime.modes.writer import Writer, gaps_of, most_windows
from edge_runtime.ports import Clock, Session, Source, SourceHealth
from edge_runtime.sources import Pace
from edge_runtime.sync.hold import hold
from edge_runtime.sync.identity.folder import IdentityFolder
from edge_runtime.sync.outbox import LossReason, Outbox, OutboxFullError, OutboxStats
from edge_runtime.sync.paho import PahoTransport
from edge_runtime.sync.state import StateStore
from edge_runtime.tape import Recorder
from edge_runtime.types import Frame, Output, Upload
from edge_runtime.version import __version__

if TYPE_CHECKING:
    from edge_runtime.metrics import Family
    from edge_runtime.update.trust import Trust

__all__ = ["DeviceStatus", "EdgeDevice", "StreamStatus"]

log = logging.getLogger(__name__)

OnEvent = Callable[[str, Mapping[str, object]], None]

# Frames that wait for the pipeline, or one for each of more streams, besides those it
# has in hand; when full, a source waits (policy: block).
_INBOX_FRAMES = 8
# How long a thread waits for room in the inbox before it looks whether it should stop.
_WAIT_S = 0.5
# How long the pipeline waits when nothing comes; whoever stops it wakes it.
_IDLE_S = 5.0
_NEVER_NS = 1 << 62


class _Ended(msgspec.Struct, frozen=True):
    """A source delivers no more: a recording has ended, or the device does."""

    stream: str
    is_exhausted: bool


class _Call(msgspec.Struct, frozen=True, eq=False):
    """Something to do on the pipeline thread, between two windows."""

    do: Callable[[], None]


_Item = Frame | _Ended | _Call


class EdgeDevice:
    """A device: every stream of one configuration, on this machine.

    Args:
        config: What to run.
        clock: Tells time; the machine's own by default.
        paces: Replaces the pace of a recording, by stream; for simulators.
        on_event: Called with a name and facts, on the device's threads; must be quick.
        connect: Makes the transport; for tests and other brokers.
        vitals: Where to give signs of life; a supervisor reads them.
        at_step: Called at each step of a row on its way through the outbox, see
            `Outbox.open`; fault tests end the process there.
        crashes: What the bases did to this device before, by stream, as its
            supervisor has seen it.
    """

    def __init__(
        self,
        config: DeviceConfig,
        *,
        clock: Clock | None = None,
        paces: Mapping[str, Pace] | None = None,
        on_event: OnEvent | None = None,
        connect: Connect = PahoTransport,
        vitals: Vitals | None = None,
        crashes: Mapping[str, Crash] | None = None,
        at_step: Callable[[str], None] | None = None,
    ) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._paces = paces or {}
        self._on_event = on_event
        self._connect = connect
        self._vitals = vitals or Vitals()
        self._crashes = crashes or {}
        self._at_step = at_step or (lambda _step: None)
        self._inbox: Inbox[_Item] = Inbox(max(_INBOX_FRAMES, len(config.streams)))
        self._stop = threading.Event()
        self._closing = threading.Event()
        self._crew = Crew(self._stop)
        self._delivering: set[str] = set()
        self._sources: dict[str, Source] = {}
        self._made = {name: Made() for name in config.streams}
        self._next_commit_ns = _NEVER_NS
        self._streams: dict[str, StreamUpdates] = {}
        self._idling = Idling(self._streams, self._clock)
        self._models = SharedModels()
        self._uplink: Uplink | None = None
        self._stats: Callable[[], OutboxStats]
        self._state_written: Callable[[], int]
        self._writer: Writer | None = None
        self._shower: Shower | None = None
        self._files = Files({}, is_durable=True)
        self._tapes: dict[str, Recorder] = {}
        self._final: DeviceStatus | None = None
        self._failures = Failures(
            self._streams,
            tuple(config.streams),
            self._vitals,
            on_pipeline=self._call,
            on_agents=self._on_agents,
            on_event=self._fell_back,
        )
        self._gatherer = Gatherer(self._inbox, self._common_session, self._failures.may_go_at_once)

    def run(self, *, drain_s: float = 10.0, stays: bool = False) -> None:
        """Run until every recording has ended or `stop` is called.

        Args:
            drain_s: At the end, wait so long for the cloud to acknowledge what is left.
            stays: Keep syncing after the recordings have ended, until `stop`.

        Raises:
            EdgeError: A stream could not be started, or a thread failed.
        """
        with ExitStack() as stack:
            self._open(stack)
            self._decide(float("inf") if stays else drain_s)
        if self._crew.failure is not None:
            raise self._crew.failure

    def stop(self) -> None:
        """Flush and end; callable from any thread and from a signal handler."""
        self._stop.set()
        # A signal handler may have interrupted the pipeline's own use of the inbox.
        threading.Thread(target=self._wake, name="stop", daemon=True).start()

    def _wake(self) -> None:
        """Let every thread that waits look whether it should stop."""
        for source in tuple(self._sources.values()):
            source.close()
        self._offer(_Call(lambda: None))

    def status(self) -> DeviceStatus:
        """Return what the device is doing, or did last; callable from any thread."""
        return self._final or self._current_status()

    def _current_status(self) -> DeviceStatus:
        uplink = self._uplink
        return DeviceStatus(
            device=self._config.device,
            streams={name: self._stream_status(name) for name in self._config.streams},
            backlog_rows=uplink.backlog_rows if uplink else 0,
            is_connected=uplink.is_connected if uplink else False,
            counters=(uplink.counters() if uplink else {})
            | {"sink_blocks_lost": self._blocks_lost}
            | self._taped(),
        )

    @property
    def _blocks_lost(self) -> int:
        return self._files.blocks_lost + (self._shower.blocks_lost if self._shower else 0)

    def _taped(self) -> dict[str, int]:
        """Return frames kept and not kept by all tapes; nothing without any."""
        if not self._tapes:
            return {}
        tapes = tuple(self._tapes.values())
        return {
            "tape_frames": sum(tape.frames for tape in tapes),
            "tape_frames_discarded": sum(tape.discarded.total() for tape in tapes),
        }

    def _stream_status(self, name: str) -> StreamStatus:
        serving = self._streams[name].serving if name in self._streams else None
        return stream_status(self._made[name], serving, self._failures.lost(name))

    def metrics(self) -> Iterator[Family]:
        """Return everything this device counts; callable from any thread while it runs."""
        from edge_runtime.modes.exposition import families_of, numbers_of

        uplink, outbox = self._uplink, self._stats()
        blocks = {"sink_failed": self._blocks_lost}
        return families_of(
            {
                name: numbers_of(self._made[name], stream.serving, self._failures.lost(name))
                for name, stream in self._streams.items()
            },
            device={"device": self._config.device, "version": __version__},
            outbox={
                "outbox_rows": outbox.rows,
                "outbox_bytes": outbox.bytes,
                "outbox_written_bytes_total": outbox.written_bytes,
                "state_written_bytes_total": self._state_written(),
            },
            lost=outbox.discarded | blocks,
            tapes=self._tapes,
            link=uplink.counters() if uplink else {},
            updates=uplink.reports() if uplink else {},
        )

    # --- start ------------------------------------------------------------------

    def _open(self, stack: ExitStack) -> None:
        """Open everything in the order of its need; the stack closes it in reverse."""
        folder = Path(self._config.state)
        stack.enter_context(hold(folder))
        state = StateStore(folder / "state.db", self._clock)
        stack.callback(state.close)
        epoch, incarnation = state.start()
        outbox = self._opened_outbox(epoch, incarnation)
        stack.callback(outbox.close)
        stack.callback(self._note_end, state, outbox)
        stack.callback(self._remember_status)
        self._start_sinks(stack, outbox, epoch)
        trust, proofs = _trust_of(self._config), SharedModels()
        for name in self._config.streams:
            self._streams[name] = boot_stream(
                self._config,
                name,
                state=state,
                outbox=outbox,
                trust=trust,
                clock=self._clock,
                models=self._models,
                proofs=proofs,
                vitals=self._vitals,
                crash=self._crashes.get(name),
                keeps_outputs=not self._files.is_empty,
            )
        stack.callback(self._failures.close)
        self._start_watchdog(stack)
        self._start_metrics(stack, state, outbox)
        self._start_network(stack, state, outbox)
        self._open_tapes(stack, epoch, incarnation)
        self._start_writer(stack, outbox)
        for name in self._config.streams:
            self._start_source(stack, name, outbox)

    def _note_end(self, state: StateStore, outbox: Outbox) -> None:
        """Every thread has ended: unless one failed, all that was made is committed."""
        if self._crew.failure is None:
            with suppress(StoreError):
                outbox.end(state.written())

    def _remember_status(self) -> None:
        """Every thread has ended and the outbox is about to close."""
        self._final = self._current_status()

    def _opened_outbox(self, epoch: int, incarnation: int) -> Outbox:
        outbox = Outbox.open(
            Path(self._config.state) / "outbox.db",
            epoch=epoch,
            incarnation=incarnation,
            config=self._config.outbox,
            limits=self._config.limits,
            clock=self._clock,
            at_step=self._at_step,
        )
        if outbox.set_aside is not None:
            self._event("outbox.set_aside", {"path": str(outbox.set_aside)})
        # A disk that is full must not keep the device from deciding.
        with suppress(OutboxFullError):
            outbox.begin()
        return outbox

    def _start_watchdog(self, stack: ExitStack) -> None:
        self._tell_bases()
        watchdog = Watchdog(
            self._vitals,
            limit_s=self._config.watchdog_s,
            interrupt=self._interrupt,
        )
        self._crew.start(stack, "watchdog", watchdog.run)
        stack.callback(watchdog.stop)

    def _interrupt(self, number: int) -> bool:
        stream = list(self._streams.values())[number]
        return stream.serving.pipeline.interrupt()

    def _tell_bases(self) -> None:
        """Let a supervisor know whom to blame."""
        bases = {name: stream.serving.pipeline.base for name, stream in self._streams.items()}
        self._vitals.tell(self._config.watchdog_s, bases)

    def _start_network(self, stack: ExitStack, state: StateStore, outbox: Outbox) -> None:
        """Without a broker in the configuration nothing leaves the device, and no thread starts."""
        if self._config.sync is None:
            for stream in self._streams.values():
                # What a stopped update asks for needs a link; the boot has come up all the same.
                stream.agent.on_booted()
            return
        sync = self._start_renewal(stack, self._config.sync)
        transport = self._connect(sync, self._config.device, self._clock)
        uplink = Uplink(
            self._config,
            self._streams,
            transport,
            state,
            outbox,
            clock=self._clock,
            on_pipeline=self._call,
            on_event=self._event,
            commands={
                "status": lambda _: msgspec.to_builtins(self._current_status()),
                "outbox": lambda _: msgspec.to_builtins(outbox.stats()),
                "log-level": set_log_level,
            },
        )
        self._uplink = uplink
        self._crew.start(stack, "network", uplink.run)
        stack.callback(uplink.stop)

    def _start_renewal(self, stack: ExitStack, sync: SyncConfig) -> SyncConfig:
        """Complete the link by the device's identity, and keep that from growing old."""
        folder = IdentityFolder(self._config.identity)
        completed = folder.completed(sync)
        if completed is sync:
            return sync
        from edge_runtime.sync.identity.renewal import Renewal

        renewal = Renewal(folder, self._clock)
        self._crew.start(stack, "identity", renewal.run)
        stack.callback(renewal.stop)
        return completed

    def _start_metrics(self, stack: ExitStack, state: StateStore, outbox: Outbox) -> None:
        self._stats, self._state_written = outbox.stats, state.written
        if self._config.metrics is None:
            return
        # The standard library's HTTP server takes memory that most devices can keep.
        from edge_runtime.modes.exposition import MetricsServer

        where = self._config.metrics
        server = MetricsServer(where.host, where.port, self.metrics)
        self._crew.start(stack, "metrics", server.run)
        stack.callback(server.stop)
        self._event("metrics.served", {"host": where.host, "port": server.port})

    def _start_sinks(self, stack: ExitStack, outbox: Outbox, epoch: int) -> None:
        files, prompt = open_sinks(self._config, stack, epoch)
        self._files = Files(files, is_durable=True)
        self._files.resume(outbox.sink_marks())
        if not self._files.is_empty:
            # Else what is written before the first commit would be there twice after a crash.
            # A disk that is full must not keep the device from deciding.
            with suppress(OutboxFullError):
                outbox.keep_marks(self._files.write(()))
        if prompt:
            self._shower = Shower(prompt, self._vitals.beat)
            self._crew.start(stack, "sinks", self._shower.run)
            stack.callback(self._shower.finish)

    def _open_tapes(self, stack: ExitStack, epoch: int, incarnation: int) -> None:
        for name, stream in self._streams.items():
            tape = open_recorder(
                self._config,
                stream.serving,
                epoch=epoch,
                incarnation=incarnation,
                clock=self._clock,
            )
            if tape is not None:
                stack.callback(tape.close)
                self._tapes[name] = tape

    def _start_writer(self, stack: ExitStack, outbox: Outbox) -> None:
        uploads: dict[str, Upload] = {
            name: self._config.kept(name) for name in self._config.streams
        }
        is_stopping = self._stop.is_set
        writer = Writer(outbox, self._files, uploads, self._committed, is_stopping, self._tapes)
        self._writer = writer
        self._crew.start(stack, "writer", writer.run)
        stack.callback(writer.finish)

    def _start_source(self, stack: ExitStack, name: str, outbox: Outbox) -> None:
        """Open a source here, so that a wrong one fails the start, and read it in a thread."""
        kind, rest = split_kind(self._config.streams[name].source)
        source = registry.create("sources", kind, rest, f"streams.{name}.source")
        if name in self._paces:
            source.pace = self._paces[name]
        self._made[name].health = getattr(source, "health", SourceHealth)
        serving = self._streams[name].serving
        reader = Reader(
            name,
            source,
            open_at=lambda index: source.open(name, serving.pipeline.spec.stream, index),
            offer=self._offer,
            made=self._made[name],
            stop=self._stop,
            closing=self._closing,
        )
        reader.open(serving.position)
        if is_live(source):
            self._report_missing(name, outbox)
        self._sources[name] = source
        self._delivering.add(name)
        self._crew.start(stack, f"source-{name}", lambda: self._read(name, reader))
        # Run first when the stack unwinds: nobody takes frames any more.
        stack.callback(source.close)
        stack.callback(self._closing.set)

    def _report_missing(self, name: str, outbox: Outbox) -> None:
        """Say what a live stream lost when the last run ended in the midst of it."""
        if outbox.set_aside is not None:
            # What waited is gone, and nobody knows how much that was.
            reason: LossReason = "corrupt"
            windows = 1
        elif outbox.was_cut_off and outbox.resume(name) is not None:
            reason = "restart"
            spec = self._streams[name].serving.pipeline.spec
            windows = most_windows(spec, self._config.commit_s(name))
        else:
            return
        self._event("outbox.cut_off", {"stream": name, "reason": reason, "windows": windows})
        # A disk that is full must not keep the device from deciding.
        with suppress(OutboxFullError):
            outbox.commit_all({}, gaps_of(name, self._config.kept(name), windows, reason))

    # --- source threads -----------------------------------------------------------

    def _read(self, name: str, reader: Reader) -> None:
        reader.run()
        self._offer(_Ended(name, self._sources[name].is_exhausted))

    def _offer(self, item: _Item) -> None:
        """Hand something to the pipeline; waits while it is behind."""
        while not (self._closing.is_set() or self._inbox.put(item, _WAIT_S)):
            pass

    # --- pipeline thread ------------------------------------------------------------

    def _decide(self, drain_s: float) -> None:
        """Work on what the other threads bring, until all is done."""
        deadline_ns = None
        while not self._is_done(deadline_ns):
            self._vitals.beat()
            item = self._inbox.get(self._wait_s(deadline_ns) if self._inbox.is_empty else 0.0)
            if item is not None:
                self._handle(item)
            for name, passed_s in self._idling.due():
                self._take_note(self._failures.pass_time(name, passed_s))
                self._commit_if_due(self._streams[name].serving)
            self._commit_due()
            if not self._delivering and deadline_ns is None:
                self._commit_all()
                deadline_ns = self._clock.monotonic_ns() + drain_s * 1e9
        self._commit_all()

    def _is_done(self, deadline_ns: float | None) -> bool:
        """Sources first; then, unless asked to stop, what the cloud has not acknowledged."""
        if self._crew.failure is not None:
            return True
        if deadline_ns is None:
            return False
        if self._stop.is_set() or self._uplink is None:
            return True
        is_empty = self._written().is_idle and self._uplink.backlog_rows == 0
        has_time = self._clock.monotonic_ns() < deadline_ns
        return not has_time or (is_empty and deadline_ns != float("inf"))

    def _handle(self, item: _Item) -> None:
        match item:
            case Frame():
                self._answer(item)
            case _Call():
                item.do()
            case _Ended():
                self._delivering.discard(item.stream)
                if item.is_exhausted:
                    self._take_note(self._failures.finish(item.stream))

    def _answer(self, first: Frame) -> None:
        """Answer a frame, and with it what waits already and gains by it."""
        start_ns = time.perf_counter_ns()
        groups = self._gatherer.take(first)
        for group in groups:
            self._push(group)
        self._gatherer.note(sum(map(len, groups)), time.perf_counter_ns() - start_ns)

    def _common_session(self, stream: str) -> Session | None:
        return self._streams[stream].serving.pipeline.common_session

    def _push(self, frames: Sequence[Frame]) -> None:
        """Answer frames of one stream that follow each other, or one each of several streams."""
        names = dict.fromkeys(frame.stream for frame in frames)
        if len(names) == 1:
            outputs = self._failures.push(frames)
        else:
            outputs = self._failures.push_together(frames)
        for output in outputs:
            self._take_note(output)
        for name in names:
            self._idling.note(name)
            self._commit_if_due(self._streams[name].serving)
        for frame in frames:
            self._made[frame.stream].frames += 1

    def _take_note(self, output: Output | None) -> None:
        if output is None or output.is_empty:
            return
        made = self._made[output.stream]
        made.estimates += len(output.estimates)
        made.decisions += len(output.decisions)
        if self._shower is not None:
            self._shower.put(output)
        if output.estimates.quality is not None:
            made.note_suspect(output.estimates.quality)
        if self._on_event is not None:
            self._tell(output)
        if self._uplink is not None and _is_news(output):
            self._uplink.show(output, self._streams[output.stream].serving.pipeline)

    def _tell(self, output: Output) -> None:
        estimates = output.estimates
        if len(estimates):
            # Rows are windows.
            facts = {
                "stream": output.stream,
                "index": estimates.index.tolist(),
                "time_ns": estimates.end_ns.tolist(),
                "value": estimates.value.tolist(),
                "score": estimates.score.tolist(),
                "quality": None if estimates.quality is None else estimates.quality.tolist(),
            }
            self._notify("estimates.made", facts)
        for decision in output.decisions:
            self._notify("decision.made", msgspec.structs.asdict(decision))

    def _notify(self, name: str, facts: Mapping[str, object]) -> None:
        if self._on_event is not None:
            self._on_event(name, facts)

    def _call(self, do: Callable[[], None]) -> None:
        """Have something done between two windows, and let everybody know what then runs."""

        def done() -> None:
            do()
            self._tell_bases()

        self._offer(_Call(done))

    def _on_agents(self, do: Callable[[], None]) -> None:
        """Have something done where the update agents are; without a link, that is anywhere."""
        if self._uplink is None:
            do()
        else:
            self._uplink.on_agents(do)

    def _fell_back(self, name: str, facts: Mapping[str, object]) -> None:
        if self._uplink is not None:
            self._uplink.announce()
        self._event(name, facts)

    def _wait_s(self, deadline_ns: float | None) -> float:
        """Return how long the pipeline may sleep."""
        if deadline_ns is not None:
            return _WAIT_S
        next_ns = min(self._next_commit_ns, self._idling.next_ns)
        return min(_IDLE_S, max(0, next_ns - self._clock.monotonic_ns()) / 1e9)

    def _commit_due(self) -> None:
        """Hand over what has waited long enough, once the first of it has."""
        if self._clock.monotonic_ns() < self._next_commit_ns:
            return
        self._next_commit_ns = _NEVER_NS
        # What is due soon goes along: one sync of the disk is enough for all.
        soon_ns = self._clock.monotonic_ns() + round(self._config.outbox.commit_s * 1e9)
        for stream in self._streams.values():
            due_ns = stream.serving.due_ns
            if due_ns is not None and due_ns <= soon_ns:
                self._written().put(stream.serving.take(), self._vitals.beat)
            else:
                self._commit_if_due(stream.serving)

    def _commit_if_due(self, serving: Serving) -> None:
        if serving.is_due:
            self._written().put(serving.take(), self._vitals.beat)
        elif serving.due_ns is not None:
            self._next_commit_ns = min(self._next_commit_ns, serving.due_ns)

    def _commit_all(self) -> None:
        for stream in self._streams.values():
            if stream.serving.due_ns is not None:
                self._written().put(stream.serving.take(), self._vitals.beat)

    def _written(self) -> Writer:
        assert self._writer is not None  # noqa: S101 - opened before anything is decided
        return self._writer

    # --- other threads ----------------------------------------------------------------

    def _committed(self, commit: Commit) -> None:
        if self._uplink is not None:
            self._uplink.note_commit()
        self._notify("rows.committed", {"stream": commit.stream, "position": commit.position})

    def _event(self, name: str, facts: Mapping[str, object]) -> None:
        log.info(name, extra={"facts": dict(facts)})
        self._notify(name, facts)


def _is_news(output: Output) -> bool:
    """Whether the last answer is of the present, and no revision of the past."""
    revision = output.estimates.revision
    return len(output.estimates) > 0 and (revision is None or revision.item(-1) == 0)


def _trust_of(config: DeviceConfig) -> Trust | None:
    if config.trust is None:
        return None
    # A device that trusts nobody has nothing to verify.
    from edge_runtime.update.trust import Trust, public_key_of

    return Trust([public_key_of(path) for path in config.trust.release_keys])
