"""The link against real brokers on loopback, and a scripted one for what those do not do."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from paho.mqtt import publish

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.registry import decode_path
from edge_runtime.sources.mqtt import MqttConfig, MqttSource
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.types import Frame
from edge_simulator.broker import Broker, free_port
from edge_simulator.link import Chances, LinkProxy

PATIENCE_S = 90.0
NEED = StreamSpec((ChannelSpec("t"),), 10.0)
WELCOME, GRANTED, REFUSED = b"\x20\x02\x00\x00", b"\x00", b"\x80"


@pytest.fixture(scope="module")
def iotcore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    pytest.importorskip("iotcore")
    with Broker("iotcore", tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def listen() -> Iterator[Callable[..., MqttSource]]:
    """Open sources that are closed after the test."""
    opened = []

    def make(port: int, topic: str = "plant/+/t", **options: Any) -> MqttSource:
        fields = {"channels": {"t": {"topic": topic}}, "timing": "arrival", **options}
        config = msgspec.convert({"port": port, **fields}, MqttConfig, dec_hook=decode_path)
        opened.append(MqttSource(config))
        opened[-1].open("s", NEED, 0)
        return opened[-1]

    yield make
    for source in opened:
        source.close()


def _send(port: int, value: float, topic: str = "plant/oven/t", **options: Any) -> None:
    publish.single(topic, json.dumps(value), hostname="127.0.0.1", port=port, **options)


def _heard(source: MqttSource, send: Callable[[], None]) -> Frame:
    """Publish until something is heard: nobody knows when a subscription stands."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        send()
        frame = source.read(0.2)
        if frame is not None:
            return frame
    raise TimeoutError(f"nothing was heard within {PATIENCE_S} s: {source.health()}")


def _failure(source: MqttSource) -> SourceError:
    """Read until the source fails."""
    with pytest.raises(SourceError) as caught:
        source.read(PATIENCE_S)
    assert all((caught.value.where, caught.value.expected, caught.value.remedy))
    return caught.value


def test_what_a_real_broker_carries_becomes_samples(
    iotcore: Broker, listen: Callable[..., MqttSource]
) -> None:
    """Topics that match the filter are heard, others are not."""
    source = listen(iotcore.port, qos=1)

    frame = _heard(source, lambda: _send(iotcore.port, 21.5))
    _send(iotcore.port, -1, "other/oven/t")
    later = _heard(source, lambda: _send(iotcore.port, 22.5, "plant/hall/t"))

    assert set(frame.samples[:, 0]) == {21.5}
    assert set(later.samples[:, 0]) <= {21.5, 22.5}
    assert source.health().faults == {}


@pytest.mark.parametrize("retained", [False, True])
def test_retained_messages_are_old_and_ignored_unless_wanted(
    iotcore: Broker, listen: Callable[..., MqttSource], retained: bool
) -> None:
    """A value that somebody left on the broker is no sample of now."""
    topic = f"kept/{retained}/t"
    _send(iotcore.port, 5, topic, retain=True, qos=1)
    source = listen(iotcore.port, topic, retained=retained)

    frame = _heard(source, lambda: _send(iotcore.port, 6, topic))

    assert frame.samples[0, 0] == (5 if retained else 6)
    assert source.health().faults == ({} if retained else {"retained": 1})


def test_a_broker_that_goes_away_is_waited_for(
    iotcore: Broker, listen: Callable[..., MqttSource], caplog: pytest.LogCaptureFixture
) -> None:
    """A cut link ends no stream: it is counted and logged once, and comes back by itself."""
    caplog.set_level(logging.INFO, "edge_runtime.sources.mqtt")
    with LinkProxy(target=("127.0.0.1", iotcore.port)) as proxy:
        source = listen(proxy.port)
        first = _heard(source, lambda: _send(iotcore.port, 1))

        proxy.cut()
        while not source.health().faults:
            source.read(0.1)
        proxy.mend()
        again = _heard(source, lambda: _send(iotcore.port, 2))

        assert again.index >= first.index + len(first)
        assert source.health().faults == {"broker_away": 1}
        assert [r.message for r in caplog.records].count("mqtt.lost") == 1


