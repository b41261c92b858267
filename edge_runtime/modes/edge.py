"""Edge mode: sources in, decisions out, records kept until the cloud has them.

Threads: one per source, one pipeline, one storage writer, one network. State
crosses between them only through the queues made here and in `writer`.

Delivery: source position, pipeline snapshot and the records that came of them
are committed in one transaction, so that a recording is neither lost nor
doubled across a crash. A live sensor loses at most the open group commit.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from edge_runtime import registry
from edge_runtime.clock import SystemClock
from edge_runtime.config import DeviceConfig
from edge_runtime.config.device import split_kind
from edge_runtime.errors import SourceError
from edge_runtime.modes.boot import boot_stream
from edge_runtime.modes.failures import Failures
from edge_runtime.modes.models import SharedModels, TimedSession
from edge_runtime.modes.serving import Commit, Serving
from edge_runtime.modes.updates import StreamUpdates
from edge_runtime.modes.uplink import Connect, Uplink
from edge_runtime.modes.vitals import Crash, Vitals
from edge_runtime.modes.watchdog import Watchdog
from edge_runtime.modes.writer import Writer
from edge_runtime.ports import Clock, Sink, Source
from edge_runtime.sources import Pace
from edge_runtime.sync.outbox import Outbox, OutboxStats
from edge_runtime.sync.paho import PahoTransport
from edge_runtime.sync.state import StateStore
from edge_runtime.types import Frame, Output, Upload
from edge_runtime.update.trust import Trust, public_key_of
from edge_runtime.version import __version__

if TYPE_CHECKING:
    from edge_runtime.metrics import Family
    from edge_runtime.modes.exposition import StreamNumbers

__all__ = ["DeviceStatus", "EdgeDevice", "StreamStatus"]

log = logging.getLogger(__name__)

OnEvent = Callable[[str, Mapping[str, object]], None]

# Frames between the sources and the pipeline, or one for each of more streams; when
# full, a source waits (policy: block).
_INBOX_FRAMES = 16
# How long a thread waits for room in the inbox before it looks whether it should stop.
_WAIT_S = 0.5
# How long a source or the pipeline waits when nothing comes; whoever stops them wakes them.
_IDLE_S = 5.0
_NEVER_NS = 1 << 62
# A failed source is opened again after a random time up to this, doubling each time.
_RESTART_S = (0.5, 30.0)


class StreamStatus(msgspec.Struct):
    """One stream right now.

    Attributes:
        position: Index of the next sample to read.
        base: Digest of the live base.
        effective_id: Identity of base and layers.
        layers_made_ns: Event time up to which the live layers know; None without layers.
        estimates: Windows scored since start.
        decisions: Decisions made since start.
        discarded: Samples and windows that gave no result, by reason.
        restarts: Times the source failed and was opened again.
    """

    position: int = 0
    base: str = ""
    effective_id: str = ""
    layers_made_ns: int | None = None
    estimates: int = 0
    decisions: int = 0
    discarded: dict[str, int] = {}
    restarts: int = 0


class DeviceStatus(msgspec.Struct):
    """The whole device right now.

    Attributes:
        device: Its id.
        streams: By name.
        backlog_rows: Rows in the outbox that the cloud has not acknowledged.
        is_connected: Whether the link to the broker is up.
        counters: Everything the link and the writer count.
    """

    device: str
    streams: dict[str, StreamStatus]
    backlog_rows: int
    is_connected: bool
    counters: dict[str, int]


class _Made(msgspec.Struct):
    """What one stream has made since start."""

    estimates: int = 0
    decisions: int = 0
    restarts: int = 0


class _Ended(msgspec.Struct, frozen=True):
    """A source delivers no more."""

    stream: str


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
    ) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._paces = paces or {}
        self._on_event = on_event
        self._connect = connect
        self._vitals = vitals or Vitals()
        self._crashes = crashes or {}
        self._inbox: queue.Queue[_Item] = queue.Queue(max(_INBOX_FRAMES, len(config.streams)))
        self._stop = threading.Event()
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        self._delivering: set[str] = set()
        self._sources: dict[str, Source] = {}
        self._made = {name: _Made() for name in config.streams}
        self._next_commit_ns = _NEVER_NS
        self._held: _Item | None = None
        self._streams: dict[str, StreamUpdates] = {}
        self._models = SharedModels()
        self._uplink: Uplink | None = None
        self._stats: Callable[[], OutboxStats]
        self._writer: Writer | None = None
        self._final: DeviceStatus | None = None
        self._failures = Failures(
            self._streams,
            tuple(config.streams),
            self._vitals,
            on_pipeline=self._call,
            on_agents=self._on_agents,
            on_event=self._fell_back,
        )

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
        if self._failure is not None:
            raise self._failure

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
        uplink, writer = self._uplink, self._writer
        return DeviceStatus(
            device=self._config.device,
            streams={name: self._stream_status(name) for name in self._config.streams},
            backlog_rows=uplink.backlog_rows if uplink else 0,
            is_connected=uplink.is_connected if uplink else False,
            counters=(uplink.counters() if uplink else {})
            | {"sink_blocks_lost": writer.sink_blocks_lost if writer else 0},
        )

    def _stream_status(self, name: str) -> StreamStatus:
        made = self._made[name]
        counts: dict[str, Any] = {
            "estimates": made.estimates,
            "decisions": made.decisions,
            "restarts": made.restarts,
        }
        if name not in self._streams:
            return StreamStatus(**counts)
        serving = self._streams[name].serving
        pipeline = serving.pipeline
        return StreamStatus(
            position=serving.position,
            base=pipeline.base,
            effective_id=pipeline.effective_id,
            layers_made_ns=max((layer.made_ns for layer in pipeline.layers), default=None),
            discarded=pipeline.discarded | self._failures.lost(name),
            **counts,
        )

    def metrics(self) -> Iterator[Family]:
        """Return everything this device counts; callable from any thread while it runs."""
        from edge_runtime.modes.exposition import families_of

        uplink, outbox, writer = self._uplink, self._stats(), self._writer
        blocks = {"sink_failed": writer.sink_blocks_lost} if writer else {}
        return families_of(
            {name: self._stream_numbers(name) for name in self._streams},
            device={"device": self._config.device, "version": __version__},
            outbox={"outbox_rows": outbox.rows, "outbox_bytes": outbox.bytes},
            lost=outbox.discarded | blocks,
            link=uplink.counters() if uplink else {},
            updates=uplink.reports() if uplink else {},
        )

    def _stream_numbers(self, name: str) -> StreamNumbers:
        from edge_runtime.modes.exposition import StreamNumbers

        made, serving = self._made[name], self._streams[name].serving
        pipeline = serving.pipeline
        spec = pipeline.spec
        return StreamNumbers(
            counts={
                "frames_received_total": serving.frames,
                "samples_received_total": serving.samples,
                "windows_scored_total": made.estimates,
                "decisions_made_total": made.decisions,
                "source_restarts_total": made.restarts,
            },
            discarded=pipeline.discarded | self._failures.lost(name),
            push=serving.pushes,
            model=f"{spec.name}@{spec.version}",
            inference=cast(TimedSession, pipeline.scorer.session).answers,
            facts={"base": pipeline.base, "effective_id": pipeline.effective_id},
        )

    # --- start ------------------------------------------------------------------

    def _open(self, stack: ExitStack) -> None:
        """Open everything in the order of its need; the stack closes it in reverse."""
        state = StateStore(Path(self._config.state) / "state.db", self._clock)
        stack.callback(state.close)
        outbox = self._opened_outbox(state)
        stack.callback(outbox.close)
        stack.callback(self._remember_status)
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
            )
        stack.callback(self._failures.close)
        self._start_watchdog(stack)
        self._start_metrics(stack, outbox)
        self._start_network(stack, state, outbox)
        self._start_writer(stack, outbox)
        for name in self._config.streams:
            self._start_source(stack, name)

    def _remember_status(self) -> None:
        """Every thread has ended and the outbox is about to close."""
        self._final = self._current_status()

    def _opened_outbox(self, state: StateStore) -> Outbox:
        epoch, incarnation = state.start()
        outbox = Outbox.open(
            Path(self._config.state) / "outbox.db",
            epoch=epoch,
            incarnation=incarnation,
            config=self._config.outbox,
            clock=self._clock,
        )
        if outbox.set_aside is not None:
            self._event("outbox.set_aside", {"path": str(outbox.set_aside)})
        return outbox

    def _start_watchdog(self, stack: ExitStack) -> None:
        self._tell_bases()
        watchdog = Watchdog(
            self._vitals,
            limit_s=self._config.watchdog_s,
            interrupt=self._interrupt,
        )
        self._start(stack, "watchdog", watchdog.run)
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
        transport = self._connect(self._config.sync, self._config.device, self._clock)
        uplink = Uplink(
            self._config,
            self._streams,
            transport,
            state,
            outbox,
            clock=self._clock,
            on_pipeline=self._call,
            on_event=self._event,
        )
        self._uplink = uplink
        self._start(stack, "network", uplink.run)
        stack.callback(uplink.stop)

    def _start_metrics(self, stack: ExitStack, outbox: Outbox) -> None:
        self._stats = outbox.stats
        if self._config.metrics is None:
            return
        # The standard library's HTTP server takes memory that most devices can keep.
        from edge_runtime.modes.exposition import MetricsServer

        where = self._config.metrics
        server = MetricsServer(where.host, where.port, self.metrics)
        self._start(stack, "metrics", server.run)
        stack.callback(server.stop)
        self._event("metrics.served", {"host": where.host, "port": server.port})

    def _start_writer(self, stack: ExitStack, outbox: Outbox) -> None:
        sinks = [self._opened_sink(stack, options) for options in self._config.sinks]
        is_local = self._config.sync is None
        uploads: dict[str, Upload] = {
            name: "none" if is_local else stream.upload
            for name, stream in self._config.streams.items()
        }
        writer = self._writer = Writer(outbox, sinks, uploads, self._committed, self._stop.is_set)
        self._start(stack, "writer", writer.run)
        stack.callback(writer.finish)

    def _opened_sink(self, stack: ExitStack, options: Mapping[str, object]) -> Sink:
        kind, rest = split_kind(options)
        sink = cast(Sink, registry.create("sinks", kind, rest, "sinks"))
        sink.open(self._config.device)
        stack.callback(sink.close)
        return sink

    def _start_source(self, stack: ExitStack, name: str) -> None:
        """Open a source here, so that a wrong one fails the start, and read it in a thread."""
        kind, rest = split_kind(self._config.streams[name].source)
        source = registry.create("sources", kind, rest, f"streams.{name}.source")
        if name in self._paces:
            source.pace = self._paces[name]
        self._open_source(name, source)
        self._sources[name] = source
        self._delivering.add(name)
        self._start(stack, f"source-{name}", lambda: self._read(name, source))
        # Run first when the stack unwinds: nobody takes frames any more.
        stack.callback(source.close)
        stack.callback(self._closing.set)

    def _open_source(self, name: str, source: Source) -> None:
        serving = self._streams[name].serving
        source.open(name, serving.pipeline.spec.stream, serving.position)

    def _start(self, stack: ExitStack, name: str, run: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                run()
            except BaseException as error:
                log.exception("thread.failed", extra={"thread_name": name})
                self._failure = self._failure or error
                self._stop.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        stack.callback(thread.join)

    # --- source threads -----------------------------------------------------------

    def _read(self, name: str, source: Source) -> None:
        """Feed one source's frames to the pipeline until it ends or the device stops."""
        wait_s = _RESTART_S[0]
        while not (self._stop.is_set() or self._closing.is_set() or source.is_exhausted):
            try:
                frame = source.read(_IDLE_S)
            except SourceError as error:
                self._restart(name, source, error, wait_s)
                wait_s = min(2 * wait_s, _RESTART_S[1])
                continue
            if frame is not None:
                self._offer(frame)
                wait_s = _RESTART_S[0]
        source.close()
        self._offer(_Ended(name))

    def _offer(self, item: _Item) -> None:
        """Hand something to the pipeline; waits while it is behind."""
        while not self._closing.is_set():
            with suppress(queue.Full):
                self._inbox.put(item, timeout=_WAIT_S)
                return

    def _restart(self, name: str, source: Source, error: SourceError, wait_s: float) -> None:
        """Open a failed source again after a jittered wait."""
        self._made[name].restarts += 1
        log.warning("source.failed", extra={"stream": name, "why": str(error)})
        source.close()
        if not self._stop.wait(random.uniform(0, wait_s)):  # noqa: S311 - jitter, no secret
            self._open_source(name, source)

    # --- pipeline thread ------------------------------------------------------------

    def _decide(self, drain_s: float) -> None:
        """Work on what the other threads bring, until all is done."""
        deadline_ns = None
        while not self._is_done(deadline_ns):
            self._vitals.beat()
            with suppress(queue.Empty):
                self._handle(self._next_item(deadline_ns))
            self._commit_due()
            if not self._delivering and deadline_ns is None:
                self._commit_all()
                deadline_ns = self._clock.monotonic_ns() + drain_s * 1e9
        self._commit_all()

    def _is_done(self, deadline_ns: float | None) -> bool:
        """Sources first; then, unless asked to stop, what the cloud has not acknowledged."""
        if self._failure is not None:
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
                for frames in self._gathered(item):
                    self._push(frames)
            case _Call():
                item.do()
            case _Ended():
                self._delivering.discard(item.stream)

    def _next_item(self, deadline_ns: float | None) -> _Item:
        """Return what waits longest; raises queue.Empty if nothing comes in time."""
        if self._held is not None:
            item, self._held = self._held, None
            return item
        return self._inbox.get(timeout=self._wait_s(deadline_ns))

    def _gathered(self, first: Frame) -> list[list[Frame]]:
        """Take along frames that wait already, where several streams gain by one call.

        Nothing is overtaken: the first item that cannot go along is handled next.

        Returns:
            Frames in groups that share a session; a group of one is pushed alone.
        """
        groups: dict[int, list[Frame]] = {}
        item: _Item = first
        taken: set[str] = set()
        while isinstance(item, Frame) and item.stream not in taken:
            session = self._streams[item.stream].serving.pipeline.common_session
            groups.setdefault(id(session or item), []).append(item)
            taken.add(item.stream)
            if session is None or self._inbox.empty():
                return list(groups.values())
            item = self._inbox.get_nowait()
        self._held = item
        return list(groups.values())

    def _push(self, frames: Sequence[Frame]) -> None:
        if len(frames) == 1:
            output = self._failures.push(frames[0])
            outputs = [] if output is None else [output]
        else:
            outputs = self._failures.push_together(frames)
        for output in outputs:
            if len(output.estimates):
                self._take_note(output)
        for frame in frames:
            self._commit_if_due(self._streams[frame.stream].serving)

    def _take_note(self, output: Output) -> None:
        made = self._made[output.stream]
        made.estimates += len(output.estimates)
        made.decisions += len(output.decisions)
        if self._on_event is not None:
            self._tell(output)
        if self._uplink is not None:
            self._uplink.show(output, self._streams[output.stream].serving.pipeline)

    def _tell(self, output: Output) -> None:
        estimates = output.estimates
        facts = {
            "stream": output.stream,
            "index": int(estimates.index[-1]),
            "time_ns": int(estimates.end_ns[-1]),
            "value": estimates.value[-1].tolist(),
            "score": estimates.score[-1].tolist(),
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
        return min(_IDLE_S, max(0, self._next_commit_ns - self._clock.monotonic_ns()) / 1e9)

    def _commit_due(self) -> None:
        """Hand over what has waited long enough, once the first of it has."""
        if self._clock.monotonic_ns() < self._next_commit_ns:
            return
        self._next_commit_ns = _NEVER_NS
        for stream in self._streams.values():
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
            self._uplink.wake()
        self._notify("rows.committed", {"stream": commit.stream, "position": commit.position})

    def _event(self, name: str, facts: Mapping[str, object]) -> None:
        log.info(name, extra={"facts": dict(facts)})
        self._notify(name, facts)


def _trust_of(config: DeviceConfig) -> Trust | None:
    if config.trust is None:
        return None
    return Trust([public_key_of(path) for path in config.trust.release_keys])
