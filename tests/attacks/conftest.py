"""A cloud, a broker with TLS, and two enrolled devices, one of which means ill."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge_cloud.links import BRIDGE, HOME_ASSISTANT
from edge_runtime.ports import Connected, Message, TransportEvent
from edge_runtime.sync.paho import PahoTransport
from edge_simulator.secured import SecuredCloud

PATIENCE_S = 60.0
MARK = b"mark"


class Party:
    """A connected client that collects what it is sent."""

    def __init__(self, transport: PahoTransport, *filters: str) -> None:
        self.transport = transport
        transport.open(filters, None)
        self.wait_for(Connected)

    def wait_for(self, kind: type[TransportEvent]) -> TransportEvent:
        """Return the next event of a kind; others are passed over."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            event = self.transport.receive(1.0)
            if isinstance(event, kind):
                return event
        raise TimeoutError(f"no {kind.__name__}")

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert self.transport.publish(Message(topic, payload, retain=retain))

    def send_and_settle(self, topic: str, payload: bytes) -> None:
        """Send, and wait until the broker has dealt with it, one way or the other."""
        self.send(topic, payload)
        deadline = time.monotonic() + PATIENCE_S
        calm = 0
        # Twice, for between two queues a message is in none of them.
        while calm < 2:
            assert time.monotonic() < deadline, "the broker does not answer"
            self.transport.receive(0.01)
            is_busy = self.transport._outgoing or self.transport._unacknowledged
            calm = 0 if is_busy else calm + 1

    def until_mark(self) -> list[tuple[str, bytes]]:
        """Return what came before a message that says `MARK`, without it."""
        found: list[tuple[str, bytes]] = []
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            event = self.transport.receive(1.0)
            if isinstance(event, Message):
                if event.payload == MARK:
                    return found
                found.append((event.topic, event.payload))
        raise TimeoutError(f"no mark; until then: {found}")


class Scene:
    """Everybody on one broker."""

    def __init__(self, cloud: SecuredCloud, stack: ExitStack) -> None:
        self.cloud = cloud
        self._stack = stack

    def party(self, transport: PahoTransport, *filters: str) -> Party:
        self._stack.callback(transport.close)
        return Party(transport, *filters)

    def ingest(self) -> Party:
        return self.party(self.cloud.role(), "er/1/d/+/up/#")

    def bridge(self, *filters: str) -> Party:
        return self.party(self.cloud.role(BRIDGE), *filters)

    def home_assistant(self, *filters: str) -> Party:
        return self.party(self.cloud.role(HOME_ASSISTANT), *filters)

    def device(self, name: str, *filters: str, client_id: str | None = None) -> Party:
        return self.party(self.cloud.device(name, client_id), *filters)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredCloud]:
    """A cloud with its broker, for the tests of one file."""
    if shutil.which("mosquitto") is None:
        pytest.skip("mosquitto is not installed")
    with SecuredCloud(tmp_path_factory.mktemp("secured")) as cloud:
        for name in ("good", "evil"):
            cloud.enroll(name)
        cloud.broker.start()
        yield cloud


@pytest.fixture
def scene(secured: SecuredCloud) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(secured, stack)


@pytest.fixture
def own_scene(tmp_path: Path) -> Iterator[Scene]:
    """The same for one test alone, which changes who is in."""
    if shutil.which("mosquitto") is None:
        pytest.skip("mosquitto is not installed")
    with SecuredCloud(tmp_path) as cloud, ExitStack() as stack:
        for name in ("good", "evil"):
            cloud.enroll(name)
        cloud.broker.start()
        yield Scene(cloud, stack)
