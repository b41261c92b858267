"""Jobs: sent until answered, one base at a time, every end kept with its reason."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_cloud.jobs import Jobs
from edge_cloud.publisher import Publisher, PublisherConfig
from edge_cloud.registry import Registry
from edge_cloud.signing import SigningKey, sign_base
from edge_cloud.store import Store
from edge_runtime.bundle import Bundle, pack
from edge_runtime.errors import ConfigError, TrustError, WireError
from edge_runtime.ports import Message
from edge_runtime.sync.messages import (
    BlobChunk,
    BlobRequest,
    Job,
    JobReport,
    Life,
    Signed,
    decode,
    encode,
    unknown_fields,
)
from edge_runtime.sync.topics import Topics
from edge_runtime.testing import FakeClock
from edge_runtime.update.trust import CHUNK_BYTES

TOPICS = Topics()


class Room:
    """A store with a publisher whose messages land in a list."""

    def __init__(self, store: Store, bundle: Bundle, config: PublisherConfig) -> None:
        self.clock = FakeClock()
        self.jobs = Jobs(store, clock=self.clock)
        self.registry = Registry(store)
        self.registry.add(bundle)
        self.base = bundle.digest
        self.sent: list[Message] = []
        self.is_up = True
        self.changes = 0
        self.publisher = Publisher(
            self._publish,
            self.jobs,
            self.registry,
            clock=self.clock,
            config=config,
            on_changed=self._count,
        )

    def _publish(self, message: Message) -> bool:
        if self.is_up:
            self.sent.append(message)
        return self.is_up

    def _count(self) -> None:
        self.changes += 1

    def life(self, device: str = "pump-1", *, is_online: bool = True, epoch: int = 1) -> None:
        base = {"main": self.base} if is_online else {}
        self.say("life", Life(device, epoch, 7, is_online, base=base), device)

    def say(self, leaf: str, message: object, device: str = "pump-1") -> None:
        address = TOPICS.parse(TOPICS.up(device, leaf))
        self.publisher.handle(address, encode(message))  # type: ignore[arg-type]

    def say_newer(self, leaf: str, message: msgspec.Struct, beyond: dict[str, object]) -> None:
        address = TOPICS.parse(TOPICS.up("pump-1", leaf))
        self.publisher.handle(address, encode(message, beyond=beyond))

    def report(self, job: str, state: str, reason: str = "", device: str = "pump-1") -> None:
        self.say(f"job/{job}", JobReport(job, device, "main", state, reason), device)

    def offer(self, device: str = "pump-1") -> str:
        return self.jobs.offer(device=device, stream="main", model="turbine", requires=self.base)

    def jobs_sent(self) -> list[str]:
        found = [decode(m.payload, Job).id for m in self.sent if m.topic.endswith("/dn/job")]
        self.sent.clear()
        return found


@pytest.fixture
def room(store: Store, bundle: Bundle) -> Room:
    return Room(store, bundle, PublisherConfig(resend_s=10.0, tries=3))


def test_a_job_waits_until_its_device_is_online(room: Room) -> None:
    """Nothing is sent into the void; the device's hello sends it at once."""
    job = room.offer()
    room.publisher.step()
    assert room.jobs_sent() == []

    room.life()
    room.publisher.step()

    assert room.jobs_sent() == [job]


def test_a_job_is_sent_again_after_a_time_out_and_on_return(room: Room) -> None:
    """Time-outs double; a device that comes back gets it at once."""
    room.life()
    job = room.offer()
    room.publisher.step()
    room.clock.advance(9.0)
    room.publisher.step()
    assert room.jobs_sent() == [job]

    room.clock.advance(2.0)
    room.publisher.step()
    assert room.jobs_sent() == [job]

    room.clock.advance(11.0)
    room.publisher.step()
    assert room.jobs_sent() == []
    room.life(epoch=2)
    room.publisher.step()
    assert room.jobs_sent() == [job]


