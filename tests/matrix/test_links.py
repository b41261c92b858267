"""Links that flap, fall silent, lose, double, swap, cut short and damage what they carry."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_simulator.chaos.plan import INGEST
from edge_simulator.chaos.stage import Stage
from edge_simulator.link import Chances
from edge_simulator.link.script import Player, fault_of

from .conftest import DEVICE, Scene

PACKETS = "packets"
WINDOW_FRAMES = 20


def _processor_s(pid: int) -> float:
    """Return the processor time of a process so far, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_link_that_flaps_every_second_costs_little_and_no_row(scene: Scene) -> None:
    """Down for half of each of sixty seconds: a fifth of a core at most, and every row arrives."""
    scene.flow()
    player = Player(scene.stage.links[DEVICE], [fault_of("every 1s cut for 500ms")])
    pid = scene.stage.devices[DEVICE].pid
    assert pid is not None
    before_s = _processor_s(pid)

    for tenth in range(600):
        player.advance(tenth / 10)
        scene.trickle_for(0.1)
    spent_s = _processor_s(pid) - before_s
    player.end()

    scene.balance()
    assert scene.counters["connections_total"] > 5
    assert spent_s < 0.2 * 60


@pytest.mark.slow
def test_a_half_open_link_is_noticed_and_made_again(scene: Scene) -> None:
    """Nothing fails and nothing arrives: the keep-alive finds out, and the window is sent again."""
    scene.flow()
    link = scene.stage.links[DEVICE]
    connections = scene.counters["connections_total"]

    link.half_open()
    scene.trickle("the loss", lambda: _is_cut_off(scene.stage))
    link.mend()

    scene.balance()
    assert scene.counters["connections_total"] > connections
    assert link.counts().swallowed > 0


def _is_cut_off(stage: Stage) -> bool:
    return stage.devices[DEVICE].latest("link.changed").get("is_connected") is False


@pytest.mark.parametrize("whose", [DEVICE, INGEST])
@pytest.mark.parametrize(
    "chances",
    [
        Chances(drop=0.3),
        Chances(duplicate=0.5),
        Chances(reorder=0.4),
        Chances(truncate=0.4),
        Chances(corrupt=0.4),
    ],
    ids=lambda chances: next(name for name in chances.__struct_fields__ if getattr(chances, name)),
)
def test_frames_that_are_hit_cost_and_double_no_row(
    make_scene: Callable[..., Scene], whose: str, chances: Chances
) -> None:
    """Whole PUBLISH packets lost, doubled, swapped, cut short or damaged, near device or cloud."""
    scene = make_scene(unit=PACKETS)
    scene.flow()
    link = scene.stage.links[whose]

    link.chances = chances
    scene.trickle("twenty hits", lambda: _hits(scene.stage, whose) >= 20)
    link.chances = Chances()
    # A frame whose PUBLISH is lost waits for its time-out, or for the next connection.
    link.reset()

    scene.balance()


def _hits(stage: Stage, whose: str) -> int:
    counts = stage.links[whose].counts()
    return sum(
        (counts.dropped, counts.duplicated, counts.reordered, counts.truncated, counts.corrupted)
    )


@pytest.mark.parametrize("kind", ["drop", "duplicate", "reorder", "corrupt"])
def test_bytes_that_are_hit_end_the_connection_and_cost_no_row(
    make_scene: Callable[..., Scene], kind: str
) -> None:
    """A stream that is no MQTT any more is noticed by the peers; they begin anew."""
    scene = make_scene(unit="bytes")
    scene.flow()
    link = scene.stage.links[DEVICE]
    connections = link.counts().connections

    link.chances = Chances(**{kind: 0.01 if kind == "corrupt" else 0.3})
    scene.trickle("a new connection", lambda: link.counts().connections > connections)
    link.chances = Chances()
    link.reset()

    scene.balance()


@pytest.mark.mosquitto
def test_a_subscriber_that_reads_nothing_harms_nobody(
    mosquitto_scene: Callable[..., Scene],
) -> None:
    """A client asks for 60 MB and never reads: rows arrive all the same, memory stays bounded."""
    scene = mosquitto_scene()
    address = ("127.0.0.1", scene.stage.broker.port)
    pid = scene.stage.broker.pid
    assert pid is not None
    before_mb = _memory_mb(pid)
    with socket.create_connection(address) as sleeper, socket.create_connection(address) as loud:
        for client, name in ((sleeper, "sleeper"), (loud, "loud")):
            client.sendall(_connect(name))
            assert client.recv(4)[0] == 0x20
        sleeper.sendall(_subscribe("noise/#"))
        assert sleeper.recv(5)[0] == 0x90
        scene.flow()

        for number in range(1, 1921):
            loud.sendall(_publish("noise/x", number, bytes(32 * 1024)))
        confirmed = 0
        while confirmed < 1920 * 4:
            confirmed += len(loud.recv(65536))
        scene.trickle_for(1.0)

        scene.balance()
        assert _memory_mb(pid) - before_mb < 150


def _memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _publish(topic: str, number: int, payload: bytes) -> bytes:
    """Return a PUBLISH of QoS 1 with more than 16 KiB."""
    body = len(topic).to_bytes(2, "big") + topic.encode() + number.to_bytes(2, "big") + payload
    size = len(body)
    return bytes([0x32, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + body


def _connect(name: str) -> bytes:
    body = b"\x00\x04MQTT\x04\x02\x00\x00" + len(name).to_bytes(2, "big") + name.encode()
    return bytes([0x10, len(body)]) + body


def _subscribe(topic: str) -> bytes:
    body = b"\x00\x01" + len(topic).to_bytes(2, "big") + topic.encode() + b"\x01"
    return bytes([0x82, len(body)]) + body


def test_an_ingest_that_hangs_is_sent_no_more_than_a_window(scene: Scene) -> None:
    """Stopped, it answers nothing: the device holds its window, and the rest waits on its disk."""
    scene.flow()
    pid = scene.stage.victims[INGEST].process.pid
    assert pid is not None
    sent = scene.counters["frames_sent_total"]

    os.kill(pid, signal.SIGSTOP)
    try:
        scene.trickle("a backlog", lambda: _backlog(scene.stage) > 400)
        inflight, now_sent = (scene.counters[n] for n in ("inflight_frames", "frames_sent_total"))
    finally:
        os.kill(pid, signal.SIGCONT)

    scene.balance()
    assert inflight <= WINDOW_FRAMES
    # Time-outs double: within seconds a window is sent again a few times at most.
    assert now_sent - sent <= 6 * WINDOW_FRAMES


def _backlog(stage: Stage) -> int:
    return int(stage.devices[DEVICE].latest("status").get("backlog_rows", 0))


def test_another_configuration_leaves_the_outbox_untouched(scene: Scene) -> None:
    """Rows that wait while the device is stopped and configured anew arrive once."""
    scene.flow()
    link, device = scene.stage.links[DEVICE], scene.stage.devices[DEVICE]
    link.cut()
    scene.trickle("a backlog", lambda: _backlog(scene.stage) > 100)
    device.stop()
    path = scene.stage.path_of(DEVICE)
    path.write_text(path.read_text().replace("commit_s: 0.05", "commit_s: 0.2"))

    device.start()
    link.mend()

    assert "commit_s: 0.2" in path.read_text()
    scene.balance()
