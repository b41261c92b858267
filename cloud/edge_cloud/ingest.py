"""The ingest role: frames in, rows made durable, acks out.

Order: segment synced, catalogue committed, ack published. Killed in between,
the device sends again and nothing is stored twice.

Delivery: at least once on the wire, exactly once in the store. What cannot be
decoded is set aside under ``poison`` and counted; it is never acknowledged.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence

import msgspec

from edge_cloud.store import Store, check_frame
from edge_runtime.clock import SystemClock
from edge_runtime.errors import StoreError, WireError
from edge_runtime.ports import Clock, Connected, Message, Transport, TransportEvent
from edge_runtime.sync.frames import RowFrame, decode_frame
from edge_runtime.sync.messages import Ack, CloudState, encode
from edge_runtime.sync.topics import Address, Topics

__all__ = ["Handler", "Ingest", "IngestStats", "Router"]

log = logging.getLogger(__name__)

Handler = Callable[[Address, bytes], None]
"""Takes one control message: where it came from, and its payload."""

# One group commit: enough to share its fsyncs, small enough to answer soon.
_GROUP_MESSAGES = 256
_GROUP_BYTES = 8 << 20
# Poison is for people to look at, not a second store.
_POISON_FILES = 1000


class IngestStats(msgspec.Struct):
    """Counters since start.

    Attributes:
        frames_total: Frames decoded.
        groups_total: Group commits.
        poison_total: Messages set aside.
        store_failures_total: Groups that the store did not take.
        bytes_total: Payload bytes received.
    """

    frames_total: int = 0
    groups_total: int = 0
    poison_total: int = 0
    store_failures_total: int = 0
    bytes_total: int = 0


class Router:
    """Drains a transport and hands control messages to whoever wants them.

    Thread: the one that calls ``step``.

    Args:
        transport: Used by this object alone for receiving.
        topics: The topic tree.
        leaves: Topics of devices to subscribe to, such as ``life`` or ``#``.
        handlers: Who takes which leaf; a leaf without one is passed over.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        topics: Topics | None = None,
        leaves: Sequence[str],
        handlers: Mapping[str, Handler],
    ) -> None:
        self.transport = transport
        self.topics = topics or Topics()
        self._leaves = leaves
        self._handlers = handlers

    def open(self) -> None:
        """Connect and subscribe."""
        self.transport.open([self.topics.every_up(leaf) for leaf in self._leaves], None)

    def close(self) -> None:
        """Disconnect; safe to call twice."""
        self.transport.close()

    def step(self, timeout_s: float) -> int:
        """Wait for messages, handle all that are there; return their number."""
        messages = drain(self.transport, timeout_s, lambda: None)
        for message in messages:
            address = parsed(self.topics, message)
            if address is not None:
                self.route(address, message)
        return len(messages)

    def route(self, address: Address, message: Message) -> None:
        """Hand one control message to its handler."""
        handler = self._handlers.get(address.leaf)
        # An empty payload clears a retained message and says nothing.
        if handler is not None and message.payload:
            handler(address, message.payload)