@pytest.mark.parametrize("end", ["committed", "refused", "rolled_back"])
def test_an_end_is_kept_with_its_reason_and_nothing_is_sent_again(room: Room, end: str) -> None:
    """The first end counts; a repeated report changes neither state nor counters."""
    room.life()
    job = room.offer()
    room.publisher.step()
    for state in ("trial", end, end, "trial"):
        room.report(job, state, "clamp: residual 60 > 50" if state == end else "")
    room.clock.advance(1000.0)
    room.sent.clear()
    room.publisher.step()

    row = room.jobs.get(job)
    assert row is not None
    assert (row.state, row.reason) == (end, "clamp: residual 60 > 50")
    assert room.jobs_sent() == []
    store = room.jobs._database
    counted = store.rows("SELECT reason, n FROM counter WHERE name=?", (f"updates_{end}_total",))
    assert [tuple(each) for each in counted] == [("clamp", 1)]


def test_a_job_without_any_answer_ends_as_silent(room: Room) -> None:
    """Even silence is a terminal state, after a known number of sendings."""
    room.life()
    job = room.offer()
    for _ in range(6):
        room.publisher.step()
        room.clock.advance(100.0)

    row = room.jobs.get(job)
    assert row is not None
    assert (row.state, row.tries) == ("silent", 3)


def test_the_newest_layers_take_the_place_of_older_ones(room: Room) -> None:
    """After a cut only the newest set is sent; a late report still tells the truth."""
    older, newer = room.offer(), room.offer()
    room.life()
    room.publisher.step()

    assert room.jobs_sent() == [newer]
    row = room.jobs.get(older)
    assert row is not None
    assert row.state == "superseded"
    room.report(older, "committed")
    assert room.jobs.counts() == {"layers/committed": 1, "layers/sent": 1}


def test_layers_wait_while_a_base_is_on_its_way(
    room: Room, newer_bundle: Bundle, release_key: SigningKey
) -> None:
    """Layers for the old base would be refused after the swap, so they are held back."""
    room.life()
    room.registry.add(newer_bundle, sign_base(release_key, newer_bundle, [], 2))
    (base,) = room.jobs.publish(room.registry, newer_bundle.digest)
    row = room.jobs.get(base)
    assert row is not None
    with room.jobs._database.transaction() as connection:
        room.jobs.complete(connection, row, ())
    layers = room.offer()
    room.publisher.step()
    assert room.jobs_sent() == [base]

    room.report(base, "committed")
    room.publisher.step()

    assert room.jobs_sent() == [layers]
    life = room.jobs.life("pump-1")
    assert life is not None
    assert life.base == {"main": newer_bundle.digest}


def test_publishing_reaches_who_runs_the_line_and_nobody_else(
    room: Room, newer_bundle: Bundle, release_key: SigningKey
) -> None:
    """Devices on another line, and those that have the base already, get no job."""
    room.registry.add(newer_bundle)
    with pytest.raises(TrustError, match="not signed"):
        room.jobs.publish(room.registry, newer_bundle.digest)
    room.registry.add(newer_bundle, sign_base(release_key, newer_bundle, [], 2))
    room.life()
    room.say("life", Life("fan-1", 1, 7, True, base={"main": "0" * 64}), "fan-1")
    new = Life("pump-2", 1, 7, True, base={"main": newer_bundle.digest})
    room.say("life", new, "pump-2")

    made = room.jobs.publish(room.registry, newer_bundle.digest)

    rows = [room.jobs.get(job) for job in made]
    assert [(row.job.device, row.state) for row in rows if row] == [("pump-1", "new")]
    with pytest.raises(ConfigError, match="pump-1"):
        room.jobs.publish(room.registry, newer_bundle.digest, ["fan-1"])


def test_a_stale_will_does_not_take_a_device_offline(room: Room) -> None:
    """A will of an older epoch than the last birth is the past."""
    room.life(epoch=5)
    room.life(epoch=4, is_online=False)
    life = room.jobs.life("pump-1")
    assert life is not None
    assert life.is_online

    room.life(epoch=5, is_online=False)
    life = room.jobs.life("pump-1")
    assert life is not None
    assert not life.is_online
    assert life.base == {"main": room.base}


