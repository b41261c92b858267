"""Ingesters that are killed at any instant: each row is stored once, whoever had it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from edge_cloud.jobs import Jobs
from edge_cloud.store import Store
from edge_runtime.clock import SystemClock
from edge_runtime.config import OutboxConfig, SyncConfig
from edge_runtime.sync.link import Link
from edge_runtime.sync.outbox import Batch, Outbox
from edge_runtime.sync.paho import PahoTransport
from edge_runtime.sync.state import StateStore
from edge_runtime.types import Table
from edge_simulator.broker import Broker
from edge_simulator.secured import SecuredCloud

ROWS, BLOCK, MEMBERS, DEVICES, KILLS = 6000, 50, 3, 3, 8
PATIENCE_S = 120.0


class Device:
    """An outbox and its link to the broker, on a thread of its own."""

    def __init__(self, folder: Path, name: str, config: SyncConfig) -> None:
        clock = SystemClock()
        self.name = name
        self.state = StateStore(folder / f"{name}-state.db", clock)
        epoch, incarnation = self.state.start()
        self.outbox = Outbox.open(
            folder / f"{name}-outbox.db",
            epoch=epoch,
            incarnation=incarnation,
            config=OutboxConfig(),
            clock=clock,
        )
        transport = PahoTransport(config, name, clock)
        self.link = Link(name, transport, self.outbox, self.state, clock, lambda _: (), config)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.link.run, args=(self._stop,))
        self._thread.start()

    def commit(self, first: int) -> None:
        seq = np.arange(first, first + BLOCK)
        table = Table({"end_ns": seq, "x": seq})
        batch = Batch("main", "estimate", table)
        self.outbox.commit(source="main", position=0, snapshot=b"", base="", batches=[batch])
        self.link.wake()

    def close(self) -> None:
        self._stop.set()
        self.link.wake()
        self._thread.join()
        self.outbox.close()
        self.state.close()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with Broker("mosquitto", tmp_path) as broker:
        yield broker.port


Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def config(tmp_path: Path, port: int) -> Path:
    """The YAML of a cloud with several ingesters."""
    config = tmp_path / "cloud.yaml"
    config.write_text(
        f"store: store\nbroker: {{port: {port}}}\ncompact_s: null\n"
        f"ingest: {{processes: {MEMBERS}, hold_s: 1.0}}\n"
    )
    return config


@pytest.fixture
def start(tmp_path: Path, config: Path) -> Iterator[Start]:
    """Run a verb of that cloud until the test ends; no member outlives it."""
    with ExitStack() as stack:
        yield lambda verb: stack.enter_context(started(tmp_path, config, verb))


@contextmanager
def started(folder: Path, config: Path, verb: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a verb of a cloud for a while; no member outlives it."""
    words = [sys.executable, "-m", "edge_runtime.cli", "cloud", verb, str(config)]
    with (folder / "cloud.log").open("wb") as log:
        process = subprocess.Popen(words, stderr=log)
    try:
        wait_until(lambda: len(members_under(config)) == MEMBERS, "the members do not start")
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
    wait_until(lambda: members_under(config) == [], "members outlive their cloud")


def members_under(config: Path) -> list[int]:
    """Return the members of this test's cloud, by their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(config).encode() in words and b"--member" in words:
            found.append(int(path.parent.name))
    return found


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not is_true():
        assert time.monotonic() < deadline, what
        pause.wait(0.05)


@pytest.mark.slow
@pytest.mark.mosquitto
def test_members_that_are_killed_at_any_instant_store_each_row_once(
    tmp_path: Path, port: int, config: Path, start: Start
) -> None:
    """Three devices, three members on one shared subscription, one of them killed now and again."""
    chance = random.Random(7)
    start("ingest")
    devices = [
        Device(tmp_path, f"pump-{number}", SyncConfig(port=port)) for number in range(DEVICES)
    ]
    killed = 0
    for first in range(0, ROWS, BLOCK):
        for device in devices:
            device.commit(first)
        threading.Event().wait(chance.uniform(0, 0.1))
        running = members_under(config)
        if first * KILLS // ROWS > killed and running:
            os.kill(chance.choice(running), signal.SIGKILL)
            killed += 1
    wait_until(lambda: not any(one.outbox.rows for one in devices), "rows are left on the devices")
    stats = [device.link.stats() for device in devices]
    for device in devices:
        device.close()

    store = Store(tmp_path / "store")
    for device in devices:
        seq = stored(store, device.name)
        assert sorted(seq.elements()) == list(range(ROWS))
    store.close()
    assert killed == KILLS - 1
    frames = sum(one.frames_sent_total for one in stats)
    assert frames < 10 * DEVICES * ROWS / BLOCK


@pytest.mark.slow
@pytest.mark.mosquitto
def test_one_command_runs_the_members_and_all_other_roles(
    tmp_path: Path, port: int, start: Start
) -> None:
    """Rows go to the members, signs of life to the registry, and a signal ends all of them."""
    up = start("up")
    device = Device(tmp_path, "pump-1", SyncConfig(port=port))
    device.commit(0)
    wait_until(lambda: not device.outbox.rows, "rows are left on the device")
    store = Store(tmp_path / "store")
    wait_until(lambda: Jobs(store).life("pump-1") is not None, "nobody noted the life")
    device.close()

    up.terminate()

    assert up.wait(PATIENCE_S) == 0
    assert stored(store, "pump-1").total() == BLOCK
    store.close()


@pytest.mark.slow
@pytest.mark.mosquitto
def test_members_end_with_a_cloud_that_is_killed(config: Path, start: Start) -> None:
    """Nobody is left who would take rows beside the next one."""
    start("ingest").kill()

    wait_until(lambda: members_under(config) == [], "members outlive their cloud")


@pytest.mark.slow
@pytest.mark.mosquitto
def test_members_share_the_rows_of_a_broker_that_knows_who_is_who(tmp_path: Path) -> None:
    """Each shows a certificate of its own and may do what an ingest must."""
    with SecuredCloud(tmp_path, processes=MEMBERS) as cloud:
        cloud.broker.start()
        cloud.enroll("pump-1")
        config = tmp_path / "cloud.yaml"
        config.write_text(
            f"store: {tmp_path}/store\ncompact_s: null\n"
            f"broker: {{host: localhost, port: {cloud.broker.port}, tls: on}}\n"
            f"identity: {{names: [localhost], ca: {cloud.authority.folder}}}\n"
            f"ingest: {{processes: {MEMBERS}}}\n"
        )
        with started(tmp_path, config, "ingest"):
            device = Device(tmp_path, "pump-1", cloud.link(cloud.place("pump-1")))
            device.commit(0)
            wait_until(lambda: not device.outbox.rows, "rows are left on the device")
            device.close()

        assert stored(cloud.store, "pump-1").total() == BLOCK


def stored(store: Store, device: str) -> Counter[int]:
    """Count every stored row of a device, straight from the files."""
    seq: Counter[int] = Counter()
    for segment in store.segments(device, "main"):
        seq.update(store.read(segment).columns["seq"].tolist())
    return seq
