"""The update agents of one device, and what they ask for, done at once and in order.

The real device does the same on three threads, see `edge_runtime.modes.updates`:
proving a base in a child process takes no simulated time here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edge_runtime.errors import EdgeError
from edge_runtime.modes.updates import StreamUpdates
from edge_runtime.ports import Message
from edge_runtime.sync.link import Downlink
from edge_runtime.sync.messages import BlobChunk, Job, encode
from edge_runtime.sync.topics import Topics
from edge_runtime.update.actions import Action, ActivateBase, ActivateLayers, Admit, Report, Request
from edge_runtime.update.admission import admit

__all__ = ["Agents"]

_TICK_NS = 1_000_000_000


class Agents:
    """Used by the engine's thread.

    Args:
        device: Device id.
        streams: By name.
        send: Hands a message to the link.
        announce: Says what runs, after it changed.
    """

    def __init__(
        self,
        device: str,
        streams: Mapping[str, StreamUpdates],
        send: Callable[[Message], None],
        announce: Callable[[], None],
    ) -> None:
        self._device = device
        self._streams = streams
        self._send = send
        self._announce = announce
        self._topics = Topics()
        self._next_tick_ns = 0

    def start(self) -> None:
        """Go on with what a restart interrupted."""
        for name, stream in self._streams.items():
            self._do(name, stream.agent.on_booted())

    def take(self, asked: Downlink) -> tuple[Message, ...]:
        """Take a job or a chunk; answers go through the link by themselves."""
        match asked:
            case Job(stream=stream) if stream in self._streams:
                self._do(stream, self._streams[stream].agent.on_job(asked))
            case BlobChunk():
                for name, updates in self._streams.items():
                    self._do(name, updates.agent.on_chunk(asked))
        return ()

    @property
    def is_fetching(self) -> bool:
        """Whether an archive is on its way."""
        return any(stream.agent.is_fetching for stream in self._streams.values())

    def step(self, now_ns: int) -> None:
        """Ask again for chunks that did not come, once a second."""
        if now_ns >= self._next_tick_ns and self.is_fetching:
            self._next_tick_ns = now_ns + _TICK_NS
            for name, stream in self._streams.items():
                self._do(name, stream.agent.on_tick(now_ns))

    def set_link(self, *, is_up: bool) -> None:
        """Pause fetching while the link is down."""
        for name, stream in self._streams.items():
            self._do(name, stream.agent.on_link(is_up))

    def _do(self, name: str, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Request(message):
                    self._send(Message(self._topics.up(self._device, "blob"), encode(message)))
                case Report(message):
                    topic = self._topics.up(self._device, f"job/{message.id}")
                    self._send(Message(topic, encode(message)))
                case Admit():
                    self._admit(name, action)
                case ActivateBase() | ActivateLayers():
                    self._activate(name, action)

    def _admit(self, name: str, action: Admit) -> None:
        stream = self._streams[name]
        verdict = admit(action.path, stream.choice)
        self._do(name, stream.agent.on_admitted(action.digest, verdict))

    def _activate(self, name: str, action: ActivateBase | ActivateLayers) -> None:
        stream = self._streams[name]
        try:
            if isinstance(action, ActivateBase):
                stream.serving.replace(stream.build(action.bundle, action.layers))
            else:
                stream.serving.activate(action.layers)
        except EdgeError as error:
            self._do(name, stream.agent.on_failed(action.effective_id, str(error)))
            return
        self._announce()
        self._do(name, stream.agent.on_activated(action.effective_id))
