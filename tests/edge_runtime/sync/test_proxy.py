"""A link through a proxy: HTTP CONNECT and SOCKS5, both real, on loopback."""

from __future__ import annotations

import select
import socket
import socketserver
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.clock import SystemClock
from edge_runtime.config import ProxyConfig, SyncConfig
from edge_runtime.errors import MissingExtra
from edge_runtime.ports import Connected, Message
from edge_runtime.sync.paho import PahoTransport
from edge_simulator.broker import Broker, choose_broker


class Proxy(socketserver.ThreadingTCPServer):
    """Speaks one protocol, notes what it was asked for, and passes bytes on."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Connect(socketserver.StreamRequestHandler):
    """HTTP: ``CONNECT host:port`` with a user."""

    server: Proxy

    def handle(self) -> None:
        lines = []
        while (line := self.rfile.readline().strip()) != b"":
            lines.append(line.decode())
        words = lines[0].split()
        self.server.asked.append(" ".join(words[:2]))
        wanted = "Proxy-Authorization: Basic " + b64encode(b"pump:secret").decode()
        if wanted.lower() not in [line.lower() for line in lines]:
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        host, port = words[1].rsplit(":", 1)
        passed_on(self.connection, host, int(port))


class Socks(socketserver.BaseRequestHandler):
    """SOCKS5 without a user, RFC 1928: greeting, CONNECT to a name, reply."""

    server: Proxy

    def handle(self) -> None:
        version, methods = self.request.recv(2)
        self.request.recv(methods)
        self.request.sendall(b"\x05\x00")
        _, command, _, kind = self.request.recv(4)
        assert (version, command) == (5, 1)
        if kind == 3:
            host = self.request.recv(self.request.recv(1)[0]).decode()
        else:
            host = socket.inet_ntoa(self.request.recv(4))
        port = int.from_bytes(self.request.recv(2), "big")
        self.server.asked.append(f"{host}:{port}")
        self.request.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        passed_on(self.request, host, port)


def passed_on(near: socket.socket, host: str, port: int) -> None:
    """Copy bytes both ways until one side ends."""
    with socket.create_connection((host, port)) as far:
        ends = {near: far, far: near}
        while True:
            for ready in select.select(list(ends), [], [])[0]:
                piece = ready.recv(65536)
                if not piece:
                    return
                ends[ready].sendall(piece)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    try:
        kind = choose_broker()
    except MissingExtra as error:
        pytest.skip(str(error))
    with Broker(kind, tmp_path) as broker:
        yield broker


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("secret\n")
    return path


def there_and_back(config: SyncConfig) -> bytes:
    """Send a message through a link and return what comes back."""
    transport = PahoTransport(config, "pump", SystemClock(), jitter=lambda: 0.1)
    transport.open(["dn/#"], None)
    try:
        while not isinstance(transport.receive(30.0), Connected):
            pass
        assert transport.publish(Message("dn/x", b"hello"))
        while not isinstance(event := transport.receive(30.0), Message):
            pass
        return event.payload
    finally:
        transport.close()


def test_http_connect_with_a_user(broker: Broker, password: Path) -> None:
    """The proxy is asked for the broker by its name, once, with the password of the file."""
    with Proxy(Connect) as server:
        proxy = ProxyConfig("http", "127.0.0.1", server.port, "pump", password)

        payload = there_and_back(SyncConfig(host="localhost", port=broker.port, proxy=proxy))

        assert payload == b"hello"
        assert server.asked[-1] == f"CONNECT localhost:{broker.port}"
        server.shutdown()


def test_socks5_resolves_names_at_the_proxy(broker: Broker) -> None:
    """The device needs no name service of its own."""
    with Proxy(Socks) as server:
        proxy = ProxyConfig("socks5", "127.0.0.1", server.port)

        payload = there_and_back(SyncConfig(host="localhost", port=broker.port, proxy=proxy))

        assert payload == b"hello"
        assert server.asked[-1] == f"localhost:{broker.port}"
        server.shutdown()


def test_a_proxy_that_refuses_is_a_lost_link_and_no_way_round_it(
    broker: Broker, password: Path
) -> None:
    """Nothing goes to the broker directly."""
    password.write_text("wrong")
    with Proxy(Connect) as server:
        proxy = ProxyConfig("http", "127.0.0.1", server.port, "pump", password)
        config = SyncConfig(port=broker.port, proxy=proxy)
        transport = PahoTransport(config, "pump", SystemClock(), jitter=lambda: 0.0)
        transport.open([], None)

        while transport.stats().failures_total < 2:
            assert transport.receive(0.05) is None
        transport.close()

        assert transport.stats().connections_total == 0
        server.shutdown()


def test_without_pysocks_a_proxy_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paho alone would connect directly, without a word."""
    monkeypatch.setitem(sys.modules, "socks", None)
    config = SyncConfig(proxy=ProxyConfig("socks5", "127.0.0.1", 9))

    with pytest.raises(MissingExtra, match="edge-runtime\\[proxy\\]"):
        PahoTransport(config, "pump", SystemClock()).open([], None)
