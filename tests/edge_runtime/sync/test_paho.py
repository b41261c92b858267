"""The MQTT transport against real brokers on loopback."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.clock import SystemClock
from edge_runtime.config import OutboxConfig, SyncConfig
from edge_runtime.errors import ConfigError
from edge_runtime.ports import Clock, Connected, Disconnected, Message, TransportEvent
from edge_runtime.sync.frames import decode_frame
from edge_runtime.sync.link import Link
from edge_runtime.sync.messages import Ack, CloudState, encode
from edge_runtime.sync.outbox import Batch, Outbox
from edge_runtime.sync.paho import PahoTransport
from edge_runtime.sync.state import StateStore
from edge_runtime.testing.clock import FakeClock
from edge_runtime.types import Table
from edge_simulator.link import Chances, LinkProxy

PATIENCE_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def iotcore_port() -> Iterator[int]:
    """A broker from PyPI, for one test."""
    iotcore = pytest.importorskip("iotcore")
    port = free_port()
    with iotcore.Broker(port=port, listen="127.0.0.1", max_payload_size=262_144):
        yield port


class Mosquitto:
    """A Mosquitto that can be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
        )
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [str(shutil.which("mosquitto")), "-c", str(self._config)], stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
        raise TimeoutError("mosquitto did not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    if shutil.which("mosquitto") is None:
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def connect() -> Iterator[Callable[..., PahoTransport]]:
    """Open transports that are closed after the test."""
    opened = []

    def make(
        port: int,
        client: str,
        *filters: str,
        will: Message | None = None,
        clock: Clock | None = None,
        **options: object,
    ) -> PahoTransport:
        config = SyncConfig(port=port, **({"protocol": "3.1.1"} | options))
        opened.append(PahoTransport(config, client, clock or SystemClock(), jitter=lambda: 0.1))
        opened[-1].open(filters, will)
        return opened[-1]

    yield make
    for transport in opened:
        transport.close()


def wait_for(transport: PahoTransport, kind: type[TransportEvent]) -> TransportEvent:
    """Return the next event of a kind; others are passed over."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        event = transport.receive(1.0)
        if isinstance(event, kind):
            return event
    raise TimeoutError(f"no {kind.__name__} within {PATIENCE_S} s")


def test_messages_and_retained_ones_and_wills_travel(
    iotcore_port: int, connect: Callable[..., PahoTransport]
) -> None:
    """Payloads of any bytes, the retain flag and the will arrive as they were sent."""
    payload = bytes(range(256)) * 384
    device = connect(iotcore_port, "pump", "dn/#")
    wait_for(device, Connected)
    assert device.publish(Message("up/life", b"birth", retain=True))
    cloud = connect(iotcore_port, "cloud-ingest", "up/#")
    wait_for(cloud, Connected)

    assert wait_for(cloud, Message).payload == b"birth"
    assert cloud.publish(Message("dn/job", payload))
    assert wait_for(device, Message) == Message("dn/job", payload, 1)


@pytest.mark.mosquitto
def test_a_lost_link_publishes_the_will(
    mosquitto: Mosquitto, connect: Callable[..., PahoTransport]
) -> None:
    """A device whose socket breaks without good-bye is announced as gone."""
    cloud = connect(mosquitto.port, "cloud-ingest", "up/#")
    wait_for(cloud, Connected)
    device = connect(mosquitto.port, "pump", will=Message("up/life", b"gone"))
    wait_for(device, Connected)

    connect(mosquitto.port, "pump")

    assert wait_for(cloud, Message).payload == b"gone"


@pytest.mark.mosquitto
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_the_link_comes_back_by_itself(
    mosquitto: Mosquitto, connect: Callable[..., PahoTransport], protocol: str
) -> None:
    """A killed broker is a Disconnected, nothing is taken meanwhile, then all goes on."""
    device = connect(mosquitto.port, "pump", "dn/#", protocol=protocol)
    wait_for(device, Connected)

    mosquitto.kill()
    wait_for(device, Disconnected)
    assert not device.publish(Message("dn/x", b"lost"))
    mosquitto.start()
    wait_for(device, Connected)

    assert device.publish(Message("dn/x", b"kept"))
    assert wait_for(device, Message).payload == b"kept"
    assert device.stats().connections_total == 2


def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1(
    iotcore_port: int, connect: Callable[..., PahoTransport]
) -> None:
    """The fallback costs one attempt and no configuration."""
    device = connect(iotcore_port, "pump", "dn/#", protocol="5")

    wait_for(device, Connected)

    assert device.publish(Message("dn/x", b"hello"))
    assert wait_for(device, Message).payload == b"hello"


def test_messages_are_not_lost_when_nobody_receives(
    iotcore_port: int, connect: Callable[..., PahoTransport]
) -> None:
    """A full queue holds the broker back: 2,000 messages arrive late, in order, all of them."""
    reader = connect(iotcore_port, "reader", "up/#")
    writer = connect(iotcore_port, "writer")
    wait_for(reader, Connected)
    wait_for(writer, Connected)

    sent = 0
    deadline = time.monotonic() + PATIENCE_S
    while sent < 2000 and time.monotonic() < deadline:
        sent += writer.publish(Message("up/x", b"%d" % sent))
    found = [int(wait_for(reader, Message).payload) for _ in range(sent)]

    assert found == list(range(2000))


def test_an_exception_in_a_callback_is_logged_and_the_link_lives(
    iotcore_port: int, connect: Callable[..., PahoTransport], caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted; the network thread goes on."""
    device = connect(iotcore_port, "pump", "dn/#")
    wait_for(device, Connected)
    put = device._mailbox.put
    broken = [True]

    def fail_once(event: TransportEvent, token: int = 0) -> None:
        if broken.pop() if broken else False:
            raise RuntimeError("broken callback")
        put(event, token)

    device._mailbox.put = fail_once

    with caplog.at_level(logging.ERROR):
        device.publish(Message("dn/x", b"1"))
        device.publish(Message("dn/x", b"2"))
        assert wait_for(device, Message).payload == b"2"

    assert "transport.callback_failed" in caplog.text
    assert device.stats().errors_total == 1
    assert device.stats().connections_total == 1


class FailsOnce:
    """Stands for a method and raises the first time it is called."""

    def __init__(self, instead_of: Callable[..., object]) -> None:
        self._instead_of = instead_of
        self.has_failed = False

    def __call__(self, *args: object, **kwargs: object) -> object:
        if not self.has_failed:
            self.has_failed = True
            raise RuntimeError("broken callback")
        return self._instead_of(*args, **kwargs)


class CountsLater(int):
    """A number that cannot be counted up the first time."""

    has_failed = False

    def __add__(self, other: int) -> int:
        if not self.has_failed:
            self.has_failed = True
            raise RuntimeError("broken callback")
        return int(self) + other


@pytest.mark.parametrize("callback", ["connect", "subscribe"])
def test_a_greeting_that_fails_is_begun_again(
    iotcore_port: int, callback: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Without it nobody would learn that the link is up."""
    config = SyncConfig(port=iotcore_port, protocol="3.1.1")
    device = PahoTransport(config, "pump", SystemClock(), jitter=lambda: 0.1)
    broken: FailsOnce | CountsLater
    if callback == "connect":
        device._session = broken = CountsLater()
    else:
        device._mailbox.put = broken = FailsOnce(device._mailbox.put)
    device.open(["dn/#"], None)

    wait_for(device, Connected)
    assert device.publish(Message("dn/x", b"works"))
    assert wait_for(device, Message).payload == b"works"
    device.close()

    assert broken.has_failed
    assert "transport.callback_failed" in caplog.text
    assert device.stats().errors_total == 1


def test_a_confirmation_that_cannot_be_counted_leaves_the_link_up(
    iotcore_port: int, connect: Callable[..., PahoTransport]
) -> None:
    """A failing publish callback is counted; the connection stays."""
    device = connect(iotcore_port, "pump", "dn/#")
    wait_for(device, Connected)
    device._unacknowledged = Uncountable()

    device.publish(Message("dn/x", b"1"))
    assert wait_for(device, Message).payload == b"1"
    device.publish(Message("dn/x", b"2"))
    assert wait_for(device, Message).payload == b"2"
    deadline = time.monotonic() + PATIENCE_S
    while not device.stats().errors_total and time.monotonic() < deadline:
        device.receive(0.05)

    assert device.stats().errors_total > 0
    assert device.stats().connections_total == 1


class Uncountable(int):
    """A number that cannot be counted down."""

    def __add__(self, other: int) -> Uncountable:
        return Uncountable(int(self) + other)

    def __sub__(self, other: int) -> int:
        raise RuntimeError("broken callback")

    def __lt__(self, other: object) -> bool:
        return True


@pytest.mark.mosquitto
def test_a_farewell_that_fails_does_not_keep_the_link_from_coming_back(
    mosquitto: Mosquitto, connect: Callable[..., PahoTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disconnect callback logs, and that can fail as anything can."""
    device = connect(mosquitto.port, "pump", "dn/#", protocol="5")
    wait_for(device, Connected)
    monkeypatch.setattr("edge_runtime.sync.paho._TAKEN_OVER", Incomparable())

    connect(mosquitto.port, "pump", protocol="5")

    wait_for(device, Disconnected)
    wait_for(device, Connected)
    assert device.stats().errors_total >= 1


class Incomparable:
    """Raises when somebody compares with it."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("broken callback")

    __hash__ = None


def test_a_broker_that_confirms_nothing_is_greeted_anew(
    iotcore_port: int, connect: Callable[..., PahoTransport]
) -> None:
    """When as many messages as may be on their way have vanished, the link does not stand still."""
    with LinkProxy(target=("127.0.0.1", iotcore_port), unit="packets") as link:
        clock = FakeClock()
        device = connect(link.port, "pump", "dn/#", clock=clock)
        wait_for(device, Connected)
        link.chances = Chances(drop=1.0)
        for _ in range(60):
            assert device.publish(Message("up/x", b"lost"))
        while link.counts().dropped < 60:
            device.receive(0.05)
        link.chances = Chances()

        clock.advance(61.0)
        # More to send, or a time-out, lets the network thread look at the clock.
        device.publish(Message("up/x", b"waits"))
        wait_for(device, Disconnected)
        wait_for(device, Connected)

        assert device.publish(Message("dn/x", b"passes"))
        assert wait_for(device, Message).payload == b"passes"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_network_thread_is_noticed_and_replaced(
    iotcore_port: int, connect: Callable[..., PahoTransport]
) -> None:
    """Whatever ends it, the next call starts another and says that the link was lost."""
    device = connect(iotcore_port, "pump", "dn/#")
    wait_for(device, Connected)
    first = device._thread
    flush = device._flush

    def die(_: object) -> None:
        device._flush = flush
        raise SystemExit

    device._flush = die
    device.wake()
    device._bell.ring()
    first.join(PATIENCE_S)

    wait_for(device, Disconnected)
    wait_for(device, Connected)
    assert device.stats().thread_restarts_total == 1


def test_a_wake_ends_a_wait(iotcore_port: int, connect: Callable[..., PahoTransport]) -> None:
    """A waiting receive returns at once when another thread wakes it."""
    device = connect(iotcore_port, "pump")
    wait_for(device, Connected)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(device.receive(PATIENCE_S)))
    waiting.start()

    device.wake()
    waiting.join(PATIENCE_S)

    assert answers == [None]


def test_a_file_that_cannot_be_read_is_told_before_connecting(tmp_path: Path) -> None:
    """A missing password or CA file is a ConfigError, not an endless reconnection."""
    for field in ("password_file", "ca_file"):
        config = SyncConfig(**{field: tmp_path / "missing"})

        with pytest.raises(ConfigError, match="missing"):
            PahoTransport(config, "pump", SystemClock()).open([], None)


def test_nothing_listens_and_nothing_breaks(connect: Callable[..., PahoTransport]) -> None:
    """Without a broker publish says no, receive waits, close returns."""
    device = connect(free_port(), "pump")

    assert device.receive(0.3) is None
    assert not device.publish(Message("x", b""))
    device.close()
    device.close()

    assert device.stats().connections_total == 0
    assert device.stats().failures_total > 0


class Ingest(threading.Thread):
    """Stores rows in a list and acknowledges them, until all are there."""

    def __init__(self, transport: PahoTransport, total: int) -> None:
        super().__init__()
        self.rows: list[int] = []
        self._transport = transport
        self._total = total
        self.stop = threading.Event()

    def run(self) -> None:
        while len(self.rows) < self._total and not self.stop.is_set():
            event = self._transport.receive(0.5)
            if isinstance(event, Connected):
                online = encode(CloudState(is_online=True))
                self._transport.publish(Message("er/1/all/cloud", online, retain=True))
            elif isinstance(event, Message) and "/tel/" in event.topic:
                self._store(event)

    def _store(self, event: Message) -> None:
        frame = decode_frame(event.payload)
        is_ahead = frame.seq0 > len(self.rows)
        if not is_ahead:
            self.rows.extend(frame.table.columns["x"].tolist()[len(self.rows) - frame.seq0 :])
        ack = Ack("pump", frame.incarnation, frame.epoch, "main", len(self.rows), is_ahead)
        self._transport.publish(Message("er/1/d/pump/dn/ack", encode(ack)))


@pytest.fixture
def deliver(
    tmp_path: Path, connect: Callable[..., PahoTransport]
) -> Callable[[int, Callable[[int], None]], Ingest]:
    """Deliver 20,000 rows over a real broker, with something done in between."""

    def run(port: int, between: Callable[[int], None]) -> Ingest:
        clock = SystemClock()
        state = StateStore(tmp_path / "state.db", clock)
        epoch, incarnation = state.start()
        outbox = Outbox.open(
            tmp_path / "outbox.db",
            epoch=epoch,
            incarnation=incarnation,
            config=OutboxConfig(),
            clock=clock,
        )
        config = SyncConfig(port=port, protocol="3.1.1")
        transport = PahoTransport(config, "pump", clock, jitter=lambda: 0.1)
        link = Link("pump", transport, outbox, state, clock, lambda _: (), config)
        ingest = Ingest(connect(port, "cloud-ingest", "er/1/d/+/up/#"), 20_000)
        ingest.start()
        stop = threading.Event()
        network = threading.Thread(target=link.run, args=(stop,))
        network.start()
        for number in range(100):
            table = Table({"x": np.arange(200 * number, 200 * number + 200)})
            outbox.commit(
                source="main",
                position=0,
                snapshot=b"",
                base="",
                batches=[Batch("main", "estimate", table)],
            )
            link.wake()
            between(number)
        ingest.join(3 * PATIENCE_S)
        ingest.stop.set()
        stop.set()
        link.wake()
        network.join(PATIENCE_S)
        outbox.close()
        state.close()
        return ingest

    return run


def test_rows_travel_over_a_real_broker(
    iotcore_port: int, deliver: Callable[[int, Callable[[int], None]], Ingest]
) -> None:
    """Outbox, link, transport, broker and ingest: every row once, in order."""
    ingest = deliver(iotcore_port, lambda _: None)

    assert ingest.rows == list(range(20_000))


@pytest.mark.mosquitto
def test_rows_survive_a_broker_that_is_killed_again_and_again(
    mosquitto: Mosquitto, deliver: Callable[[int, Callable[[int], None]], Ingest]
) -> None:
    """A broker without memory dies three times while rows are on their way; none is missing."""

    def kill_at_times(number: int) -> None:
        if number in (20, 50, 80):
            mosquitto.kill()
            mosquitto.start()

    ingest = deliver(mosquitto.port, kill_at_times)

    assert ingest.rows == list(range(20_000))
