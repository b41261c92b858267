"""What a broken or hostile client can say, to the broker and to the ingest behind it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_cloud.ingest import Ingest
from edge_cloud.store import Store
from edge_runtime.sync.frames import RowFrame, encode_frame
from edge_runtime.types import Table

from .conftest import MARK, PATIENCE_S, Scene
from .test_certificates import CONNECT

pytestmark = pytest.mark.mosquitto

VECTORS = sorted((Path(__file__).parents[1] / "vectors" / "frames").glob("[!s]*.bin"))
TOPIC = "er/1/d/good/up/tel/main"


def frame(device: str = "good", seq0: int = 0) -> bytes:
    rows = Table({"index": np.arange(5), "end_ns": np.arange(5), "score": np.ones((5, 1))})
    return encode_frame(
        RowFrame(
            device=device,
            stream="main",
            epoch=1,
            incarnation=1,
            seq0=seq0,
            n=5,
            kind="estimate",
            table=rows,
        )
    )


@pytest.fixture
def ingest(scene: Scene, tmp_path: Path) -> Iterator[Ingest]:
    """A real ingest on the broker, with a store of its own."""
    store = Store(tmp_path / "store")
    ingest = Ingest(scene.cloud.role(), store)
    ingest.open()
    while scene.cloud.broker.pid and ingest.transport.stats().connections_total == 0:  # type: ignore[attr-defined]
        ingest.step(0.1)
    yield ingest
    ingest.close()
    store.close()


def until_stored(ingest: Ingest, rows: int) -> None:
    for _ in range(int(PATIENCE_S / 0.1)):
        ingest.step(0.1)
        if ingest._store.status().rows >= rows:
            return
    raise TimeoutError("the rows do not come")


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_a_bomb_stops_nobody(scene: Scene, ingest: Ingest, path: Path) -> None:
    """A frame made to take memory or time is set aside, and the next good one is stored."""
    evil = scene.device("evil")
    good = scene.device("good")

    evil.send("er/1/d/evil/up/tel/main", path.read_bytes())
    good.send(TOPIC, frame())
    until_stored(ingest, 5)

    assert ingest._store.extent("good", "main") is not None
    assert ingest.stats.store_failures_total == 0


def test_a_frame_in_anothers_name_is_set_aside(scene: Scene, ingest: Ingest) -> None:
    """The device in a frame must be that of the topic, which the broker has checked."""
    evil = scene.device("evil")

    evil.send("er/1/d/evil/up/tel/main", frame("good"))
    scene.device("good").send(TOPIC, frame("good", seq0=0))
    until_stored(ingest, 5)

    poison = [path.read_text() for path in (ingest._store.folder / "poison").glob("*.why")]
    assert len(poison) == 1
    assert "frame of good/main" in poison[0]
    assert ingest._store.status().rows == 5


@pytest.mark.parametrize(
    "leaf",
    [
        "tel/../../../etc/passwd",
        "tel/a/b/c/d/e",
        "tel/%2e%2e",
        "life/" + "x" * 600,
        "tel/UPPER",
        "tel/ø",
        "tel/" + "/" * 50,
    ],
)
def test_a_hostile_topic_reaches_no_path(scene: Scene, ingest: Ingest, leaf: str) -> None:
    """Names that could be more than names are dropped, and leave no file."""
    evil = scene.device("evil")

    evil.send(f"er/1/d/evil/up/{leaf}", b"x")
    scene.device("good").send(TOPIC, frame())
    until_stored(ingest, 5)

    kept = [path for path in ingest._store.folder.rglob("*") if "evil" in path.name]
    assert kept == []


def _remaining(length: int) -> bytes:
    encoded = b""
    while True:
        length, digit = divmod(length, 128)
        encoded += bytes([digit | (0x80 if length else 0)])
        if not length:
            return encoded


def packet(kind: int, body: bytes, *, announced: int | None = None) -> bytes:
    return bytes([kind]) + _remaining(len(body) if announced is None else announced) + body


def text(raw: bytes) -> bytes:
    return len(raw).to_bytes(2, "big") + raw


MALFORMED = {
    "wildcard-in-topic": packet(0x30, text(b"er/1/d/evil/up/#") + b"x"),
    "nul-in-topic": packet(0x30, text(b"er/1/d/evil/up/a\0b") + b"x"),
    "bad-utf8-topic": packet(0x30, text(b"er/1/d/evil/up/\xff\xfe") + b"x"),
    "surrogate-topic": packet(0x30, text(b"er/1/d/evil/up/\xed\xa0\x80") + b"x"),
    "empty-topic": packet(0x30, text(b"") + b"x"),
    "topic-longer-than-packet": packet(0x30, b"\xff\xff" + b"x"),
    "deep-topic": packet(0x30, text(b"er/1/d/evil/up" + b"/a" * 20_000) + b"x"),
    "too-large": packet(0x30, text(b"er/1/d/evil/up/last") + bytes(200_000)),
    "huge-announced": packet(0x30, bytes(1000), announced=250_000_000),
    "length-without-end": b"\x30\xff\xff\xff\xff\xff\xff",
    "qos-3": packet(0x36, text(b"er/1/d/evil/up/last") + b"\0\1x"),
    "second-connect": CONNECT,
    "reserved-type": packet(0xF0, b""),
    "empty-subscribe": packet(0x82, b"\0\1"),
    "bad-filter": packet(0x82, b"\0\1" + text(b"er/#/x") + b"\1"),
    "noise": bytes(range(256)) * 16,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_packet_disturbs_nobody_else(scene: Scene, name: str) -> None:
    """The broker closes the connection, or ignores the packet; everybody else goes on."""
    ingest = scene.ingest()
    good = scene.device("good", "er/1/d/good/dn/#")
    evil = scene.cloud.place("evil")
    context = ssl.create_default_context(cafile=str(scene.cloud.authority.path))
    context.load_cert_chain(evil.certificate)
    address = ("127.0.0.1", scene.cloud.broker.port)

    with (
        socket.create_connection(address, PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(CONNECT)
        assert secure.recv(4) == b"\x20\x02\x00\x00"
        # It may be closed before all of it was sent.
        with contextlib.suppress(OSError):
            secure.sendall(MALFORMED[name])
        good.send("er/1/d/good/up/last", MARK)
        found = ingest.until_mark()

    assert [topic for topic, _ in found if not topic.startswith("er/1/d/evil/up")] == []
    assert all(len(payload) <= 128 * 1024 for _, payload in found)
    ingest.send("er/1/d/good/dn/ack", MARK)
    assert good.until_mark() == []


def test_an_announced_packet_is_not_waited_for_in_memory(scene: Scene) -> None:
    """The broker refuses a packet of 250 MB at its header, and does not grow by what follows."""
    context = ssl.create_default_context(cafile=str(scene.cloud.authority.path))
    context.load_cert_chain(scene.cloud.place("evil").certificate)
    pid = scene.cloud.broker.pid
    before = rss_kb(pid)

    with (
        socket.create_connection(("127.0.0.1", scene.cloud.broker.port), PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
        contextlib.suppress(OSError),
    ):
        secure.sendall(CONNECT)
        for _ in range(60):
            secure.sendall(packet(0x30, bytes(1_000_000), announced=250_000_000))
        pytest.fail("the broker took 60 MB of one packet")

    assert rss_kb(pid) - before < 8_000


def rss_kb(pid: int | None) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
