"""The ingest role: frames in, rows made durable, acks out.

Order: segment synced, catalogue committed, ack published. Killed in between,
the device sends again and nothing is stored twice.

Delivery: at least once on the wire, exactly once in the store. What cannot be
decoded is set aside under ``poison`` and counted; it is never acknowledged.
Nothing is taken from a revoked device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import msgspec

from edge_cloud.config import IngestConfig
from edge_cloud.early import Arrived, Early, Key, key_of, key_of_ack
from edge_cloud.poison import Poison
from edge_cloud.quota import Quotas
from edge_cloud.store import Store, check_frame
from edge_runtime.clock import SystemClock
from edge_runtime.errors import StoreError, WireError
from edge_runtime.ports import Clock, Connected, Message, Transport, TransportEvent
from edge_runtime.sync.frames import RowFrame, decode_frame
from edge_runtime.sync.messages import Ack, CloudState, decode, encode
from edge_runtime.sync.topics import Address, Topics

__all__ = ["Handler", "Ingest", "IngestStats", "Member", "Router", "read_frame", "replay"]

log = logging.getLogger(__name__)

Handler = Callable[[Address, bytes], None]
"""Takes one control message: where it came from, and its payload."""

# One group commit: enough to share its fsyncs, small enough to answer soon.
_GROUP_MESSAGES = 256
_GROUP_BYTES = 8 << 20
# How long to wait for room in the transport's queue.
_CONGESTED_S = 0.002
# Streams of which it is known what was counted already; a quota need not be exact.
_MARKS = 100_000
# A payload may unfold to a hundred times its size; so much of it is held at a time.
_HELD_BYTES = 32 << 20
# A device that missed the presence, or got it damaged, would hold its rows for ever.
_PRESENCE_NS = 20 * 10**9


class IngestStats(msgspec.Struct):
    """Counters since start.

    Attributes:
        frames_total: Frames decoded.
        groups_total: Group commits.
        poison_total: Messages set aside.
        refused_total: Messages of revoked devices.
        store_failures_total: Groups that the store did not take.
        bytes_total: Payload bytes received.
        acks_delayed_total: Acks that waited because their device is over its quota.
    """

    frames_total: int = 0
    groups_total: int = 0
    poison_total: int = 0
    refused_total: int = 0
    store_failures_total: int = 0
    bytes_total: int = 0
    acks_delayed_total: int = 0


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


class Member(msgspec.Struct, frozen=True):
    """One of several ingesters.

    Attributes:
        number: From 0; part of its client id.
        is_sharing: Whether it takes its share of the frames, or all of them.
    """

    number: int
    is_sharing: bool = True


class Ingest:
    """Take frames from a broker into a store, and say that the cloud is there.

    Thread: the one that calls ``step``; several processes may ingest into one store.

    Args:
        transport: Used by this object alone for receiving.
        store: Where rows go.
        topics: The topic tree.
        handlers: Who takes ``life``, ``last``, ``job`` and ``blob``.
        on_stored: Told which (device, stream) got new rows, after they are durable.
        config: Quotas, and how members share.
        member: Which of several ingesters it is: frames are all it takes then.
        clock: For the time of presence, for quotas and for waiting.
        revoked: Says which devices are out, each time that messages come.
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
        config: IngestConfig | None = None,
        member: Member | None = None,
        clock: Clock | None = None,
        revoked: Callable[[], Collection[str]] = frozenset,
        at_step: Callable[[str], None] | None = None,
    ) -> None:
        self.transport = transport
        self._store = store
        self._revoked = revoked
        self._topics = topics or Topics()
        self._router = Router(transport, topics=self._topics, leaves=["#"], handlers=handlers or {})
        self._on_stored = on_stored or _ignore
        self._config = config or IngestConfig()
        self._member = member
        self._clock = clock or SystemClock()
        self._at_step = at_step or _ignore
        self._poison = Poison(store.folder)
        self._quotas = Quotas(self._config, self._clock)
        waits_s = self._config.hold_s if member is not None and member.is_sharing else 0.0
        self._early = Early(waits_s, self._clock)
        self._marks: dict[Key, int] = {}
        self._acks: dict[Key, Ack] = {}
        self._is_failing = False
        self._online: CloudState | None = None
        self._presence_due_ns = 0
        self._refused: set[str] = set()
        self.stats = IngestStats()

    def open(self) -> None:
        """Connect, subscribe to what devices write, and be online while connected."""
        will = Message(self._topics.all_cloud, encode(CloudState(is_online=False)), retain=True)
        self.transport.open(self._filters(), will)

    def _filters(self) -> list[str]:
        if self._member is None:
            return [self._topics.every_up("#")]
        frames = self._topics.every_up("tel/+")
        if not self._member.is_sharing:
            return [frames]
        return [self._topics.shared(self._config.group, frames), self._topics.all_cloud]

    def close(self) -> None:
        """Say good-bye and disconnect; safe to call twice."""
        self._publish_presence(CloudState(is_online=False, made_ns=self._clock.now_ns()))
        self.transport.close()

    def step(self, timeout_s: float) -> int:
        """Wait for messages, store all that are there as one group; return their number."""
        wait_s = min(timeout_s, self._quotas.due_in_s(), self._early.retry_in_s())
        wait_s = min(wait_s, _CONGESTED_S) if self._acks else wait_s
        messages = drain(self.transport, wait_s, self._on_connected)
        arrived, held = self._early.take(), 0
        for address, message in self._admitted(messages):
            if address.way == "all":
                self._on_presence(message)
            elif address.leaf == "tel":
                decoded = self._decoded(address, message)
                arrived += decoded
                held += sum(each.frame.table.nbytes for each in decoded)
            else:
                self._routed(address, message)
            if held >= _HELD_BYTES:
                self._take(arrived)
                arrived, held = self._early.take(), 0
        if arrived:
            self._take(arrived)
        for ack in self._quotas.due():
            self._acks[key_of_ack(ack)] = ack
        self._send_acks()
        self._repeat_presence()
        return len(messages)

    def _send_acks(self) -> None:
        """Send the newest ack of every stream, as many as the transport takes now."""
        for key in list(self._acks):
            if not self.transport.publish(self._ack_message(self._acks[key])):
                return
            del self._acks[key]

    def _admitted(self, messages: Sequence[Message]) -> Iterator[tuple[Address, Message]]:
        """Give the messages of the topic tree, without those of revoked devices."""
        revoked = self._revoked() if messages else ()
        for message in messages:
            address = parsed(self._topics, message)
            if address is None:
                continue
            if address.device in revoked:
                self._refuse(address)
            else:
                yield address, message

    def _refuse(self, address: Address) -> None:
        self.stats.refused_total += 1
        if address.device not in self._refused:
            self._refused.add(address.device)
            log.warning("ingest.revoked_device", extra={"device": address.device})

    def _on_connected(self) -> None:
        self._online = CloudState(is_online=True, made_ns=self._clock.now_ns())
        self._publish_presence(self._online)

    def _on_presence(self, message: Message) -> None:
        """Say what the newest member said; when one has gone, that the cloud is still there.

        All members repeat the same: only another ``made_ns`` makes devices send again.
        """
        try:
            state = decode(message.payload, CloudState)
        except WireError as error:
            log.warning("ingest.presence_refused", extra={"why": str(error)})
            return
        if state.is_online:
            self._online = state
        else:
            self._on_connected()

    def _repeat_presence(self) -> None:
        """Say the same again: only another ``made_ns`` makes devices send again."""
        if self._online is not None and self._clock.monotonic_ns() >= self._presence_due_ns:
            self._publish_presence(self._online)

    def _publish_presence(self, state: CloudState) -> None:
        self._presence_due_ns = self._clock.monotonic_ns() + _PRESENCE_NS
        self.transport.publish(Message(self._topics.all_cloud, encode(state), retain=True))

    def _decoded(self, address: Address, message: Message) -> list[Arrived]:
        self.stats.bytes_total += len(message.payload)
        try:
            frame = read_frame(address, message)
        except WireError as error:
            self._set_aside(address, message, error)
            return []
        self.stats.frames_total += 1
        return [Arrived(frame, len(message.payload), self._clock.monotonic_ns())]

    def _routed(self, address: Address, message: Message) -> None:
        try:
            self._router.route(address, message)
        except WireError as error:
            self._set_aside(address, message, error)

    def _take(self, arrived: Sequence[Arrived]) -> None:
        try:
            acks = self._store.ingest([each.frame for each in arrived])
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
        self._count(arrived, acks)
        for ack in self._early.keep(arrived, acks):
            self._acknowledge(ack)
        self._on_stored({(each.frame.device, each.frame.stream) for each in arrived})

    def _count(self, arrived: Sequence[Arrived], acks: Sequence[Ack]) -> None:
        """Charge every device with what its frames brought for the first time."""
        upto = {key_of_ack(ack): ack.upto for ack in acks}
        for each in arrived:
            frame, key = each.frame, key_of(each.frame)
            is_stored = frame.seq0 + frame.n <= upto[key]
            if is_stored and frame.seq0 + frame.n > self._marks.get(key, 0):
                rows = 0 if frame.kind == "gap" else frame.n
                self._quotas.take(frame.device, rows, each.size)
        self._marks |= upto
        if len(self._marks) > _MARKS:
            self._marks.clear()

    def _acknowledge(self, ack: Ack) -> None:
        was_delayed = ack.device in self._quotas.delayed
        passed = self._quotas.pass_on(ack)
        if passed is not None:
            self._acks[key_of_ack(passed)] = passed
            return
        self.stats.acks_delayed_total += 1
        if not was_delayed:
            log.info("ingest.over_quota", extra={"device": ack.device})
            self._store.count("quota_delays_total", ack.device)

    def _ack_message(self, ack: Ack) -> Message:
        return Message(self._topics.dn(ack.device, "ack"), encode(ack))

    def _set_aside(self, address: Address, message: Message, error: WireError) -> None:
        self.stats.poison_total += 1
        log.warning("ingest.poison", extra={"topic": message.topic, "why": str(error)})
        try:
            self._store.count("poison_total", address.leaf)
            self._poison.add(address, message, error)
        except OSError as full:
            # A full disk must not stop the acks of what is stored; the counter above tells.
            log.warning("ingest.poison_not_kept", extra={"why": str(full)})


