"""Ingest: acks follow storage, poison is set aside, the rest goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_cloud.ingest import Ingest, Router
from edge_cloud.store import Store
from edge_runtime.errors import StoreError, WireError
from edge_runtime.ports import Message
from edge_runtime.sync.frames import RowFrame, encode_frame
from edge_runtime.sync.messages import Ack, CloudState, Life, decode, encode
from edge_runtime.sync.topics import Address, Topics
from edge_runtime.testing.clock import FakeClock
from edge_runtime.testing.transport import MemoryBroker, MemoryTransport

from .conftest import frame_of

TOPICS = Topics()


class Pair:
    """An ingest and a device on one in-memory broker."""

    def __init__(self, store: Store) -> None:
        self.broker = MemoryBroker()
        self.control: list[tuple[Address, bytes]] = []
        self.stored: list[set[tuple[str, str]]] = []
        self.revoked: set[str] = set()
        self.ingest = Ingest(
            self.broker.transport("cloud"),
            store,
            handlers={"life": self._control},
            on_stored=self.stored.append,
            revoked=lambda: self.revoked,
        )
        self.ingest.open()
        self.ingest.step(0.0)
        self.device: MemoryTransport = self.broker.transport("pump-1")
        self.device.open([TOPICS.dn("pump-1", "#")], None)
        self.device.receive(0.0)

    def _control(self, address: Address, payload: bytes) -> None:
        if payload == b"bad":
            raise WireError("bad", where="life")
        self.control.append((address, payload))

    def send(self, frame: RowFrame, device: str = "pump-1", stream: str = "main") -> None:
        self.device.publish(Message(TOPICS.tel(device, stream), encode_frame(frame)))

    def acks(self) -> list[Ack]:
        acks = []
        while isinstance(event := self.device.receive(0.0), Message):
            acks.append(decode(event.payload, Ack))
        return acks


@pytest.fixture
def pair(store: Store) -> Pair:
    return Pair(store)


def presence(broker: MemoryBroker) -> bool:
    message = broker.retained(TOPICS.all_cloud)
    assert message is not None
    return decode(message.payload, CloudState).is_online


def test_presence_is_said_again_and_again(store: Store) -> None:
    """A device that missed it, or got it damaged, hears it again, as the same presence."""
    broker, clock = MemoryBroker(), FakeClock()
    ingest = Ingest(broker.transport("cloud"), store, clock=clock)
    ingest.open()
    ingest.step(0.0)
    said = broker.retained(TOPICS.all_cloud)
    device = broker.transport("pump-1")
    device.open([TOPICS.all_cloud], None)
    while device.receive(0.0):
        pass

    ingest.step(0.0)
    before = device.receive(0.0)
    clock.advance(20.0)
    ingest.step(0.0)
    again = device.receive(0.0)

    assert before is None
    assert isinstance(again, Message) and said is not None
    assert again.payload == said.payload


def test_rows_are_stored_before_they_are_acknowledged(pair: Pair, store: Store) -> None:
    """One group of frames makes one segment, one ack per epoch, and tells who has new rows."""
    for seq0 in (0, 10, 20):
        pair.send(frame_of(seq0, 10))

    pair.ingest.step(0.0)

    assert [ack.upto for ack in pair.acks()] == [30]
    assert len(store.segments()) == 1
    assert pair.stored == [{("pump-1", "main")}]


def test_a_frame_sent_again_is_acknowledged_again(pair: Pair, store: Store) -> None:
    """The ack may have been lost; the rows are not stored twice."""
    for _ in range(3):
        pair.send(frame_of(0, 10))
        pair.ingest.step(0.0)

    assert [ack.upto for ack in pair.acks()] == [10, 10, 10]
    assert store.status().rows == 10


def test_acks_wait_while_the_transport_takes_none(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full queue costs no device a time-out: the newest ack of each stream goes later."""
    with monkeypatch.context() as patched:
        patched.setattr(pair.ingest.transport, "publish", lambda _: False)
        for seq0 in (0, 10):
            pair.send(frame_of(seq0, 10))
            pair.ingest.step(0.0)
    assert pair.acks() == []

    pair.ingest.step(0.0)

    assert [ack.upto for ack in pair.acks()] == [20]


