"""Device and broker in network namespaces of their own, and a bad wire between them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge_cloud.store import Store
from edge_simulator.chaos.books import tally
from edge_simulator.chaos.workload import STREAM, write_bundle, write_recording

from .wire import DAMAGED, DELAY_S, DOUBLED, LOSS, SPREAD_S, Wire, has_netem, has_tun

ROWS, RATE_HZ = 800, 100
LIMIT_S = 120.0
FAR, NEAR = "10.77.0.1", "10.77.0.2"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mosquitto,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"
    ),
]


class Spaces:
    """Two namespaces, ``far`` with the device and ``near`` with broker and ingest."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self.far, self.near = (f"er-{side}-{os.getpid()}" for side in ("far", "near"))
        for name in (self.far, self.near):
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
            self.ip_in(name, "link", "set", "lo", "up")

    def ip_in(self, space: str, *words: str) -> None:
        ip("-n", space, *words)

    def give(self, space: str, device: str, address: str, peer: str) -> None:
        """Put a device into a namespace, with an address and the way to its peer."""
        ip("link", "set", device, "netns", space)
        self.ip_in(space, "addr", "add", address, "peer", peer, "dev", device)
        self.ip_in(space, "link", "set", device, "up")

    def start(self, space: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process in a namespace; it ends with the test."""
        log = self._stack.enter_context((self._folder / "processes.log").open("ab"))
        child = subprocess.Popen(
            ["ip", "netns", "exec", space, *command], stdout=log, stderr=log, cwd=self._folder
        )
        self._stack.callback(_end, child)
        return child


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Undo everything, whatever happens."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def spaces(stack: ExitStack, tmp_path: Path) -> Spaces:
    """Two namespaces without a wire between them."""
    return Spaces(stack, tmp_path)


def _netem(spaces: Spaces, stack: ExitStack) -> Callable[[], tuple[int, ...]]:
    """Join the namespaces by the kernel's own bad wire."""
    if not has_netem():
        pytest.skip("this kernel has no netem")
    ends = (f"ernf{os.getpid() % 10**6}", f"ernn{os.getpid() % 10**6}")
    ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    for space, end, own, peer in (
        (spaces.far, ends[0], FAR, NEAR),
        (spaces.near, ends[1], NEAR, FAR),
    ):
        spaces.give(space, end, own, peer)
        words = (
            f"netem loss {LOSS:.0%} duplicate {DOUBLED:.0%} corrupt {DAMAGED:.0%} "
            f"delay {1000 * (DELAY_S + SPREAD_S / 2):.0f}ms {500 * SPREAD_S:.0f}ms reorder 10%"
        )
        tc = ["tc", "-n", space, "qdisc", "add", "dev", end, "root", *words.split()]
        subprocess.run(tc, check=True, capture_output=True)
    return lambda: (1,)


def _tun(spaces: Spaces, stack: ExitStack) -> Callable[[], tuple[int, ...]]:
    """Join the namespaces by a wire of our own."""
    if not has_tun():
        pytest.skip("no TUN devices here")
    names = (f"ertf{os.getpid() % 10**6}", f"ertn{os.getpid() % 10**6}")
    wire = Wire(names, seed=7)
    stack.callback(wire.close)
    spaces.give(spaces.far, names[0], FAR, NEAR)
    spaces.give(spaces.near, names[1], NEAR, FAR)
    return lambda: (wire.lost, wire.doubled, wire.damaged)


@pytest.mark.parametrize("joined", [_netem, _tun], ids=["netem", "tun"])
def test_rows_arrive_through_a_bad_wire(
    spaces: Spaces,
    stack: ExitStack,
    tmp_path: Path,
    joined: Callable[[Spaces, ExitStack], Callable[[], tuple[int, ...]]],
) -> None:
    """IP packets are lost, delayed, doubled, swapped and damaged; every row arrives once."""
    counts = joined(spaces, stack)
    _write_files(tmp_path)

    spaces.start(spaces.near, _mosquitto(), "-c", "mosquitto.conf")
    spaces.start(spaces.near, *_edge_runtime("cloud", "ingest", "cloud.yaml"))
    device = spaces.start(spaces.far, *_edge_runtime("run", "device.yaml", "--drain-s", "90"))
    _wait_for(lambda: device.poll() is not None)

    log = (tmp_path / "processes.log").read_text()
    assert device.returncode == 0, log
    store = Store(tmp_path / "store")
    stack.callback(store.close)
    books = tally(store, tmp_path / "device.yaml", STREAM)
    assert books.is_balanced and books.stored == books.made == ROWS - 3, (books, log)
    assert min(counts()) > 0


def _wait_for(is_true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not is_true():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.05)


def _edge_runtime(*words: str) -> list[str]:
    return [sys.executable, "-m", "edge_runtime.cli", *words]


def _mosquitto() -> str:
    return shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") or "mosquitto"


def _write_files(folder: Path) -> None:
    write_bundle(folder / "sum-1")
    write_recording(folder / "rows.npz", ROWS, seed=7)
    (folder / "mosquitto.conf").write_text(
        f"listener 1883 {NEAR}\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
    )
    (folder / "cloud.yaml").write_text(f'store: store\nbroker: {{host: {NEAR}, tls: "off"}}\n')
    (folder / "device.yaml").write_text(
        f"""\
device: far-1
state: state
streams:
  main:
    source:
      kind: npz
      path: rows.npz
      array: samples
      block: 8
      speed: {RATE_HZ}
      time: {{start: "2013-01-01T00:00:00Z", step_s: 1.0}}
    model: {{bundle: sum-1}}
    upload: windows
sync: {{host: {NEAR}, keepalive_s: 10, tls: "off"}}
"""
    )
