"""The in-memory twin of `LinkProxy`: a device's line to the broker, on the event clock."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

from edge_runtime.ports import Message, TransportEvent
from edge_runtime.sync.transport import MemoryBroker, MemoryTransport
from edge_simulator.fleet.world import World
from edge_simulator.link.flow import Chances

__all__ = ["Line"]

# An MQTT client that hears nothing gives a link up after one and a half keep-alives.
_PATIENCE = 1.5
_NEVER_S = 1e9


class Line:
    """One device's line: up, cut or half open, with delay and bandwidth.

    It outlives its device, as a cable does; `plug` gives each start of the device
    a `Transport` of its own. A message that is on its way when the link breaks is lost.

    Args:
        world: Tells when messages arrive.
        broker: At the other end.
        name: Client id of the device.
        seed: With the order of messages alone it decides which are lost or come twice.
        keepalive_s: After one and a half of these a dead link is noticed.
        on_arrival: Called when something has reached the broker or the device later
            than it was sent, or a dead link is noticed.

    Attributes:
        delay_s: One way, for every message.
        bytes_per_s: Of each direction; None for no limit.
        chances: How many messages are lost, and how many come twice.
    """

    def __init__(
        self,
        world: World,
        broker: MemoryBroker,
        name: str,
        *,
        seed: int,
        keepalive_s: float,
        on_arrival: Callable[[], None],
    ) -> None:
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self.chances = Chances()
        self._random = random.Random(f"{seed}/line/{name}")  # noqa: S311 - repeatable
        self._world = world
        self._broker = broker
        self._name = name
        self._keepalive_s = keepalive_s
        self._on_arrival = on_arrival
        self._is_half_open = False
        self._is_cut = False
        self._is_on = False
        self._session = 0
        self._free_ns = [0, 0]
        self._inner: MemoryTransport | None = None
        self._arrived: deque[TransportEvent] = deque()
        self.wanted_s = _NEVER_S

    # --- faults -----------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether messages get through."""
        return not (self._is_cut or self._is_half_open)

    def cut(self) -> None:
        """Reset the connection, and let none come about."""
        self._is_cut = True
        self._part()

    def half_open(self) -> None:
        """Swallow everything; the device notices after its keep-alive, the broker too."""
        self._is_half_open = True
        session = self._session
        noticed_ns = self._world.elapsed_ns + round(_PATIENCE * self._keepalive_s * 1e9)
        self._world.at(noticed_ns, lambda: self._notice(session))

    def mend(self) -> None:
        """Carry messages again; a connection that lost some is made anew."""
        if self._is_half_open:
            self._part()
        self._is_cut = self._is_half_open = False
        self._join()

    # --- the device's end ---------------------------------------------------------------

    def plug(self) -> Line:
        """Give a device that starts its end of the line."""
        self._part()
        self._arrived.clear()
        self._inner = self._broker.transport(self._name)
        return self

    def unplug(self) -> None:
        """The device is without power."""
        self._is_on = False
        self._part()
        self._inner = None

    def open(self, subscriptions: Sequence[str], will: Message | None) -> None:
        """Connect as soon as the line is up; see `Transport`."""
        self._is_on = True
        self._broker.cut(self._name)
        self._end().open(subscriptions, will)
        self._join()

    def publish(self, message: Message) -> bool:
        """Send a message; True also for one that is lost on the way."""
        inner = self._end()
        if not inner.is_connected:
            return False
        if self._is_half_open:
            return True
        sent = [self._send(inner, message) for _ in range(self._copies())]
        return all(sent)

    def receive(self, timeout_s: float) -> TransportEvent | None:
        """Return what has arrived; never waits, but notes for how long it was to."""
        self._take_in()
        if self._arrived:
            return self._arrived.popleft()
        self.wanted_s = timeout_s
        return None

    def wake(self) -> None:
        """Nobody waits in a simulation."""

    def close(self) -> None:
        """Disconnect cleanly."""
        self._end().close()

    # --- inside -------------------------------------------------------------------------

    def _end(self) -> MemoryTransport:
        assert self._inner is not None  # noqa: S101 - plugged before it is used
        return self._inner

    def _send(self, inner: MemoryTransport, message: Message) -> bool:
        due_ns = self._due_ns(0, message)
        if due_ns <= self._world.elapsed_ns:
            return inner.publish(message)
        self._later(due_ns, lambda: inner.publish(message))
        return True

    def _take_in(self) -> None:
        """Let what the broker has sent arrive, or be on its way, or be lost."""
        inner = self._end()
        while (event := inner.receive(0.0)) is not None:
            if not isinstance(event, Message):
                self._arrived.append(event)
            elif not self._is_half_open:
                for _ in range(self._copies()):
                    self._carry(event)

    def _copies(self) -> int:
        """Return how often a message arrives: once, unless chance will have it otherwise."""
        if self._draws(self.chances.drop):
            return 0
        return 2 if self._draws(self.chances.duplicate) else 1

    def _draws(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    def _carry(self, message: Message) -> None:
        due_ns = self._due_ns(1, message)
        if due_ns <= self._world.elapsed_ns:
            self._arrived.append(message)
        else:
            self._later(due_ns, lambda: self._arrived.append(message))

    def _due_ns(self, way: int, message: Message) -> int:
        """Return when a message arrives, and keep that direction busy until it is through."""
        now_ns = self._world.elapsed_ns
        if self.bytes_per_s:
            start_ns = max(now_ns, self._free_ns[way])
            self._free_ns[way] = start_ns + round(len(message.payload) / self.bytes_per_s * 1e9)
            now_ns = self._free_ns[way]
        return now_ns + round(self.delay_s * 1e9)

    def _later(self, due_ns: int, do: Callable[[], object]) -> None:
        session = self._session

        def arrive() -> None:
            if session == self._session and not self._is_half_open:
                do()
                self._on_arrival()

        self._world.at(due_ns, arrive)

    def _notice(self, session: int) -> None:
        if self._is_half_open and session == self._session:
            self._part()
            self._on_arrival()

    def _part(self) -> None:
        """End the connection for both sides; the broker publishes the will."""
        self._free_ns = [0, 0]
        self._session += 1
        self._broker.cut(self._name)

    def _join(self) -> None:
        if self._is_on and self.is_up:
            self._broker.mend(self._name)
