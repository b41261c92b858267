"""The in-memory twin of a broker: deterministic, and able to fail on demand.

::

    broker = MemoryBroker()
    device = broker.transport("pump-1")
    device.open(["er/1/d/pump-1/dn/#"], will=None)
    device.receive(0)          # Connected()
    broker.cut("pump-1")       # the will is published, publish() says False

Everything happens inside the call that causes it, on the caller's thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from edge_runtime.ports import Connected, Disconnected, Message, TransportEvent
from edge_runtime.sync.mailbox import Mailbox

__all__ = ["Fault", "MemoryBroker", "MemoryTransport", "topic_matches"]

Fault = Callable[[str, Message], Sequence[Message]]
"""Says what reaches a client instead of one message: nothing, it twice, an older one …"""

_QUEUE_LIMIT = 10_000


class MemoryBroker:
    """Routes messages between `MemoryTransport`s of one process.

    Has retained messages, wills, ``+`` and ``#``, shared subscriptions that deal
    messages out in turn, one session per client id, and keeps the order of messages.
    Sessions start clean: what a client misses while it is cut off is lost to it.
    A client that does not receive loses what exceeds its queue (``drop_newest``),
    and ``discarded_total`` says so.

    Args:
        fault: Asked about every delivery; None delivers everything once.
    """

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault
        self.discarded_total = 0
        self._retained: dict[str, Message] = {}
        self._clients: dict[str, MemoryTransport] = {}
        self._cut: set[str] = set()
        self._dealt: Counter[str] = Counter()
        self._guard = threading.RLock()

    def transport(self, client_id: str) -> MemoryTransport:
        """Return a new transport to this broker."""
        return MemoryTransport(self, client_id)

    def retained(self, topic: str) -> Message | None:
        """Return the retained message of one topic."""
        return self._retained.get(topic)

    def cut(self, client_id: str) -> None:
        """Break a client's link until `mend`; its will is published."""
        with self._guard:
            self._cut.add(client_id)
            client = self._clients.get(client_id)
            if client is not None:
                self._end(client, "cut")

    def mend(self, client_id: str) -> None:
        """Let a client connect again, which it does at once."""
        with self._guard:
            self._cut.discard(client_id)
            client = self._clients.get(client_id)
            if client is not None:
                self._begin(client)

    def attach(self, client: MemoryTransport) -> None:
        """Start a client's session, taking it over from an older one of the same id."""
        with self._guard:
            older = self._clients.get(client.client_id)
            if older is not None and older is not client:
                self._end(older, "session taken over")
            self._clients[client.client_id] = client
            if client.client_id not in self._cut:
                self._begin(client)

    def detach(self, client: MemoryTransport) -> None:
        """End a client's session cleanly: its will is not published."""
        with self._guard:
            client.will = None
            self._end(client, "closed")
            if self._clients.get(client.client_id) is client:
                del self._clients[client.client_id]

    def route(self, message: Message) -> None:
        """Deliver one message to everybody who subscribed to its topic."""
        with self._guard:
            if message.retain:
                self._retain(message)
            live = msgspec.structs.replace(message, retain=False)
            for client in list(self._clients.values()):
                if client.is_connected and client.wants(message.topic):
                    self._deliver(client, live)
            for share in self._shares(message.topic):
                self._deliver(self._next_of(share), live)

    def _shares(self, topic: str) -> list[str]:
        """Return the shared subscriptions that match a topic and have somebody there."""
        present = [client for client in self._clients.values() if client.is_connected]
        shared = {pattern for client in present for pattern in client.shared}
        return sorted(one for one in shared if topic_matches(one.split("/", 2)[2], topic))

    def _next_of(self, share: str) -> MemoryTransport:
        members = [
            one for one in self._clients.values() if one.is_connected and share in one.shared
        ]
        self._dealt[share] += 1
        return members[self._dealt[share] % len(members)]

    def _retain(self, message: Message) -> None:
        if message.payload:
            self._retained[message.topic] = message
        else:
            self._retained.pop(message.topic, None)

    def _deliver(self, client: MemoryTransport, message: Message) -> None:
        arriving = [message] if self.fault is None else self.fault(client.client_id, message)
        for each in arriving:
            if client.mailbox.is_full:
                self.discarded_total += 1
            else:
                client.mailbox.put(each)

    def _begin(self, client: MemoryTransport) -> None:
        if client.is_connected:
            return
        client.is_connected = True
        client.mailbox.put(Connected())
        for message in list(self._retained.values()):
            if client.wants(message.topic):
                self._deliver(client, message)

    def _end(self, client: MemoryTransport, reason: str) -> None:
        if not client.is_connected:
            return
        client.is_connected = False
        client.mailbox.put(Disconnected(reason))
        if client.will is not None:
            self.route(client.will)


class MemoryTransport:
    """A `Transport` to a `MemoryBroker`; every method is callable from any thread.

    Delivery: at most once, as the port says.
    """

    def __init__(self, broker: MemoryBroker, client_id: str) -> None:
        self.client_id = client_id
        self.mailbox = Mailbox(_QUEUE_LIMIT)
        self.will: Message | None = None
        self.is_connected = False
        self._broker = broker
        self._subscriptions: tuple[str, ...] = ()

    def open(self, subscriptions: Sequence[str], will: Message | None) -> None:
        """Connect, unless this client is cut off."""
        self._subscriptions = tuple(subscriptions)
        self.will = will
        self._broker.attach(self)

    def publish(self, message: Message) -> bool:
        """Route a message at once; False while the link is down."""
        if not self.is_connected:
            return False
        self._broker.route(message)
        return True

    def receive(self, timeout_s: float) -> TransportEvent | None:
        """Return the next event, or None after ``timeout_s`` or a wake."""
        entry = self.mailbox.get(timeout_s)
        return None if entry is None else entry[0]

    def wake(self) -> None:
        """Make a waiting ``receive`` return None at once."""
        self.mailbox.wake()

    def close(self) -> None:
        """Disconnect cleanly; safe to call twice."""
        self._broker.detach(self)

    @property
    def shared(self) -> list[str]:
        """Shared subscriptions."""
        return [one for one in self._subscriptions if one.startswith("$share/")]

    def wants(self, topic: str) -> bool:
        """Whether a subscription of its own matches ``topic``."""
        return any(topic_matches(pattern, topic) for pattern in self._subscriptions)


def topic_matches(pattern: str, topic: str) -> bool:
    """Whether an MQTT filter with ``+`` and ``#`` matches a topic."""
    levels = topic.split("/")
    wanted = pattern.split("/")
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position == len(levels) or level not in ("+", levels[position]):
            return False
    return len(wanted) == len(levels)