def test_presence_is_retained_and_a_broken_link_takes_it_back(pair: Pair) -> None:
    """Devices learn whether rows can be taken, from the ingest itself or from its will."""
    states = [presence(pair.broker)]
    pair.broker.cut("cloud")
    states.append(presence(pair.broker))
    pair.broker.mend("cloud")
    pair.ingest.step(0.0)
    states.append(presence(pair.broker))
    pair.ingest.close()
    states.append(presence(pair.broker))

    assert states == [True, False, True, False]


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (TOPICS.tel("pump-1", "main"), b"\x00 no frame"),
        (TOPICS.tel("pump-1", "main"), encode_frame(frame_of(0, 5))[:-3]),
        (TOPICS.tel("pump-2", "main"), encode_frame(frame_of(0, 5))),
        (TOPICS.tel("pump-1", "other"), encode_frame(frame_of(0, 5))),
        (TOPICS.up("pump-1", "life"), b"bad"),
    ],
)
def test_poison_is_set_aside_and_counted_and_the_rest_goes_on(
    pair: Pair, store: Store, topic: str, payload: bytes
) -> None:
    """What does not decode, or speaks for another, gets no ack and a file with the reason."""
    pair.device.publish(Message(topic, payload))
    pair.send(frame_of(0, 10))

    pair.ingest.step(0.0)

    assert [ack.upto for ack in pair.acks()] == [10]
    assert pair.ingest.stats.poison_total == 1
    assert sum(store.counters()["poison_total"].values()) == 1
    (kept,) = (store.folder / "poison").glob("*.bin")
    assert kept.read_bytes() == payload
    assert topic in kept.with_suffix(".why").read_text()


def test_control_messages_go_to_their_handler(pair: Pair) -> None:
    """Leaves without a handler and cleared retained messages are passed over."""
    life = encode(Life("pump-1", 1, 7, is_online=True))
    for leaf, payload in (("life", life), ("evt", b"x"), ("life", b"")):
        pair.device.publish(Message(TOPICS.up("pump-1", leaf), payload))

    pair.ingest.step(0.0)

    assert [(address.leaf, payload) for address, payload in pair.control] == [("life", life)]


def test_a_store_that_fails_gives_no_ack_and_later_takes_the_rows(
    pair: Pair, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk is full devices hear nothing and keep their rows."""

    def refuse(_: object) -> list[Ack]:
        raise StoreError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(store, "ingest", refuse)
        pair.send(frame_of(0, 10))
        pair.ingest.step(0.0)
        assert pair.acks() == []
        assert pair.stored == []

    pair.send(frame_of(0, 10))
    pair.ingest.step(0.0)

    assert [ack.upto for ack in pair.acks()] == [10]
    assert pair.ingest.stats.store_failures_total == 1


def test_a_registry_alone_hears_control_messages_only(store: Store, tmp_path: Path) -> None:
    """A router subscribes to what its role needs and leaves rows to the ingest."""
    broker = MemoryBroker()
    heard: list[str] = []
    router = Router(
        broker.transport("registry"),
        leaves=["life", "job/+"],
        handlers=dict.fromkeys(("life", "job"), lambda address, _: heard.append(address.leaf)),
    )
    router.open()
    device = broker.transport("pump-1")
    device.open([], None)
    for leaf in ("life", "job/x-1", "tel/main"):
        device.publish(Message(TOPICS.up("pump-1", leaf), b"x"))

    router.step(0.0)

    assert heard == ["life", "job"]


def test_nothing_is_taken_from_a_revoked_device(pair: Pair, store: Store) -> None:
    """From the moment it is revoked neither rows nor control messages of a device count."""
    pair.send(frame_of(0, 10))
    pair.ingest.step(0.0)
    before = len(pair.acks())

    pair.revoked.add("pump-1")
    pair.send(frame_of(10, 10))
    pair.device.publish(Message(TOPICS.up("pump-1", "life"), encode(Life("pump-1", 1, 7, True))))
    pair.send(frame_of(0, 5, device="pump-2"), device="pump-2")
    pair.ingest.step(0.0)

    assert (before, len(pair.acks())) == (1, 0)
    assert {segment.device: segment.rows for segment in store.segments()} == {
        "pump-1": 10,
        "pump-2": 5,
    }
    assert pair.control == []
    assert pair.ingest.stats.refused_total == 2


def test_small_payloads_that_unfold_are_not_all_held_at_once(
    pair: Pair, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group ends when what was unfolded takes much memory, however little came over the wire."""
    monkeypatch.setattr("edge_cloud.ingest._HELD_BYTES", frame_of(0, 10).table.nbytes * 2)
    for seq0 in range(0, 50, 10):
        pair.send(frame_of(seq0, 10))

    pair.ingest.step(0.0)

    assert pair.ingest.stats.groups_total == 3
    assert [ack.upto for ack in pair.acks()] == [50]
    assert store.status().rows == 50