class Ingest:
    """Take frames from a broker into a store, and say that the cloud is there.

    Thread: the one that calls ``step``; several processes may ingest into one store.

    Args:
        transport: Used by this object alone for receiving.
        store: Where rows go.
        topics: The topic tree.
        handlers: Who takes ``life``, ``last``, ``job`` and ``blob``.
        on_stored: Told which (device, stream) got new rows, after they are durable.
        clock: For the time of presence.
        at_step: Called before acks are published (``ack``); fault tests end the
            process there.
    """

    def __init__(
        self,
        transport: Transport,
        store: Store,
        *,
        topics: Topics | None = None,
        handlers: Mapping[str, Handler] | None = None,
        on_stored: Callable[[set[tuple[str, str]]], None] | None = None,
        clock: Clock | None = None,
        at_step: Callable[[str], None] | None = None,
    ) -> None:
        self.transport = transport
        self._store = store
        self._topics = topics or Topics()
        self._router = Router(transport, topics=self._topics, leaves=["#"], handlers=handlers or {})
        self._on_stored = on_stored or _ignore
        self._clock = clock or SystemClock()
        self._at_step = at_step or _ignore
        self._is_failing = False
        self.stats = IngestStats()

    def open(self) -> None:
        """Connect, subscribe to everything devices write, and be online while connected."""
        will = Message(self._topics.all_cloud, encode(CloudState(is_online=False)), retain=True)
        self.transport.open([self._topics.every_up("#")], will)

    def close(self) -> None:
        """Say good-bye and disconnect; safe to call twice."""
        self.transport.publish(self._presence(is_online=False))
        self.transport.close()

    def step(self, timeout_s: float) -> int:
        """Wait for messages, store all that are there as one group; return their number."""
        messages = drain(self.transport, timeout_s, self._on_connected)
        frames = []
        for message in messages:
            address = parsed(self._topics, message)
            if address is None:
                continue
            if address.leaf == "tel":
                frames += self._decoded(address, message)
            else:
                self._routed(address, message)
        if frames:
            self._take(frames)
        return len(messages)

    def _on_connected(self) -> None:
        self.transport.publish(self._presence(is_online=True))

    def _presence(self, *, is_online: bool) -> Message:
        state = CloudState(is_online=is_online, made_ns=self._clock.now_ns())
        return Message(self._topics.all_cloud, encode(state), retain=True)

    def _decoded(self, address: Address, message: Message) -> list[RowFrame]:
        self.stats.bytes_total += len(message.payload)
        try:
            frame = check_frame(decode_frame(message.payload))
            if (frame.device, frame.stream) != (address.device, address.name):
                raise WireError(
                    f"frame of {frame.device}/{frame.stream}",
                    where=message.topic,
                    expected="a frame of the topic's own device and stream",
                )
        except WireError as error:
            self._set_aside(address, message, error)
            return []
        self.stats.frames_total += 1
        return [frame]

    def _routed(self, address: Address, message: Message) -> None:
        try:
            self._router.route(address, message)
        except WireError as error:
            self._set_aside(address, message, error)

    def _take(self, frames: Sequence[RowFrame]) -> None:
        try:
            acks = self._store.ingest(frames)
        except StoreError as error:
            self.stats.store_failures_total += 1
            if not self._is_failing:
                log.error("ingest.store_lost", extra={"why": str(error)})
            self._is_failing = True
            return
        if self._is_failing:
            log.warning("ingest.store_back")
        self._is_failing = False
        self.stats.groups_total += 1
        self._at_step("ack")
        for ack in acks:
            self.transport.publish(self._ack_message(ack))
        self._on_stored({(frame.device, frame.stream) for frame in frames})

    def _ack_message(self, ack: Ack) -> Message:
        return Message(self._topics.dn(ack.device, "ack"), encode(ack))

    def _set_aside(self, address: Address, message: Message, error: WireError) -> None:
        self.stats.poison_total += 1
        log.warning("ingest.poison", extra={"topic": message.topic, "why": str(error)})
        folder = self._store.folder / "poison"
        try:
            self._store.count("poison_total", address.leaf)
            folder.mkdir(exist_ok=True)
            if sum(1 for _ in folder.iterdir()) < 2 * _POISON_FILES:
                path = folder / f"{address.device}-{secrets.token_hex(6)}.bin"
                path.write_bytes(message.payload)
                path.with_suffix(".why").write_text(f"{message.topic}\n{error}\n")
        except OSError as full:
            # A full disk must not stop the acks of what is stored; the counter above tells.
            log.warning("ingest.poison_not_kept", extra={"why": str(full)})


def drain(
    transport: Transport, timeout_s: float, on_connected: Callable[[], None]
) -> list[Message]:
    """Wait for one event, then take every message that is already there, within limits."""
    messages: list[Message] = []
    size = 0
    event: TransportEvent | None = transport.receive(timeout_s)
    while event is not None:
        if isinstance(event, Connected):
            on_connected()
        elif isinstance(event, Message):
            messages.append(event)
            size += len(event.payload)
        if len(messages) >= _GROUP_MESSAGES or size >= _GROUP_BYTES:
            break
        event = transport.receive(0.0)
    return messages


def parsed(topics: Topics, message: Message) -> Address | None:
    """Return where a message came from; None, and a log line, for a topic outside the tree."""
    try:
        return topics.parse(message.topic)
    except WireError as error:
        log.warning("ingest.foreign_topic", extra={"why": str(error)})
        return None


def _ignore(_what: object) -> None:
    pass
