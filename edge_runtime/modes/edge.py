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
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import cast

import msgspec

from edge_runtime import registry
from edge_runtime.clock import SystemClock
from edge_runtime.config import DeviceConfig, StreamConfig
from edge_runtime.errors import SourceError
from edge_runtime.modes.network import Network
from edge_runtime.modes.serving import Commit, Serving
from edge_runtime.modes.writer import Writer
from edge_runtime.ports import Clock, Sink, Source
from edge_runtime.sources import Pace
from edge_runtime.types import Frame, Output

__all__ = ["DeviceStatus", "EdgeDevice", "StreamStatus"]

log = logging.getLogger(__name__)

OnEvent = Callable[[str, Mapping[str, object]], None]

# Frames between the sources and the pipeline; when full, a source waits (policy: block).
_INBOX_FRAMES = 16
# How long a source may block before it looks whether it should stop.
_READ_S = 0.25
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


class _Ended(msgspec.Struct, frozen=True):
    """A recording has no more samples."""

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
    """

    def __init__(
        self,
        config: DeviceConfig,
        *,
        clock: Clock | None = None,
        paces: Mapping[str, Pace] | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._paces = paces or {}
        self._on_event = on_event or (lambda _name, _facts: None)
        self._inbox: queue.Queue[_Item] = queue.Queue(_INBOX_FRAMES)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._running: set[str] = set()
        self._status = {name: StreamStatus() for name in config.streams}
        self._stack = ExitStack()

    def run(self, *, drain_s: float = 10.0, stays: bool = False) -> None:
        """Run until every recording has ended or `stop` is called.

        Args:
            drain_s: At the end, wait so long for the cloud to acknowledge what is left.
            stays: Keep syncing after the recordings have ended, until `stop`.

        Raises:
            EdgeError: A stream could not be started, or a thread failed.
        """
        with self._stack:
            self._open()
            self._decide(stays)
            self._network.drain(0.0 if self._stop.is_set() else drain_s)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Flush and end; callable from any thread and from a signal handler."""
        self._stop.set()

    def status(self) -> DeviceStatus:
        """Return what the device is doing, from any thread."""
        link = self._network.stats()
        return DeviceStatus(
            device=self._config.device,
            streams=self._status,
            backlog_rows=link.backlog_rows,
            is_connected=link.is_connected,
            counters=link.counters,
        )

    # --- start ------------------------------------------------------------------

    def _open(self) -> None:
        """Open everything in the order of its need; the stack closes it in reverse."""
        names = tuple(self._config.streams)
        sinks = [self._opened_sink(options) for options in self._config.sinks]
        self._network = self._stack.enter_context(
            Network(self._config, self._clock, run_on_pipeline=self._call, on_event=self._event)
        )
        self._serving = {name: self._network.serving(name) for name in names}
        uploads = {name: stream.upload for name, stream in self._config.streams.items()}
        self._writer = Writer(self._network.outbox, sinks, uploads, self._committed)
        self._start("writer", self._writer.run)
        self._stack.callback(self._writer.finish)
        for name in names:
            self._note(name)
            self._start_source(name)
        self._start("network", self._network.run)

    def _opened_sink(self, options: Mapping[str, object]) -> Sink:
        named = dict(options)
        sink = cast(Sink, registry.create("sinks", str(named.pop("kind")), named, "sinks"))
        sink.open(self._config.device)
        self._stack.callback(sink.close)
        return sink

    def _start_source(self, name: str) -> None:
        """Open a source here, so that a wrong one fails the start, and read it in a thread."""
        source = self._source(name, self._config.streams[name])
        serving = self._serving[name]
        source.open(name, serving.pipeline.spec.stream, serving.position)
        self._running.add(name)
        self._start(f"source-{name}", lambda: self._read(name, source))

    def _source(self, name: str, config: StreamConfig) -> Source:
        options = dict(config.source)
        kind = str(options.pop("kind"))
        source = registry.create("sources", kind, options, f"streams.{name}.source")
        if name in self._paces:
            source.pace = self._paces[name]
        return cast(Source, source)

    def _start(self, name: str, run: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                run()
            except BaseException as error:
                self._failure = self._failure or error
                self._stop.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        self._stack.callback(thread.join)

    # --- source threads -----------------------------------------------------------

    def _read(self, name: str, source: Source) -> None:
        """Feed one source's frames to the pipeline until it ends or the device stops."""
        wait_s = _RESTART_S[0]
        while not self._stop.is_set():
            try:
                frame = source.read(_READ_S)
            except SourceError as error:
                wait_s = self._restart(name, source, error, wait_s)
                continue
            if frame is not None:
                self._put(frame)
                wait_s = _RESTART_S[0]
            elif source.is_exhausted:
                break
        source.close()
        self._put(_Ended(name))

    def _restart(self, name: str, source: Source, error: SourceError, wait_s: float) -> float:
        """Open a failed source again after a jittered wait; return the next wait."""
        self._status[name].restarts += 1
        log.warning("source.failed", extra={"stream": name, "why": str(error)})
        source.close()
        if not self._stop.wait(random.uniform(0, wait_s)):  # noqa: S311 - jitter, no secret
            serving = self._serving[name]
            source.open(name, serving.pipeline.spec.stream, serving.position)
        return min(2 * wait_s, _RESTART_S[1])