def test_a_line_that_damages_bytes_ends_no_stream(
    iotcore: Broker, listen: Callable[..., MqttSource]
) -> None:
    """Whatever the damage looks like, even like a refusal, good bytes are heard again."""
    with LinkProxy(target=("127.0.0.1", iotcore.port)) as proxy:
        source = listen(proxy.port)
        _heard(source, lambda: _send(iotcore.port, 1))
        proxy.chances = Chances(corrupt=0.05)
        for _ in range(40):
            _send(iotcore.port, 2)
            try:
                source.read(0.0)
            except SourceError:
                source.close()
                source.open("s", NEED, 0)
        proxy.chances = Chances()
        # What was damaged may still be on its way, and look like a refusal.
        source.close()
        source.open("s", NEED, 0)

        frame = _heard(source, lambda: _send(iotcore.port, 3))

    assert frame is not None
    assert sum(source.health().faults.values()) > 0


def test_a_broker_that_does_not_exist_is_no_dead_sensor(listen: Callable[..., MqttSource]) -> None:
    """Reads just return nothing."""
    source = listen(free_port())

    deadline_s = time.monotonic() + PATIENCE_S
    while not source.health().faults and time.monotonic() < deadline_s:
        assert source.read(0.1) is None

    assert source.health().faults == {"broker_away": 1}


