"""The fault proxy over real sockets: what it forwards, and how it breaks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from edge_runtime.errors import ConfigError, SourceError
from edge_simulator.link import Chances, LinkProxy

TIMEOUT_S = 60.0


class Echo:
    """A server that sends back what it gets."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = ("127.0.0.1", self._socket.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while block := connection.recv(65536):
                    connection.sendall(block)
            except OSError:
                return


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def link(echo: Echo) -> Iterator[LinkProxy]:
    with LinkProxy(target=echo.address) as proxy:
        yield proxy


def dial(link: LinkProxy) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", link.port), TIMEOUT_S)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def receive(client: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size and (block := client.recv(65536)):
        got += block
    return bytes(got)


def ask(client: socket.socket, block: bytes) -> bytes:
    sender = threading.Thread(target=client.sendall, args=(block,), daemon=True)
    sender.start()
    answer = receive(client, len(block))
    sender.join(TIMEOUT_S)
    return answer


def is_dead(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_forwards_and_counts_every_byte_both_ways(link: LinkProxy) -> None:
    """Bytes arrive whole and in order, and both directions are counted."""
    block = bytes(range(256)) * 4096

    with dial(link) as client:
        answer = ask(client, block)
        counts = link.counts()

    assert answer == block
    assert (counts.bytes_up, counts.bytes_down) == (len(block), len(block))
    assert counts.connections == 1


def test_waits_neither_for_nagle_nor_for_a_timer(link: LinkProxy) -> None:
    """A small packet crosses and returns in far less than the 40 ms of a delayed answer."""
    times = []

    with dial(link) as client:
        for _ in range(100):
            start = time.perf_counter()
            ask_once = client.send(b"x")
            assert client.recv(ask_once) == b"x"
            times.append(time.perf_counter() - start)

    assert sorted(times)[len(times) // 2] < 20e-3


def test_cut_resets_connections_and_refuses_new_ones_until_mended(link: LinkProxy) -> None:
    """A cut link ends what is open and what tries to open; a mended one carries again."""
    with dial(link) as client:
        assert ask(client, b"before") == b"before"
        link.cut()
        assert not link.is_up
        assert is_dead(client)

    with dial(link) as client:
        assert is_dead(client)
    assert link.counts().refused == 1

    link.mend()
    with dial(link) as client:
        assert ask(client, b"after") == b"after"


def test_a_reset_ends_what_is_open_and_nothing_else(link: LinkProxy) -> None:
    """The client sees RST, not the end of the stream, and may connect again at once."""
    with dial(link) as client:
        assert ask(client, b"before") == b"before"
        link.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)

    with dial(link) as client:
        assert ask(client, b"after") == b"after"
    assert link.counts().resets == 1


def test_jitter_keeps_the_order_of_bytes(link: LinkProxy) -> None:
    """However much the delay varies, bytes arrive whole and in order."""
    link.jitter_s = 0.02
    block = bytes(range(256)) * 2000

    with dial(link) as client:
        answer = ask(client, block)

    assert answer == block


def test_what_happens_to_bytes_follows_from_the_seed(echo: Echo) -> None:
    """Two proxies with one seed lose, double and swap the same stretches; another one others."""
    chances = Chances(drop=0.1, duplicate=0.1, reorder=0.1)
    sent = bytes(range(256)) * 40
    answers = []

    for seed in (7, 7, 8):
        with (
            LinkProxy(target=echo.address, chances=chances, seed=seed) as link,
            dial(link) as client,
        ):
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            answers.append(receive(client, 10 * len(sent)))
            counts = link.counts()
            assert min(counts.dropped, counts.duplicated, counts.reordered) > 0

    assert answers[0] == answers[1] != answers[2]


def test_half_open_takes_bytes_and_answers_nothing(link: LinkProxy) -> None:
    """While half open, sending works and nothing comes back, on old and new connections."""
    with dial(link) as old:
        assert ask(old, b"before") == b"before"
        link.half_open()
        for client in (old, dial(link)):
            client.settimeout(0.05)
            client.sendall(b"lost")
            with pytest.raises(TimeoutError):
                client.recv(1)
        link.mend()
        old.settimeout(TIMEOUT_S)
        assert is_dead(old)

    assert link.counts().swallowed == 8
    assert link.counts().bytes_up == len(b"before")


def test_delay_holds_every_byte_back(link: LinkProxy) -> None:
    """A round trip takes at least twice the one-way delay."""
    link.delay_s = 0.05

    with dial(link) as client:
        start = time.perf_counter()
        ask(client, b"x")

    assert time.perf_counter() - start >= 0.1


def test_throttle_limits_bytes_a_second(link: LinkProxy) -> None:
    """40 kB through a 200 kB/s link take at least most of 0.2 s."""
    link.bytes_per_s = 200e3
    block = bytes(40_000)

    with dial(link) as client:
        start = time.perf_counter()
        answer = ask(client, block)

    assert answer == block
    assert time.perf_counter() - start >= 0.19


def test_corruption_flips_single_bits_and_can_be_switched_off(link: LinkProxy) -> None:
    """About the asked share of bytes differ, each by one bit; rate 0 heals the link."""
    block = bytes(100_000)

    with dial(link) as client:
        link.chances = Chances(corrupt=1e-3)
        damaged = ask(client, block)
        link.chances = Chances()
        whole = ask(client, block)

    hits = [byte for byte in damaged if byte]
    assert 100 < len(hits) < 400
    assert whole == block


def test_an_absent_target_closes_the_connection() -> None:
    """With no broker behind it, the proxy refuses and counts; it does not hang."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()

    with LinkProxy(target=address) as link, dial(link) as client:
        assert is_dead(client)
        assert link.counts().refused == 1


@pytest.mark.parametrize("host", ["10.0.0.7", "example.org", "0.0.0.0"])  # noqa: S104
def test_refuses_targets_off_this_machine(host: str) -> None:
    """A proxy that breaks links never points at another machine."""
    with pytest.raises(ConfigError, match="loopback"):
        LinkProxy(target=(host, 1883))


def test_a_taken_port_is_said() -> None:
    """Listening on a port in use is an error with a remedy, and leaves no thread."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(SourceError, match="0 takes a free one"):
            LinkProxy(port, ("127.0.0.1", 1)).start()

    assert all(thread.name != "link" for thread in threading.enumerate())


def test_stop_is_clean_and_repeatable(echo: Echo) -> None:
    """Stopping with open connections ends the thread; a second stop does nothing."""
    link = LinkProxy(target=echo.address).start()
    client = dial(link)
    ask(client, b"x")

    link.stop()
    link.stop()

    assert is_dead(client)
    assert all(thread.name != "link" for thread in threading.enumerate())
