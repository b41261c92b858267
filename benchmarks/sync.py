"""Rows from a device's disk to the cloud's, through a real Mosquitto, and many devices at once.

Everything runs on this machine: broker, ingest (a process of its own), and the load.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from mqtt_load import Client
from results import Row, Skipped

from edge_cloud.store import Store
from edge_runtime.clock import SystemClock
from edge_runtime.config import OutboxConfig, SyncConfig
from edge_runtime.errors import MissingExtra
from edge_runtime.ports import Connected, Message
from edge_runtime.sync.frames import RowFrame, encode_frame
from edge_runtime.sync.link import Link
from edge_runtime.sync.messages import Ack, decode
from edge_runtime.sync.outbox import Batch, Outbox
from edge_runtime.sync.paho import PahoTransport
from edge_runtime.sync.state import StateStore
from edge_runtime.sync.topics import Topics
from edge_runtime.types import Table
from edge_simulator.broker import Broker, choose_broker

__all__ = ["PARTS"]

_TOPICS = Topics()
_ROWS, _FEWER_ROWS, _BLOCK = 1_000_000, 200_000, 500
_ROUND_TRIPS = 500
_BAR_ROWS_PER_S, _BAR_RTT_MS, _BAR_GROWTH_MB = 50_000.0, 2.0, 64.0
_ROWS_OF_A_FRAME = 10
_PATIENCE_S = 120.0
_T0_NS = 1_700_000_000 * 10**9


def round_trip(*, rounds: int) -> list[Row]:
    """A message of QoS 1 to another client and one back, both on our transport."""
    del rounds
    with (
        _broker() as port,
        _transport(port, "far", "ping") as far,
        _transport(port, "near", "pong") as near,
    ):
        echo = threading.Thread(target=_echo, args=(far, _ROUND_TRIPS))
        echo.start()
        taken_ms = [_ping(near) for _ in range(_ROUND_TRIPS)]
        echo.join()
    peers = {"p99 ms": float(np.quantile(taken_ms, 0.99)), "round trips": _ROUND_TRIPS}
    value = statistics.median(taken_ms)
    return [Row.of("mqtt_rtt_ms", value, "ms", bar=_BAR_RTT_MS, peers=peers, note="wall time")]


def drain(*, rounds: int) -> list[Row]:
    """A backlog of a million rows, from the outbox into the store."""
    del rounds
    drained = _drained(_ROWS)
    peers = {"rows": _ROWS, "seconds": drained.seconds, "frames": drained.frames}
    return [
        Row.of(
            "sync_rows_per_s",
            _ROWS / drained.seconds,
            "rows/s",
            bar=_BAR_ROWS_PER_S,
            peers={**peers, "bytes per row": drained.bytes_up / _ROWS},
            better="higher",
            note="wall time, all on this machine",
        ),
        Row.of(
            "drain_million_rows",
            max(drained.grown_mb.values()),
            "MB",
            bar=_BAR_GROWTH_MB,
            peers={**peers, **drained.grown_mb},
            note="growth of resident memory after the first tenth, the larger of both sides",
        ),
    ]


def members(*, rounds: int) -> list[Row]:
    """The same from one stream through several ingesters, and how much was sent again."""
    del rounds
    alone = _drained(_FEWER_ROWS)
    return [_by_members(processes, alone) for processes in (2, 4)]


def _by_members(processes: int, alone: _Drained) -> Row:
    drained = _drained(_FEWER_ROWS, processes)
    return Row.of(
        f"sync_members_{processes}_rows_per_s",
        _FEWER_ROWS / drained.seconds,
        "rows/s",
        bar=None,
        peers={
            "one ingester rows/s": _FEWER_ROWS / alone.seconds,
            "frames": drained.frames,
            "frames of one ingester": alone.frames,
        },
        better="higher",
        note="one stream, whose rows are stored one frame after the other",
    )


def thousand(*, rounds: int) -> list[Row]:
    """A thousand devices, a frame a second each."""
    return [_many("ingest_1000_devices", 1000, every_s=1.0, seconds=_seconds(rounds))]


def ten_thousand(*, rounds: int) -> list[Row]:
    """Ten thousand devices, a frame a minute each; not all come to their turn."""
    return [_many("ingest_10000_devices", 10_000, every_s=60.0, seconds=_seconds(rounds))]


def _seconds(rounds: int) -> float:
    return 10.0 if rounds < 100 else 30.0


PARTS = {
    "mqtt_rtt_ms": round_trip,
    "sync_rows_per_s drain_million_rows": drain,
    "sync_members": members,
    "ingest_1000_devices": thousand,
    "ingest_10000_devices": ten_thousand,
}


# --- one device ---------------------------------------------------------------------


class _Drained(msgspec.Struct, frozen=True):
    """What it took to empty an outbox.

    Attributes:
        seconds: Until the last acknowledgement.
        frames: Sent, repeated ones included.
        bytes_up: Of their payloads.
        grown_mb: Growth of resident memory, of the device's side and of the ingest.
    """

    seconds: float
    frames: int
    bytes_up: int
    grown_mb: dict[str, float]


def _drained(rows: int, processes: int = 1) -> _Drained:
    with _broker() as port, tempfile.TemporaryDirectory() as folder:
        outbox, state = _backlog(Path(folder), rows)
        with _cloud(Path(folder), port, processes) as cloud:
            link = _link(port, outbox, state)
            memory = {"device MB": _Memory(None), "ingest MB": _Memory(cloud.pid)}
            seconds = -time.perf_counter()
            with _running(link):
                while outbox.rows:
                    _pause(0.02)
                    for one in memory.values():
                        one.look(is_warm=outbox.rows < 0.9 * rows)
            seconds += time.perf_counter()
        outbox.close()
        state.close()
        stored = _stored_rows(Path(folder))
    if stored != rows:
        raise RuntimeError(f"{stored} rows are stored, not {rows}")
    grown = {name: one.grown_mb for name, one in memory.items()}
    stats = link.stats()
    return _Drained(seconds, stats.frames_sent_total, stats.bytes_up, grown)


def _backlog(folder: Path, rows: int) -> tuple[Outbox, StateStore]:
    clock = SystemClock()
    state = StateStore(folder / "state.db", clock)
    epoch, incarnation = state.start()
    outbox = Outbox.open(
        folder / "outbox.db",
        epoch=epoch,
        incarnation=incarnation,
        config=OutboxConfig(quota_mb=1024),
        clock=clock,
    )
    for first in range(0, rows, 10 * _BLOCK):
        batches = [
            Batch("main", "estimate", _rows(first + at, _BLOCK))
            for at in range(0, 10 * _BLOCK, _BLOCK)
        ]
        outbox.commit(source="main", position=first, snapshot=b"", base="", batches=batches)
    return outbox, state


def _rows(first: int, n: int) -> Table:
    """Estimates of one label, as a window a second makes them."""
    index = np.arange(first, first + n)
    end_ns = _T0_NS + index * 10**9
    score = np.round(np.sin(index / 50) + np.random.default_rng(first).normal(0, 0.01, n), 3)
    return Table(
        {
            "index": index,
            "start_ns": end_ns - 10**9,
            "end_ns": end_ns,
            "score": score[:, None],
            "value": score[:, None],
            "effective_id": np.full(n, "0123456789abcdef"),
        }
    )


def _link(port: int, outbox: Outbox, state: StateStore) -> Link:
    clock, config = SystemClock(), SyncConfig(port=port)
    transport = PahoTransport(config, "bench", clock)
    return Link("bench", transport, outbox, state, clock, lambda _: (), config)


@contextmanager
def _running(link: Link) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=link.run, args=(stop,))
    thread.start()
    yield
    stop.set()
    link.wake()
    thread.join()


# --- many devices -------------------------------------------------------------------


class _Load:
    """Devices that send their frames on time and note when each is acknowledged.

    Args:
        devices: How many.
        every_s: Seconds between two frames of one.
        seconds: How long.
    """

    def __init__(self, devices: int, *, every_s: float, seconds: float) -> None:
        self.devices = devices
        self._every_s = every_s
        self._seconds = seconds
        self._sent: dict[tuple[str, int], float] = {}
        self.latencies_s: list[float] = []
        # In advance: a device takes its time, this process has none to spare.
        self._payloads = {
            f"d{number}": [_frame(f"d{number}", turn) for turn in range(self._turns(number))]
            for number in range(devices)
        }

    async def run(self, port: int) -> None:
        clients = [await self._open(port, device) for device in self._payloads]
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(self._device(one, began, i) for i, one in enumerate(clients)))
        await self._settled()
        for _, client in clients:
            client.close()

    def _due_s(self, number: int, turn: int) -> float:
        """Return when a device sends, spread evenly over all of them."""
        return self._every_s * (turn + number / self.devices)

    def _turns(self, number: int) -> int:
        turn = 0
        while self._due_s(number, turn) < self._seconds:
            turn += 1
        return turn

    @property
    def unanswered(self) -> int:
        return len(self._sent)

    async def _open(self, port: int, device: str) -> tuple[str, Client]:
        topic = _TOPICS.dn(device, "ack")
        return device, await Client.open(port, device, topic, self._on_message)

    async def _device(self, one: tuple[str, Client], began: float, number: int) -> None:
        (device, client), loop = one, asyncio.get_running_loop()
        for turn, payload in enumerate(self._payloads[device]):
            await asyncio.sleep(began + self._due_s(number, turn) - loop.time())
            self._sent[(device, (turn + 1) * _ROWS_OF_A_FRAME)] = time.perf_counter()
            client.publish(_TOPICS.tel(device, "main"), payload)

    def _on_message(self, _topic: str, payload: bytes) -> None:
        now, ack = time.perf_counter(), decode(payload, Ack)
        upto = ack.upto
        # An acknowledgement is cumulative: it answers all frames below it.
        while (sent := self._sent.pop((ack.device, upto), None)) is not None:
            self.latencies_s.append(now - sent)
            upto -= _ROWS_OF_A_FRAME

    async def _settled(self) -> None:
        deadline = time.perf_counter() + 30
        while self._sent and time.perf_counter() < deadline:
            await asyncio.sleep(0.1)


def _frame(device: str, turn: int) -> bytes:
    table = _rows(turn * _ROWS_OF_A_FRAME, _ROWS_OF_A_FRAME)
    frame = RowFrame(
        device, "main", 1, 7, turn * _ROWS_OF_A_FRAME, _ROWS_OF_A_FRAME, "estimate", table
    )
    return encode_frame(frame)


def _many(name: str, devices: int, *, every_s: float, seconds: float) -> Row:
    _allow_files(devices + 1000)
    load = _Load(devices, every_s=every_s, seconds=seconds)
    with _broker() as port, tempfile.TemporaryDirectory() as folder:
        with _cloud(Path(folder), port) as cloud:
            before = _rss_mb(cloud.pid), _cpu_s(cloud.pid)
            asyncio.run(load.run(port))
            grown, cpu_s = _rss_mb(cloud.pid) - before[0], _cpu_s(cloud.pid) - before[1]
        stored = _stored_rows(Path(folder))
    if load.unanswered or stored != len(load.latencies_s) * _ROWS_OF_A_FRAME:
        raise RuntimeError(f"{load.unanswered} frames without an answer, {stored} rows stored")
    p50, p99 = np.quantile(load.latencies_s, (0.5, 0.99)) * 1e3
    frames = len(load.latencies_s)
    peers = {"p50 ms": float(p50), "ingest cpu us a frame": cpu_s / frames * 1e6}
    peers |= {"ingest MB more": grown, "frames": frames}
    note = "wall time from publish to acknowledgement, 99 of 100"
    return Row.of(name, float(p99), "ms", bar=None, peers=peers, note=note)


# --- what they run on -----------------------------------------------------------------


@contextmanager
def _broker() -> Iterator[int]:
    try:
        kind = choose_broker("mosquitto")
    except MissingExtra as error:
        raise Skipped(str(error)) from error
    with tempfile.TemporaryDirectory() as folder, Broker(kind, Path(folder)) as broker:
        yield broker.port


@contextmanager
def _cloud(folder: Path, port: int, processes: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """An ingest in a process of its own, once it says that it is online."""
    config = folder / "cloud.yaml"
    config.write_text(
        f"store: store\nbroker: {{port: {port}}}\ncompact_s: null\n"
        f"ingest: {{processes: {processes}}}\n"
    )
    with _transport(port, "watch", _TOPICS.all_cloud) as watch:
        words = [sys.executable, "-m", "edge_runtime.cli", "cloud", "ingest", str(config)]
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        for _ in range(processes):
            _wait_for(watch, Message)
    yield process
    process.terminate()
    process.wait(_PATIENCE_S)


def _stored_rows(folder: Path) -> int:
    store = Store(folder / "store")
    rows = store.status().rows
    store.close()
    return rows


@contextmanager
def _transport(port: int, client: str, topic: str) -> Iterator[PahoTransport]:
    transport = PahoTransport(SyncConfig(port=port), client, SystemClock())
    transport.open([topic], None)
    _wait_for(transport, Connected)
    yield transport
    transport.close()


def _wait_for(transport: PahoTransport, kind: type[object]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not isinstance(transport.receive(1.0), kind):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {kind.__name__} within {_PATIENCE_S:g} s")


def _echo(transport: PahoTransport, times: int) -> None:
    for _ in range(times):
        _wait_for(transport, Message)
        transport.publish(Message("pong", b"x"))


def _ping(transport: PahoTransport) -> float:
    start = time.perf_counter()
    transport.publish(Message("ping", b"x"))
    _wait_for(transport, Message)
    return (time.perf_counter() - start) * 1e3


def _allow_files(wanted: int) -> None:
    """Let this process and its children have so many open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Skipped(f"{wanted} open files are needed, {hard} allowed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Memory:
    """How far resident memory grows once a process is warm; None for this one."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._base_mb: float | None = None
        self.grown_mb = 0.0

    def look(self, *, is_warm: bool) -> None:
        """Measure; the first look at a warm process is where growth begins."""
        now_mb = _rss_mb(self._pid)
        if self._base_mb is None:
            self._base_mb = now_mb if is_warm else None
            return
        self.grown_mb = max(self.grown_mb, now_mb - self._base_mb)


def _rss_mb(pid: int | None) -> float:
    pages = Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]
    return int(pages) * 4096 / 1e6


def _cpu_s(pid: int) -> float:
    """Return the processor time of all threads of a process."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)
