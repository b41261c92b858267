"""Several ingesters on one store: frames dealt out in turn, quotas, and what is set aside."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cloud.config import IngestConfig
from edge_cloud.devices import device_rows
from edge_cloud.ingest import Ingest, Member, replay
from edge_cloud.members import shares
from edge_cloud.poison import Poison
from edge_cloud.store import Store
from edge_runtime.clock import SystemClock
from edge_runtime.config import SyncConfig
from edge_runtime.errors import ConfigError, StoreError, WireError
from edge_runtime.ports import Message
from edge_runtime.sync.frames import RowFrame, encode_frame
from edge_runtime.sync.messages import Ack, CloudState, decode
from edge_runtime.sync.paho import PahoTransport
from edge_runtime.sync.topics import Topics
from edge_runtime.testing.clock import FakeClock
from edge_runtime.testing.transport import MemoryBroker
from edge_simulator.broker import Broker, BrokerKind, choose_broker

from .conftest import frame_of

TOPICS = Topics()


class Hall:
    """Members of one group on one in-memory broker, and a device."""

    def __init__(self, folder: Path, members: int = 2, **config: object) -> None:
        self.broker = MemoryBroker()
        self.clock = FakeClock()
        self.stores = [Store(folder / "store", clock=self.clock) for _ in range(members)]
        self.ingests = [
            Ingest(
                self.broker.transport(f"cloud-ingest-{number}"),
                store,
                config=IngestConfig(processes=members, **config),
                member=Member(number),
                clock=self.clock,
            )
            for number, store in enumerate(self.stores)
        ]
        self.device = self.broker.transport("pump-1")
        self.device.open([TOPICS.dn("pump-1", "#"), TOPICS.all_cloud], None)
        for ingest in self.ingests:
            ingest.open()
            ingest.step(0.0)
        self.heard()

    @property
    def store(self) -> Store:
        return self.stores[0]

    def send(self, frame: RowFrame) -> None:
        self.device.publish(Message(TOPICS.tel(frame.device, frame.stream), encode_frame(frame)))

    def heard(self) -> list[Message]:
        messages = []
        while (event := self.device.receive(0.0)) is not None:
            if isinstance(event, Message):
                messages.append(event)
        return messages

    def acks(self) -> list[tuple[int, bool]]:
        acks = [decode(one.payload, Ack) for one in self.heard() if one.topic.endswith("/ack")]
        return [(ack.upto, ack.must_resume) for ack in acks]

    def close(self) -> None:
        for store in self.stores:
            store.close()


@pytest.fixture
def make_hall(tmp_path: Path) -> Iterator[Callable[..., Hall]]:
    halls: list[Hall] = []

    def make(**options: object) -> Hall:
        halls.append(Hall(tmp_path, **options))
        return halls[-1]

    yield make
    for hall in halls:
        hall.close()


def test_an_early_frame_waits_for_the_one_another_member_has(
    make_hall: Callable[..., Hall],
) -> None:
    """Nobody is sent back: what is missing is there a moment later."""
    hall = make_hall()
    hall.send(frame_of(0, 10))
    hall.send(frame_of(10, 10))
    first, second = hall.ingests[1], hall.ingests[0]

    second.step(0.0)
    assert hall.acks() == []
    first.step(0.0)
    second.step(0.0)

    assert hall.acks() == [(10, False), (20, False)]
    assert hall.store.status().rows == 20


def test_a_frame_that_waits_too_long_sends_its_device_back(
    make_hall: Callable[..., Hall],
) -> None:
    """Whoever had the one before has died with it."""
    hall = make_hall(members=1, hold_s=2.0)
    hall.send(frame_of(10, 10))

    hall.ingests[0].step(0.0)
    hall.clock.advance(1.9)
    hall.ingests[0].step(0.0)
    assert hall.acks() == []
    hall.clock.advance(0.1)
    hall.ingests[0].step(0.0)

    assert hall.acks() == [(0, True)]
    assert hall.ingests[0]._early.take() == []


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), members=st.integers(2, 4))
def test_any_order_of_members_stores_each_row_once_and_sends_nobody_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int, members: int
) -> None:
    """Twenty frames dealt out to two to four members that run as they like."""
    hall = Hall(tmp_path_factory.mktemp("hall"), members=members)
    order = random.Random(seed)
    for number in range(20):
        hall.send(frame_of(5 * number, 5))

    for _ in range(200):
        order.choice(hall.ingests).step(0.0)
        if hall.store.status().rows == 100:
            break
    acks = hall.acks()
    hall.close()

    assert max(acks) == (100, False)
    assert not any(must_resume for _, must_resume in acks)


def test_what_waits_is_bounded(make_hall: Callable[..., Hall], monkeypatch: object) -> None:
    """Beyond the limit the device resumes, and memory does not grow."""
    monkeypatch.setattr("edge_cloud.early._MOST_BYTES", 5000)
    hall = make_hall(members=1)
    for number in range(1, 40):
        hall.send(frame_of(10 * number, 10))

    hall.ingests[0].step(0.0)

    assert hall.acks() == [(0, True)]
    assert 0 < len(hall.ingests[0]._early.take()) < 10


def test_the_cloud_stays_online_as_long_as_one_member_lives(
    make_hall: Callable[..., Hall],
) -> None:
    """A member that is killed takes the presence back; the others say that it is not so."""
    hall = make_hall()

    hall.broker.cut("cloud-ingest-0")
    gone = [decode(one.payload, CloudState).is_online for one in hall.heard()]
    hall.ingests[1].step(0.0)
    back = [decode(one.payload, CloudState).is_online for one in hall.heard()]
    hall.ingests[1].close()
    end = [decode(one.payload, CloudState).is_online for one in hall.heard()]

    assert (gone, back, end) == ([False], [True], [False])


def test_all_members_repeat_the_same_presence(make_hall: Callable[..., Hall]) -> None:
    """Else devices would send again with every repetition; a damaged one is passed over."""
    hall = make_hall()
    for ingest in hall.ingests:
        ingest.step(0.0)
    hall.device.publish(Message(TOPICS.all_cloud, b"\x00 damaged"))
    hall.heard()

    hall.clock.advance(21.0)
    for ingest in hall.ingests:
        ingest.step(0.0)

    said = {one.payload for one in hall.heard()}
    assert len(said) == 1
    assert decode(said.pop(), CloudState).is_online


def test_a_device_over_its_quota_hears_later_and_loses_nothing(
    make_hall: Callable[..., Hall],
) -> None:
    """Its rows are stored, its acknowledgement waits, others go on, and it can be seen."""
    hall = make_hall(members=1, rows_per_s=10.0)
    ingest = hall.ingests[0]
    hall.send(frame_of(0, 150))
    other = hall.broker.transport("pump-2")
    other.open([TOPICS.dn("pump-2", "#")], None)
    hall.send(frame_of(0, 50, device="pump-2"))

    ingest.step(0.0)
    assert hall.store.status().rows == 200
    assert hall.acks() == []
    other.receive(0.0)
    assert isinstance(other.receive(0.0), Message)
    hall.clock.advance(4.9)
    ingest.step(0.0)
    assert hall.acks() == []
    hall.clock.advance(0.2)
    ingest.step(0.0)

    assert hall.acks() == [(150, False)]
    assert ingest.stats.acks_delayed_total == 1
    delays = {one.device: one.quota_delays for one in device_rows(hall.store)}
    assert delays == {"pump-1": 1, "pump-2": 0}


def test_rows_that_come_again_are_not_counted_again(make_hall: Callable[..., Hall]) -> None:
    """A device that waits sends again, and must not pay for that."""
    hall = make_hall(members=1, rows_per_s=10.0)
    for _ in range(3):
        hall.send(frame_of(0, 110))
        hall.ingests[0].step(0.0)

    hall.clock.advance(1.1)
    hall.ingests[0].step(0.0)

    assert hall.acks() == [(110, False)]


def test_a_store_that_fails_leaves_rows_on_the_devices_and_nothing_in_memory(
    make_hall: Callable[..., Hall], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ack, no queue: what was read is let go, and comes again."""
    hall = make_hall(members=1)

    def refuse(_: object) -> list[Ack]:
        raise StoreError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(hall.store, "ingest", refuse)
        for _ in range(50):
            hall.send(frame_of(10, 10))
            hall.ingests[0].step(0.0)
        assert hall.ingests[0]._early.take() == []
        assert hall.acks() == []
    hall.send(frame_of(0, 10))
    hall.ingests[0].step(0.0)

    assert hall.acks() == [(10, False)]
    assert hall.broker.discarded_total == 0