def test_a_network_thread_that_breaks_is_told_and_replaced(
    iotcore: Broker, listen: Callable[..., MqttSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends it is an error of the source, not a silence for ever."""
    source = listen(iotcore.port)
    _heard(source, lambda: _send(iotcore.port, 1))
    monkeypatch.setattr(source._inbox, "put", lambda _: 1 // 0)

    with pytest.raises(SourceError, match="ZeroDivisionError"):
        _heard(source, lambda: _send(iotcore.port, 2))
    source.close()
    source.open("s", NEED, 0)

    assert _heard(source, lambda: _send(iotcore.port, 3)).samples[0, 0] == 3


def test_closing_wakes_a_read_and_ends_the_thread(
    iotcore: Broker, listen: Callable[..., MqttSource]
) -> None:
    """A read of a minute returns when another thread closes the source."""
    source = listen(iotcore.port)
    _heard(source, lambda: _send(iotcore.port, 1))
    reading = threading.Thread(target=source.read, args=(60.0,))
    reading.start()

    source.close()
    reading.join(PATIENCE_S)

    assert not reading.is_alive()
    assert not [t for t in threading.enumerate() if t.name == "mqtt-127.0.0.1"]


class ScriptedBroker:
    """Answers a connection with bytes: CONNACK, then per subscription its SUBACK and a message.

    Args:
        scripts: One per connection in turn: CONNACK, code of the SUBACK; None hangs up
            at once. After the last one nobody listens.
        context: Speaks TLS.
    """

    def __init__(
        self,
        scripts: Sequence[tuple[bytes, bytes] | None],
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._context = context
        self.port = self._listener.getsockname()[1]
        self.connects: list[bytes] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, args=(scripts,), daemon=True)
        self._thread.start()

    def _serve(self, scripts: Sequence[tuple[bytes, bytes] | None]) -> None:
        for script in scripts:
            sock, _ = self._listener.accept()
            try:
                self._answer(sock, script)
            except OSError:
                sock.close()
        self._listener.close()

    def _answer(self, sock: socket.socket, script: tuple[bytes, bytes] | None) -> None:
        if self._context is not None:
            sock = self._context.wrap_socket(sock, server_side=True)
        self.connects.append(sock.recv(1024))
        if script is None:
            sock.close()
            return
        self._open.append(sock)
        connack, code = script
        sock.sendall(connack)
        if connack == WELCOME:
            subscribe = sock.recv(1024)
            sock.sendall(b"\x90\x03" + subscribe[2:4] + code)
        if code == GRANTED:
            # PUBLISH, QoS 0: topic "plant/x/t", payload "7".
            sock.sendall(b"\x30\x0c\x00\x09plant/x/t7")

    def close(self) -> None:
        for sock in self._open:
            sock.close()
        self._thread.join(PATIENCE_S)


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedBroker]]:
    made = []

    def make(*scripts: tuple[bytes, bytes] | None, **options: Any) -> ScriptedBroker:
        made.append(ScriptedBroker(scripts, **options))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.mark.parametrize(
    ("protocol", "connack", "what", "remedy"),
    [
        ("3.1.1", b"\x20\x02\x00\x01", "protocol version", "protocol"),
        ("3.1.1", b"\x20\x02\x00\x02", "identifier", "client_id"),
        ("3.1.1", b"\x20\x02\x00\x04", "user name or password", "password_file"),
        ("3.1.1", b"\x20\x02\x00\x05", "Not authorized", "password_file"),
        ("5", b"\x20\x03\x00\x86\x00", "user name or password", "password_file"),
        ("5", b"\x20\x03\x00\x8a\x00", "Banned", "ask"),
    ],
)
def test_what_no_waiting_mends_fails_with_a_remedy(
    listen: Callable[..., MqttSource],
    scripted: Callable[..., ScriptedBroker],
    protocol: str,
    connack: bytes,
    what: str,
    remedy: str,
) -> None:
    """A refused login is an error that says what to do; nothing is tried again behind it."""
    broker = scripted((connack, b""))

    error = _failure(listen(broker.port, protocol=protocol))

    assert what in error.what
    assert remedy in error.remedy
    assert len(broker.connects) == 1


def test_a_refused_subscription_names_its_topic(
    listen: Callable[..., MqttSource], scripted: Callable[..., ScriptedBroker]
) -> None:
    """A user who may log in but not read gets the topic told."""
    broker = scripted((WELCOME, REFUSED))

    assert "plant/+/t" in _failure(listen(broker.port)).what


def test_a_source_that_failed_works_once_the_broker_agrees(
    listen: Callable[..., MqttSource], scripted: Callable[..., ScriptedBroker]
) -> None:
    """The device closes and opens it again; the index goes on."""
    broker = scripted((b"\x20\x02\x00\x05", b""), (WELCOME, GRANTED))
    source = listen(broker.port)
    _failure(source)

    source.close()
    source.open("s", NEED, 17)
    frame = source.read(PATIENCE_S)

    assert frame is not None
    assert (frame.index, frame.samples.tolist()) == (17, [[7.0]])


@pytest.mark.parametrize("busy", [None, (b"\x20\x02\x00\x03", b"")], ids=["hangs up", "busy"])
def test_a_broker_in_trouble_is_tried_again(
    listen: Callable[..., MqttSource],
    scripted: Callable[..., ScriptedBroker],
    busy: tuple[bytes, bytes] | None,
) -> None:
    """Hanging up and being unavailable pass."""
    broker = scripted(busy, (WELCOME, GRANTED))
    source = listen(broker.port)

    assert source.read(PATIENCE_S) is not None
    assert source.health().faults == {"broker_away": 1}


def test_tls_with_an_authority_of_its_own(
    listen: Callable[..., MqttSource], scripted: Callable[..., ScriptedBroker], authority: Any
) -> None:
    """A broker whose certificate the CA file vouches for is listened to."""
    broker = scripted((WELCOME, GRANTED), context=authority.server_context())

    frame = listen(broker.port, ca_file=str(authority.ca_file)).read(PATIENCE_S)

    assert frame is not None
    assert frame.samples.tolist() == [[7.0]]


def test_a_broker_that_is_not_trusted_is_an_error(
    listen: Callable[..., MqttSource],
    scripted: Callable[..., ScriptedBroker],
    authority: Any,
    stranger: Any,
) -> None:
    """No waiting makes a foreign certificate right, and no password is sent to its owner."""
    broker = scripted((WELCOME, GRANTED), context=authority.server_context())

    error = _failure(listen(broker.port, ca_file=str(stranger.ca_file)))

    assert "not trusted" in error.what
    assert "ca_file" in error.remedy
    assert broker.connects == []


def test_user_and_password_reach_the_broker(
    listen: Callable[..., MqttSource], scripted: Callable[..., ScriptedBroker], tmp_path: Path
) -> None:
    """The password is the file's content without its line end."""
    broker = scripted((WELCOME, GRANTED))
    secret = tmp_path / "password"
    secret.write_text("open sesame\n")
    secret.chmod(0o600)

    listen(broker.port, username="edge", password_file=str(secret)).read(PATIENCE_S)

    assert broker.connects[0].endswith(b"\x00\x04edge\x00\x0bopen sesame")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"username": "u", "password_file": "open"}, "mode"),
        ({"username": "u", "password_file": "missing"}, "no file"),
        ({"ca_file": "missing"}, "no file"),
        ({"ca_file": "open"}, "cannot be used"),
    ],
)
def test_files_are_checked_when_it_opens(
    listen: Callable[..., MqttSource], tmp_path: Path, options: dict[str, str], what: str
) -> None:
    """A secret that others can read, and files that are missing or no certificates, are refused."""
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    files = {k: str(tmp_path / v) if k.endswith("file") else v for k, v in options.items()}

    with pytest.raises(ConfigError, match=what) as caught:
        listen(1, **files)

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


