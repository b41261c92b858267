import socket
import struct
from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError, MissingExtra
from edge_simulator import broker as broker_module
from edge_simulator.broker import Broker, BrokerKind, choose_broker, free_port, mosquitto_config


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])  # noqa: S104
def test_an_address_that_others_can_reach_is_refused(host: str, tmp_path: Path) -> None:
    """A broker without accounts never serves anything but this machine."""
    with pytest.raises(ConfigError, match="would listen on"):
        Broker("iotcore", tmp_path, host=host)
    with pytest.raises(ConfigError, match="loopback"):
        mosquitto_config(host, 1883)


def test_iotcore_serves_a_client_and_is_gone_after_stop(tmp_path: Path) -> None:
    """The broker from PyPI takes an MQTT connection on loopback and frees its port at the end."""
    with Broker("iotcore", tmp_path) as broker:
        answer = _connect(broker.port)
        port = broker.port

    assert answer == b"\x20\x02\x00\x00"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.mosquitto
def test_mosquitto_serves_a_client(tmp_path: Path) -> None:
    """Mosquitto runs with the configuration we generate."""
    with Broker("mosquitto", tmp_path) as broker:
        answer = _connect(broker.port)

    assert answer == b"\x20\x02\x00\x00"


def test_stop_twice_is_safe(tmp_path: Path) -> None:
    """A second stop, or one without a start, does nothing."""
    broker = Broker("iotcore", tmp_path)

    broker.stop()
    broker.stop()

    assert broker.pid is None


def test_auto_prefers_mosquitto(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Mosquitto is installed, it is chosen; elsewhere the broker from PyPI."""
    monkeypatch.setattr(broker_module, "_mosquitto", lambda: "/usr/sbin/mosquitto")
    with_mosquitto = choose_broker("auto")
    monkeypatch.setattr(broker_module, "_mosquitto", lambda: None)
    without = choose_broker("auto")

    assert (with_mosquitto, without) == ("mosquitto", "iotcore")


def test_mosquitto_by_name_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for Mosquitto gets it or an error, no silent fallback."""
    monkeypatch.setattr(broker_module, "_mosquitto", lambda: None)

    with pytest.raises(MissingExtra, match="apt install mosquitto"):
        choose_broker("mosquitto")


def test_the_payload_limit_fits_our_frames() -> None:
    """Frames of 96 KiB pass the generated configuration."""
    config = mosquitto_config("127.0.0.1", free_port())

    limit = next(line for line in config.splitlines() if line.startswith("max_packet_size"))
    assert int(limit.split()[1]) >= 96 * 1024


def _connect(port: int) -> bytes:
    """Send an MQTT 3.1.1 CONNECT and return the CONNACK."""
    client = b"test"
    body = b"\x00\x04MQTT\x04\x02\x00\x3c" + struct.pack(">H", len(client)) + client
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(bytes([0x10, len(body)]) + body)
        return connection.recv(4)


@pytest.mark.parametrize(
    "kind", ["iotcore", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]
)
def test_a_killed_broker_comes_back_on_its_port(kind: BrokerKind, tmp_path: Path) -> None:
    """SIGKILL ends it; clients find the next one where the last one was."""
    with Broker(kind, tmp_path) as broker:
        port, pid = broker.port, broker.pid

        broker.kill()
        assert not broker.is_alive
        broker.restart()

        assert broker.is_alive and broker.pid != pid
        with socket.create_connection((broker.host, port), timeout=60):
            assert broker.port == port