# --- what is set aside ------------------------------------------------------------------


def poisoned(hall: Hall, payload: bytes) -> str:
    """Have one payload set aside; return its name."""
    hall.device.publish(Message(TOPICS.tel("pump-1", "main"), payload))
    hall.ingests[0].step(0.0)
    (entry,) = Poison(hall.store.folder).entries()
    return entry.name


def test_what_comes_again_is_set_aside_once(make_hall: Callable[..., Hall]) -> None:
    """A device sends a frame until it is acknowledged; one copy is enough to look at."""
    hall = make_hall(members=1)

    names = {poisoned(hall, b"\x00 no frame") for _ in range(3)}

    (entry,) = Poison(hall.store.folder).entries()
    assert names == {entry.name}
    assert entry.topic == "er/1/d/pump-1/up/tel/main"
    assert "it does not decode" in entry.why
    assert Poison(hall.store.folder).message(entry.name).payload == b"\x00 no frame"


def test_a_frame_that_can_be_read_now_is_replayed(
    make_hall: Callable[..., Hall], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes the ordinary way: stored once, and no more set aside."""
    hall = make_hall(members=1)
    with monkeypatch.context() as patched:
        patched.setattr("edge_cloud.ingest.check_frame", refuse_frame)
        name = poisoned(hall, encode_frame(frame_of(0, 10)))

    assert replay(hall.store, [name]) == {name: ""}

    assert hall.store.status().rows == 10
    assert Poison(hall.store.folder).entries() == []
    with pytest.raises(ConfigError, match="nothing called"):
        replay(hall.store, [name])


def test_what_still_cannot_be_taken_stays_with_its_reason(
    make_hall: Callable[..., Hall], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unreadable bytes, and rows whose predecessors are missing."""
    hall = make_hall(members=1)
    bad = poisoned(hall, b"\x00 no frame")
    assert "does not decode" in replay(hall.store, [bad])[bad]
    Poison(hall.store.folder).drop(bad)
    with monkeypatch.context() as patched:
        patched.setattr("edge_cloud.ingest.check_frame", refuse_frame)
        early = poisoned(hall, encode_frame(frame_of(10, 10)))

    assert "the mark is 0" in replay(hall.store, [early])[early]

    assert [entry.name for entry in Poison(hall.store.folder).entries()] == [early]


def refuse_frame(_: RowFrame) -> RowFrame:
    raise WireError("not of this version")


# --- brokers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["iotcore", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]
)
def test_a_broker_that_shares_is_found_out_by_a_message(tmp_path: Path, kind: BrokerKind) -> None:
    """Both brokers that a demo may run on deal frames out."""
    with Broker(choose_broker(kind), tmp_path) as broker:
        transport = PahoTransport(SyncConfig(port=broker.port), "cloud-probe", SystemClock())

        assert shares(transport, "ingest", TOPICS, SystemClock(), threading.Event()) is True


def test_a_broker_that_only_says_so_is_found_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It grants the subscription and delivers nothing."""
    monkeypatch.setattr("edge_cloud.members._PROBE_S", 0.1)
    broker = MemoryBroker(fault=lambda client, message: [])
    transport = broker.transport("cloud-probe")

    assert shares(transport, "ingest", TOPICS, SystemClock(), threading.Event()) is False


def test_without_a_broker_nothing_is_known() -> None:
    """Whoever stops the cloud before its broker is there does not wait."""
    broker = MemoryBroker()
    broker.cut("cloud-probe")
    stop = threading.Event()
    stop.set()

    found = shares(broker.transport("cloud-probe"), "ingest", TOPICS, SystemClock(), stop)

    assert found is None
