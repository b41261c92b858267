"""A clock to hand and the two databases, for every test of the sync package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.config import OutboxConfig, SyncConfig
from edge_runtime.ports import Message
from edge_runtime.sync.blocks import Key
from edge_runtime.sync.frames import RowFrame, decode_frame
from edge_runtime.sync.link import Handler, Link
from edge_runtime.sync.messages import Ack, CloudState, encode
from edge_runtime.sync.outbox import Batch, Outbox
from edge_runtime.sync.state import StateStore
from edge_runtime.sync.topics import Topics
from edge_runtime.sync.transport import MemoryBroker
from edge_runtime.testing.clock import FakeClock
from edge_runtime.types import Table
from edge_simulator.disk import Disk, can_fill


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def state(tmp_path: Path, clock: FakeClock) -> Iterator[StateStore]:
    store = StateStore(tmp_path / "state.db", clock)
    store.start()
    yield store
    store.close()


@pytest.fixture
def open_outbox(tmp_path: Path, clock: FakeClock) -> Iterator[Callable[..., Outbox]]:
    """Open the same file as often as one likes; incarnation 7, epoch 1 unless told."""
    opened = []

    def open_it(epoch: int = 1, incarnation: int = 7, **config: object) -> Outbox:
        options = OutboxConfig(**({"quota_mb": 8, "ballast_mb": 0} | config))
        opened.append(
            Outbox.open(
                tmp_path / "outbox.db",
                epoch=epoch,
                incarnation=incarnation,
                config=options,
                clock=clock,
            )
        )
        return opened[-1]

    yield open_it
    for outbox in opened:
        outbox.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """The disk of this process, which can be full."""
    if not can_fill():
        pytest.skip("SQLite's system calls cannot be replaced here")
    disk = Disk(tmp_path)
    yield disk
    disk.set_full(False)


@pytest.fixture
def outbox(open_outbox: Callable[..., Outbox]) -> Outbox:
    return open_outbox()


@pytest.fixture
def batch() -> Callable[..., Batch]:
    """Make a batch of ``n`` rows that can be told apart by their column ``x``."""

    def make(n: int = 1, first: int = 0, stream: str = "main", kind: str = "estimate") -> Batch:
        return Batch(stream, kind, Table({"x": np.arange(first, first + n, dtype=np.int64)}))

    return make


@pytest.fixture
def commit() -> Callable[..., None]:
    """Commit batches as the source ``main`` at a position."""

    def do(outbox: Outbox, *batches: Batch, position: int = 0) -> None:
        outbox.commit(source="main", position=position, snapshot=b"s", base="base", batches=batches)

    return do


class Cloud:
    """The simplest ingest: stores each row once, acknowledges what is stored."""

    def __init__(self, broker: MemoryBroker, clock: FakeClock) -> None:
        self.rows: dict[Key, list[object]] = {}
        self.frames: list[RowFrame] = []
        self.heard: list[Message] = []
        self.is_mute = False
        self._topics = Topics()
        self._broker = broker
        self._clock = clock
        self.start()

    def start(self) -> None:
        """Come up, as a new ingest on the same store."""
        self.transport = self._broker.transport("cloud-ingest")
        self.transport.open([self._topics.every_up("#")], self._presence(is_online=False))
        self.transport.publish(self._presence(is_online=True))

    def stop(self) -> None:
        self.transport.publish(self._presence(is_online=False))
        self.transport.close()

    def say(self, leaf: str, payload: bytes) -> None:
        self.transport.publish(Message(self._topics.dn("pump", leaf), payload))

    def step(self) -> None:
        while (event := self.transport.receive(0.0)) is not None:
            if isinstance(event, Message):
                self.heard.append(event)
                if self._topics.parse(event.topic).leaf == "tel":
                    self._take(decode_frame(event.payload))

    def _take(self, frame: RowFrame) -> None:
        self.frames.append(frame)
        stored = self.rows.setdefault((frame.incarnation, frame.epoch, frame.stream), [])
        is_ahead = frame.seq0 > len(stored)
        if not is_ahead:
            values = frame.table.columns["x"].tolist() if frame.kind != "gap" else []
            rows = values or [frame.reason] * frame.n
            stored.extend(rows[len(stored) - frame.seq0 :])
        if not self.is_mute:
            ack = Ack(
                frame.device, frame.incarnation, frame.epoch, frame.stream, len(stored), is_ahead
            )
            self.say("ack", encode(ack))

    def _presence(self, *, is_online: bool) -> Message:
        state = CloudState(is_online=is_online, made_ns=self._clock.now_ns())
        return Message(self._topics.all_cloud, encode(state), retain=True)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture(scope="session")
def make_cloud() -> type[Cloud]:
    return Cloud


@pytest.fixture
def cloud(broker: MemoryBroker, clock: FakeClock) -> Cloud:
    return Cloud(broker, clock)


@pytest.fixture
def make_link(
    broker: MemoryBroker, outbox: Outbox, state: StateStore, clock: FakeClock
) -> Callable[..., Link]:
    """Make and open the link of the device ``pump``."""

    def make(handle: Handler = lambda _: (), json: bool = False, **config: object) -> Link:
        link = Link(
            "pump",
            broker.transport("pump"),
            outbox,
            state,
            clock,
            handle,
            SyncConfig(**config),
            json=json,
            jitter=lambda: 0.0,
        )
        link.open()
        return link

    return make