def test_a_report_that_speaks_for_another_device_is_refused(room: Room) -> None:
    """A device cannot end another device's job."""
    room.life()
    job = room.offer()
    forged = JobReport(job, "pump-1", "main", "committed")

    with pytest.raises(WireError, match="pump-1"):
        room.say(f"job/{job}", forged, "pump-2")
    room.report(job, "committed", device="pump-2")

    row = room.jobs.get(job)
    assert row is not None
    assert row.state == "ready"


def test_an_archive_is_served_in_the_chunks_that_were_asked_for(
    store: Store, tmp_path: Path, bundle: Bundle
) -> None:
    """Chunks put together are the archive; asking beyond the end gives what there is."""
    big = Bundle(bundle.spec, "f" * 64, bundle.files | {"notes.md": b"x" * 150_000})
    room = Room(store, big, PublisherConfig())
    entry = room.registry.entries()[0]

    room.say("blob", BlobRequest("pump-1", entry.archive_sha256, 0, 2))
    room.say("blob", BlobRequest("pump-1", entry.archive_sha256, 2, 8))
    room.publisher.step()

    chunks = [decode(message.payload, BlobChunk) for message in room.sent]
    assert [chunk.index for chunk in chunks] == [0, 1, 2]
    assert b"".join(chunk.data for chunk in chunks) == pack(big)
    assert {message.topic for message in room.sent} == {"er/1/d/pump-1/dn/blob"}


def test_chunks_keep_to_the_rate_limit(store: Store, bundle: Bundle) -> None:
    """What is over the limit waits for the next second, and nothing is lost."""
    big = Bundle(bundle.spec, "f" * 64, bundle.files | {"notes.md": b"x" * 150_000})
    room = Room(store, big, PublisherConfig(blob_bytes_per_s=CHUNK_BYTES))
    entry = room.registry.entries()[0]
    room.say("blob", BlobRequest("pump-1", entry.archive_sha256, 0, 8))

    counts = []
    for _ in range(4):
        room.publisher.step()
        counts.append(len(room.sent))
        room.clock.advance(1.0)

    assert counts == [1, 2, 3, 3]


def test_an_unknown_archive_is_counted_and_not_served(room: Room) -> None:
    """Only what is in the registry can be asked for."""
    room.say("blob", BlobRequest("pump-1", "0" * 64, 0, 8))
    room.publisher.step()

    assert room.sent == []
    assert room.publisher.blobs_refused_total == 1


def test_nothing_is_lost_while_the_link_is_down(room: Room) -> None:
    """A publish that was not taken is tried again, and not counted as sent."""
    room.life()
    job = room.offer()
    room.is_up = False
    room.publisher.step()
    room.is_up = True
    room.publisher.step()

    assert room.jobs_sent() == [job]
    row = room.jobs.get(job)
    assert row is not None
    assert row.tries == 1


def test_fields_of_a_newer_device_are_kept_and_survive_what_the_cloud_changes(room: Room) -> None:
    """What a device says is stored whole, also after the cloud noted a committed base."""
    life = Life("pump-1", 1, 7, True, base={"main": "ab" * 32})
    room.say_newer("life", life, {"region": "north"})
    base = Signed(b"statement", "key", b"signature")
    job = room.jobs.offer(
        device="pump-1", stream="main", model="turbine", base=base, requires="ef" * 32
    )

    room.say_newer(f"job/{job}", JobReport(job, "pump-1", "main", "committed"), {"wear": [1]})

    stored = room.jobs.life_payload("pump-1")
    assert stored is not None
    assert unknown_fields(stored, Life) == {"region": "north"}
    assert decode(stored, Life).base == {"main": "ef" * 32}
    [(beyond,)] = room.jobs._database.rows("SELECT beyond FROM job WHERE id=?", (job,))
    assert msgspec.msgpack.decode(beyond) == {"wear": [1]}