def read_frame(address: Address, message: Message) -> RowFrame:
    """Decode one frame and check that it speaks for its topic.

    Raises:
        WireError: It does not decode, or is of another device or stream.
    """
    frame = check_frame(decode_frame(message.payload))
    if (frame.device, frame.stream) != (address.device, address.name):
        raise WireError(
            f"frame of {frame.device}/{frame.stream}",
            where=message.topic,
            expected="a frame of the topic's own device and stream",
        )
    return frame


def replay(store: Store, names: Sequence[str], topics: Topics | None = None) -> dict[str, str]:
    """Take messages that were set aside as if they came now.

    Args:
        store: Where rows go; nobody is told, the device hears when it sends them again.
        names: Of the entries.
        topics: The topic tree.

    Returns:
        Why each was not taken; empty for one that was, which is not set aside any more.

    Raises:
        ConfigError: There is no such entry.
    """
    poison = Poison(store.folder)
    outcome = {}
    for name in names:
        message = poison.message(name)
        outcome[name] = _replayed(store, message, topics or Topics())
        if not outcome[name]:
            poison.drop(name)
    return outcome


def _replayed(store: Store, message: Message, topics: Topics) -> str:
    address = topics.parse(message.topic)
    if address.leaf != "tel":
        return f"{address.leaf} is no frame of rows"
    try:
        frame = read_frame(address, message)
    except WireError as error:
        return str(error)
    (ack,) = store.ingest([frame])
    return f"rows before it are missing; the mark is {ack.upto}" if ack.must_resume else ""


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