@pytest.fixture
def mosquitto(tmp_path: Path, authority: Any) -> Iterator[tuple[int, int]]:
    """A Mosquitto that wants a password, with a plain and a TLS port."""
    if shutil.which("mosquitto") is None or shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto is not installed")
    ports = free_port(), free_port()
    users, config = tmp_path / "users", tmp_path / "mosquitto.conf"
    command = ["mosquitto_passwd", "-c", "-b", str(users), "edge", "open sesame"]
    subprocess.run(command, check=True, capture_output=True)
    users.chmod(0o644)
    config.write_text(
        f"allow_anonymous false\npassword_file {users}\nuser root\n"
        f"listener {ports[0]} 127.0.0.1\nlistener {ports[1]} 127.0.0.1\n"
        f"certfile {authority.cert_file}\nkeyfile {authority.key_file}\n"
    )
    process = subprocess.Popen(["mosquitto", "-c", str(config)], stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", ports[1])) == 0:
                break
    yield ports
    process.kill()
    process.wait()


@pytest.mark.mosquitto
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("is_tls", [True, False])
def test_mosquitto_with_password_and_tls(
    mosquitto: tuple[int, int],
    listen: Callable[..., MqttSource],
    tmp_path: Path,
    authority: Any,
    protocol: str,
    is_tls: bool,
) -> None:
    """Both protocol versions log in, plain and over TLS, and hear QoS 2."""
    secret = tmp_path / "password"
    secret.write_text("open sesame")
    secret.chmod(0o600)
    options = {"username": "edge", "password_file": str(secret), "protocol": protocol, "qos": 2}
    if is_tls:
        options["ca_file"] = str(authority.ca_file)
    source = listen(mosquitto[is_tls], **options)
    auth = {"username": "edge", "password": "open sesame"}

    frame = _heard(source, lambda: _send(mosquitto[0], 3, auth=auth, qos=2))

    assert set(frame.samples[:, 0]) == {3.0}
    assert source.health().faults == {}


@pytest.mark.mosquitto
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_mosquitto_refuses_a_stranger(
    mosquitto: tuple[int, int], listen: Callable[..., MqttSource], protocol: str
) -> None:
    """A real broker's refusal is the same error."""
    error = _failure(listen(mosquitto[0], protocol=protocol))

    assert "Not authorized" in error.what
    assert "password_file" in error.remedy
