"""Does what the update agents ask for: on which thread, and in which order.

The agents decide on the network thread. A child process proves a base on a
thread of its own; models are loaded there too, so that neither the link nor
the pipeline waits. What goes live goes live on the pipeline thread, between two
windows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from edge_runtime.bundle import Bundle
from edge_runtime.errors import EdgeError
from edge_runtime.modes.serving import Serving
from edge_runtime.pipeline import AnyPipeline
from edge_runtime.ports import Choice, Message
from edge_runtime.spec import Layer
from edge_runtime.sync.messages import BlobChunk, Job, encode
from edge_runtime.sync.topics import Topics
from edge_runtime.update.actions import Action, ActivateBase, ActivateLayers, Admit, Report, Request
from edge_runtime.update.agent import UpdateAgent

__all__ = ["Build", "StreamUpdates", "Updates"]

log = logging.getLogger(__name__)

OnEvent = Callable[[str, Mapping[str, object]], None]
_TICK_NS = 1_000_000_000
_IDLE_S = 10.0
_REFUSALS = frozenset({"refused", "rolled_back"})


class Build(Protocol):
    """Makes a pipeline for a base and its layers; may take long."""

    def __call__(
        self, bundle: Bundle, layers: Sequence[Layer], *, is_new: bool = False
    ) -> AnyPipeline:
        """Open the base, or take one that other streams have open, unless ``is_new``."""
        ...


class StreamUpdates:
    """What `Updates` needs to know of one stream.

    Attributes:
        agent: Decides what the stream runs.
        serving: Runs it, on the pipeline thread.
        build: Makes a pipeline for a base and its layers; may take long.
        choice: How the configuration wants models to be run.
    """

    def __init__(
        self,
        agent: UpdateAgent,
        serving: Serving,
        build: Build,
        choice: Choice,
    ) -> None:
        self.agent = agent
        self.serving = serving
        self.build = build
        self.choice = choice


class Updates:
    """Carry jobs and chunks to the agents, and their actions out.

    Threads: everything but the constructor and `post` runs on the network thread.

    Args:
        device: Device id.
        streams: By name.
        send: Hands a message to the link.
        wake: Makes the network thread come round to `step`.
        on_pipeline: Runs something on the pipeline thread, between two windows.
        on_event: Told about what went live or was refused.

    Attributes:
        reports: Reports made, by state.
    """

    def __init__(
        self,
        device: str,
        streams: Mapping[str, StreamUpdates],
        *,
        send: Callable[[Message], object],
        wake: Callable[[], None],
        on_pipeline: Callable[[Callable[[], None]], None],
        on_event: OnEvent,
    ) -> None:
        self._device = device
        self._streams = streams
        self._send = send
        self._wake = wake
        self._on_pipeline = on_pipeline
        self._on_event = on_event
        self._topics = Topics()
        self._answers: deque[Callable[[], None]] = deque()
        self._next_tick_ns = 0
        self.reports: Counter[str] = Counter()

    def start(self) -> None:
        """Go on with what a restart interrupted; call once the pipelines serve."""
        for stream in self._streams:
            self._do(stream, self._streams[stream].agent.on_booted())

    def take(self, message: object) -> None:
        """Take a job or a chunk from the link; anything else is ignored."""
        match message:
            case Job(stream=stream) if stream in self._streams:
                self._do(stream, self._streams[stream].agent.on_job(message))
            case Job():
                log.warning("update.unknown_stream", extra={"stream": message.stream})
            case BlobChunk():
                for name, updates in self._streams.items():
                    self._do(name, updates.agent.on_chunk(message))

    @property
    def wait_s(self) -> float:
        """How long `step` may be away when nothing happens."""
        is_fetching = any(stream.agent.is_fetching for stream in self._streams.values())
        return _TICK_NS / 1e9 if is_fetching else _IDLE_S

    def step(self, now_ns: int) -> None:
        """Do what other threads answered, and once a second let the agents ask again."""
        while self._answers:
            self._answers.popleft()()
        if now_ns >= self._next_tick_ns:
            self._next_tick_ns = now_ns + _TICK_NS
            for name, stream in self._streams.items():
                self._do(name, stream.agent.on_tick(now_ns))

    def set_link(self, is_up: bool) -> None:
        """Pause fetching while the link is down."""
        for name, stream in self._streams.items():
            self._do(name, stream.agent.on_link(is_up))

    def post(self, answer: Callable[[], None]) -> None:
        """Have something done on the network thread; callable from any thread."""
        self._answers.append(answer)
        self._wake()

    def _do(self, stream: str, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Request(message):
                    self._send(Message(self._topics.up(self._device, "blob"), encode(message)))
                case Report(message):
                    self._report(stream, action)
                case Admit():
                    self._in_thread(partial(self._admit, stream, action))
                case ActivateLayers():
                    self._activate_layers(stream, action)
                case ActivateBase():
                    self._in_thread(partial(self._load, stream, action))

    def _report(self, stream: str, report: Report) -> None:
        message = report.message
        self.reports[message.state] += 1
        topic = self._topics.up(self._device, f"job/{message.id}")
        self._send(Message(topic, encode(message)))
        if message.state in _REFUSALS:
            self._on_event("update.refused", {"stream": stream, "reason": message.reason})

    def _in_thread(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="update", daemon=True).start()

    # --- bases ------------------------------------------------------------------

    def _admit(self, stream: str, action: Admit) -> None:
        # Child processes are for devices that get a new base, and few do so every day.
        from edge_runtime.update.admission import admit

        updates = self._streams[stream]
        verdict = admit(action.path, updates.choice)
        self.post(lambda: self._do(stream, updates.agent.on_admitted(action.digest, verdict)))

    def _load(self, stream: str, action: ActivateBase) -> None:
        try:
            pipeline = self._streams[stream].build(action.bundle, action.layers)
        except EdgeError as error:
            self._fail(stream, action, error)
            return
        self._on_pipeline(lambda: self._replace(stream, action, pipeline))

    def _replace(self, stream: str, action: ActivateBase, pipeline: AnyPipeline) -> None:
        start = time.perf_counter()
        serving = self._streams[stream].serving
        serving.replace(pipeline)
        self._done(stream, action, time.perf_counter() - start)
        facts = {"base": action.bundle.digest, "ref": action.bundle.ref, "index": serving.position}
        self._tell("base.activated", stream, action, facts)

    # --- layers -----------------------------------------------------------------

    def _activate_layers(self, stream: str, action: ActivateLayers) -> None:
        asked = time.perf_counter()
        self._on_pipeline(lambda: self._switch(stream, action, asked))

    def _switch(self, stream: str, action: ActivateLayers, asked: float) -> None:
        try:
            self._streams[stream].serving.activate(action.layers)
        except EdgeError as error:
            self._fail(stream, action, error)
            return
        seconds = time.perf_counter() - asked
        self._done(stream, action, seconds)
        made_ns = max((layer.made_ns for layer in action.layers), default=None)
        self._tell("layers.activated", stream, action, {"made_ns": made_ns, "seconds": seconds})

    # --- answers ----------------------------------------------------------------

    def _done(self, stream: str, action: ActivateLayers | ActivateBase, seconds: float) -> None:
        agent, measured = self._streams[stream].agent, {"activation_s": seconds}
        self.post(lambda: self._do(stream, agent.on_activated(action.effective_id, measured)))

    def _fail(self, stream: str, action: ActivateLayers | ActivateBase, error: EdgeError) -> None:
        agent, reason = self._streams[stream].agent, str(error)
        self.post(lambda: self._do(stream, agent.on_failed(action.effective_id, reason)))

    def _tell(
        self,
        event: str,
        stream: str,
        action: ActivateLayers | ActivateBase,
        facts: Mapping[str, object],
    ) -> None:
        self._on_event(event, {"stream": stream, "effective_id": action.effective_id, **facts})
