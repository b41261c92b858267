"""The link delivers what the outbox holds, and deletes only what the cloud has."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from edge_runtime.ports import Message
from edge_runtime.sync.link import Link
from edge_runtime.sync.messages import (
    MOST_SHOWN,
    Ack,
    Answers,
    BlobChunk,
    BoardTimes,
    CloudState,
    Command,
    Job,
    Last,
    LastRow,
    Life,
    decode,
    encode,
)
from edge_runtime.sync.outbox import Batch, Outbox, OutboxFullError
from edge_runtime.sync.state import StateStore
from edge_runtime.sync.transport import MemoryBroker
from edge_runtime.testing.clock import FakeClock
from edge_runtime.types import Table
from edge_simulator.disk import Disk

Commit = Callable[..., None]
Make = Callable[..., Batch]
MakeLink = Callable[..., Link]
KEY = (7, 1, "main")


def turn(link: Link, cloud: object, times: int = 3) -> None:
    """Let both sides work a few times."""
    for _ in range(times):
        link.step(0.0)
        cloud.step()
    link.step(0.0)


def bulky(seed: int, n: int = 1000) -> Batch:
    """A batch that fills a frame of its own, or more."""
    noise = np.random.default_rng(seed).random((n, 11))
    return Batch("main", "estimate", Table({"x": np.arange(n), "noise": noise}))


def fill_up(outbox: Outbox) -> None:
    """Commit until nothing more fits."""
    with pytest.raises(OutboxFullError):  # noqa: PT012 - which commit it is, is the disk's matter
        for seed in range(100):
            outbox.commit(source="s", position=2, snapshot=b"", base="", batches=[bulky(seed)])


def life_of(broker: MemoryBroker) -> Life:
    message = broker.retained("er/1/d/pump/up/life")
    assert message is not None
    return decode(message.payload, Life)


def last_of(broker: MemoryBroker) -> Last | None:
    message = broker.retained("er/1/d/pump/up/last")
    return None if message is None else decode(message.payload, Last)


def test_rows_reach_the_cloud_and_leave_the_outbox(
    make_link: MakeLink, cloud: object, outbox: Outbox, commit: Commit, batch: Make
) -> None:
    """What is acknowledged is deleted; the counters say so."""
    link = make_link()
    commit(outbox, batch(5), batch(2, stream="other"))

    turn(link, cloud)

    assert cloud.rows == {KEY: [0, 1, 2, 3, 4], (7, 1, "other"): [0, 1]}
    stats = link.stats()
    assert (stats.backlog_rows, stats.inflight_frames, stats.rows_acked_total) == (0, 0, 7)
    assert (stats.frames_sent_total, stats.rewinds_total, stats.connections_total) == (2, 0, 1)
    assert stats.bytes_up > 0 < stats.bytes_down


def test_rows_that_follow_at_once_share_a_frame(
    make_link: MakeLink, cloud: object, clock: FakeClock, outbox: Outbox,
    commit: Commit, batch: Make,
) -> None:  # fmt: skip
    """After all was sent the link rests; acknowledgements are taken in the meantime."""
    link = make_link()
    commit(outbox, batch(2))
    link.step(0.0)
    cloud.step()

    commit(outbox, batch(2, 2))
    commit(outbox, batch(2, 4))
    link.step(0.0)
    resting = link.stats()
    clock.advance(0.05)
    turn(link, cloud)

    assert (resting.frames_sent_total, resting.rows_acked_total) == (1, 2)
    assert link.stats().frames_sent_total == 2
    assert cloud.rows == {KEY: list(range(6))}


def test_the_readable_form_is_a_switch(
    make_link: MakeLink, cloud: object, outbox: Outbox, commit: Commit, batch: Make
) -> None:
    """With ``json`` the same rows travel as text."""
    link = make_link(json=True)
    commit(outbox, batch(5))

    turn(link, cloud)

    frame = next(message for message in cloud.heard if "/tel/" in message.topic)
    assert frame.payload.startswith(b"{")
    assert cloud.rows == {KEY: [0, 1, 2, 3, 4]}


def test_nothing_is_sent_while_no_cloud_is_known(
    make_link: MakeLink, make_cloud: type, broker: MemoryBroker, clock: FakeClock,
    outbox: Outbox, commit: Commit, batch: Make,
) -> None:  # fmt: skip
    """Rows wait for the cloud's retained presence, and for its return when it goes."""
    link = make_link()
    commit(outbox, batch(5))
    link.step(0.0)
    assert link.stats().frames_sent_total == 0

    cloud = make_cloud(broker, clock)
    turn(link, cloud)
    cloud.stop()
    commit(outbox, batch(5, 5))
    turn(link, cloud)

    assert not link.stats().is_cloud_online
    assert cloud.rows == {KEY: [0, 1, 2, 3, 4]}
    cloud.start()
    turn(link, cloud)
    assert cloud.rows == {KEY: list(range(10))}


def test_birth_and_will_carry_the_epoch(
    make_link: MakeLink, broker: MemoryBroker, state: StateStore
) -> None:
    """A device says what it is and runs; its will and its good-bye say that it is gone."""
    link = make_link()
    link.announce(base={"main": "b"}, effective={"main": "e"}, runtime="0.1")
    link.step(0.0)
    online = life_of(broker)
    broker.cut("pump")
    after_cut = life_of(broker)
    broker.mend("pump")
    link.step(0.0)
    again = life_of(broker)
    link.close()
    link.close()

    assert online.is_online
    assert (online.epoch, online.incarnation) == (state.epoch, state.incarnation)
    assert (online.base, online.effective, online.runtime) == ({"main": "b"}, {"main": "e"}, "0.1")
    assert (after_cut.is_online, after_cut.epoch) == (False, state.epoch)
    assert again == online
    assert life_of(broker) == msgspec.structs.replace(online, is_online=False)


def test_the_window_bounds_what_is_on_its_way(
    make_link: MakeLink, cloud: object, outbox: Outbox, commit: Commit
) -> None:
    """A cloud that does not answer gets at most the window."""
    cloud.is_mute = True
    link = make_link(inflight_frames=4)
    for seed in range(8):
        commit(outbox, bulky(seed))

    turn(link, cloud)

    assert link.stats().inflight_frames == len(cloud.frames) == 4


def test_a_new_connection_starts_from_the_acknowledged_mark(
    make_link: MakeLink, cloud: object, broker: MemoryBroker, outbox: Outbox,
    commit: Commit, batch: Make,
) -> None:  # fmt: skip
    """What was on its way when the link broke is sent again."""
    link = make_link()
    broker.fault = lambda client, message: [] if client == "cloud-ingest" else [message]
    commit(outbox, batch(5))
    turn(link, cloud)
    broker.fault = None

    broker.cut("pump")
    broker.mend("pump")
    turn(link, cloud)

    assert cloud.rows == {KEY: [0, 1, 2, 3, 4]}
    assert link.stats().rewinds_total == 1


def test_a_lost_acknowledgement_is_asked_for_by_sending_again(
    make_link: MakeLink, cloud: object, clock: FakeClock, outbox: Outbox,
    commit: Commit, batch: Make,
) -> None:  # fmt: skip
    """After the time-out the window is sent again; the cloud stores nothing twice."""
    link = make_link()
    cloud.is_mute = True
    commit(outbox, batch(5))
    turn(link, cloud)
    clock.advance(4.9)
    turn(link, cloud)
    assert len(cloud.frames) == 1

    cloud.is_mute = False
    clock.advance(0.2)
    turn(link, cloud)

    assert len(cloud.frames) == 2
    assert cloud.rows == {KEY: [0, 1, 2, 3, 4]}
    assert link.stats().backlog_rows == 0


def test_a_lost_frame_is_sent_again_at_once(
    make_link: MakeLink, cloud: object, broker: MemoryBroker, outbox: Outbox, commit: Commit
) -> None:
    """The cloud asks for the hole; all frames behind it ask, and one rewind answers."""
    lost = []

    def lose_the_first(client: str, message: Message) -> list[Message]:
        if "/tel/" in message.topic and not lost:
            lost.append(message)
            return []
        return [message]

    broker.fault = lose_the_first
    link = make_link()
    for seed in range(6):
        commit(outbox, bulky(seed))

    turn(link, cloud)

    assert len(cloud.rows[KEY]) == 6000
    assert link.stats().rewinds_total == 1
    assert link.stats().backlog_rows == 0


def test_rows_the_cloud_lost_after_acknowledging_are_told_as_a_gap(
    make_link: MakeLink, cloud: object, outbox: Outbox, commit: Commit, batch: Make
) -> None:
    """A cloud restored from a backup goes on, knowing how many rows it lacks."""
    link = make_link()
    commit(outbox, batch(5))
    turn(link, cloud)
    del cloud.rows[KEY][2:]
    commit(outbox, batch(3, 5))

    turn(link, cloud)

    assert cloud.rows == {KEY: [0, 1, *["not_kept_by_cloud"] * 3, 5, 6, 7]}


def test_rows_evicted_while_on_their_way_arrive_as_a_gap_or_as_rows(
    make_link: MakeLink, cloud: object, broker: MemoryBroker, outbox: Outbox, commit: Commit,
    batch: Make,
) -> None:  # fmt: skip
    """An eviction rewinds the window, so that the gap is delivered in the right place."""
    link = make_link()
    broker.fault = lambda _, message: [] if "/tel/" in message.topic else [message]
    commit(outbox, batch(5))
    link.step(0.0)
    outbox.discard(outbox.pending()[0], "quota")
    broker.fault = None
    commit(outbox, batch(2, 5))

    turn(link, cloud)

    assert cloud.rows == {KEY: [*["quota"] * 5, 5, 6]}


def test_a_row_too_large_for_a_frame_becomes_a_gap(
    make_link: MakeLink, cloud: object, outbox: Outbox, commit: Commit, batch: Make
) -> None:
    """It does not hold up the rows behind it."""
    link = make_link()
    noise = np.random.default_rng(1).random((1, 20_000))
    huge = Batch("main", "estimate", Table({"x": np.zeros(1), "noise": noise}))
    commit(outbox, batch(2), huge, batch(1, 2))

    turn(link, cloud)

    assert cloud.rows == {KEY: [0, 1, "too_large", 2]}


def test_an_acknowledgement_on_a_full_disk_counts_once_there_is_room(
    make_link: MakeLink, outbox: Outbox, cloud: object, clock: FakeClock, disk: Disk
) -> None:
    """Deleting takes space too: meanwhile the link goes on, and afterwards every row has left."""
    link = make_link()
    turn(link, cloud)
    outbox.commit(source="s", position=1, snapshot=b"", base="", batches=[bulky(1)])
    link.step(0.0)

    disk.set_full(True)
    fill_up(outbox)
    turn(link, cloud)
    before = len(outbox.pending())
    disk.set_full(False)
    clock.advance(2.0)
    turn(link, cloud)

    assert before > 0
    assert outbox.pending() == []


def test_acknowledgements_for_others_delete_nothing(
    make_link: MakeLink, cloud: object, outbox: Outbox, commit: Commit, batch: Make
) -> None:
    """Another device, incarnation, epoch or stream is not ours."""
    link = make_link()
    cloud.is_mute = True
    commit(outbox, batch(5))
    turn(link, cloud)

    for ack in (
        Ack("other", 7, 1, "main", 5),
        Ack("pump", 8, 1, "main", 5),
        Ack("pump", 7, 2, "main", 5),
        Ack("pump", 7, 1, "main", 0),
    ):
        cloud.say("ack", encode(ack))
    turn(link, cloud)

    assert outbox.stats().rows == 5
    assert link.stats().refused_total == 1


def test_an_acknowledgement_of_rows_never_sent_is_refused(
    make_link: MakeLink, cloud: object, outbox: Outbox, commit: Commit, batch: Make
) -> None:
    """A confused cloud can neither delete rows it never saw nor silence a stream."""
    link = make_link()
    link.step(0.0)
    commit(outbox, batch(5))
    cloud.say("ack", encode(Ack("pump", 7, 1, "main", 2**62)))

    turn(link, cloud)
    cloud.say("ack", encode(Ack("pump", 7, 1, "main", 2**62, must_resume=True)))
    commit(outbox, batch(2, 5))
    turn(link, cloud)

    assert link.stats().refused_total == 2
    assert cloud.rows == {KEY: list(range(7))}


def test_jobs_chunks_and_commands_reach_the_handler(make_link: MakeLink, cloud: object) -> None:
    """The handler's answers are published."""
    asked = [
        Job("j", "pump", "main", "turbine", 1),
        BlobChunk("a" * 64, 0, 1, b"x"),
        Command("c", "report"),
    ]
    heard = []

    def handle(message: object) -> list[Message]:
        heard.append(message)
        return [Message("er/1/d/pump/up/job/j", type(message).__name__.encode())]

    link = make_link(handle)
    link.step(0.0)

    for leaf, message in zip(("job", "blob", "cmd"), asked, strict=True):
        cloud.say(leaf, encode(message))
    turn(link, cloud)

    assert heard == asked
    answers = [message.payload for message in cloud.heard if "/job/" in message.topic]
    assert answers == [b"Job", b"BlobChunk", b"Command"]


def test_a_failing_handler_does_not_end_the_link(
    make_link: MakeLink, cloud: object, outbox: Outbox, commit: Commit, batch: Make
) -> None:
    """Its exception is logged and counted, and rows go on."""

    def handle(_: object) -> list[Message]:
        raise RuntimeError("handler broke")

    link = make_link(handle)
    link.step(0.0)
    cloud.say("cmd", encode(Command("c", "report")))
    commit(outbox, batch(5))

    turn(link, cloud)

    assert link.stats().handler_errors_total == 1
    assert cloud.rows == {KEY: [0, 1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("er/1/d/pump/dn/ack", b"\xff\x00garbage"),
        ("er/1/d/pump/dn/job", b""),
        ("er/1/d/pump/dn/blob", b"\x91" * 50_000),
        ("er/1/d/pump/dn/new", encode(CloudState(is_online=True))),
        ("er/1/d/pump/dn/ack", b"x" * 200_000),
        ("er/1/all/cloud", b"yes"),
    ],
)
def test_garbage_from_the_broker_is_counted_and_ignored(
    make_link: MakeLink, cloud: object, outbox: Outbox, commit: Commit, batch: Make,
    topic: str, payload: bytes,
) -> None:  # fmt: skip
    """No message from outside ends the link."""
    link = make_link()
    link.step(0.0)
    cloud.transport.publish(Message(topic, payload))
    commit(outbox, batch(5))

    turn(link, cloud)

    assert link.stats().refused_total == 1
    assert cloud.rows == {KEY: [0, 1, 2, 3, 4]}


def test_live_values_never_wait_behind_the_backlog(
    make_link: MakeLink, broker: MemoryBroker, clock: FakeClock, outbox: Outbox, commit: Commit
) -> None:
    """They are retained, published at most once a second, and need no cloud."""
    link = make_link()
    for seed in range(4):
        commit(outbox, bulky(seed))
    link.show("main", lambda: LastRow(1, {"score": 0.5}))
    link.step(0.0)
    first = last_of(broker)

    link.show("main", lambda: LastRow(2, {"score": 0.6}, ("high",)))
    link.step(0.0)
    too_early = last_of(broker)
    clock.advance(1.0)
    link.step(0.0)

    assert first is not None
    assert first.streams == {"main": LastRow(1, {"score": 0.5})}
    assert too_early == first
    last = last_of(broker)
    assert last is not None
    assert last.streams == {"main": LastRow(2, {"score": 0.6}, ("high",))}


def test_what_does_not_fit_a_message_is_left_out(make_link: MakeLink, broker: MemoryBroker) -> None:
    """Of hundreds of streams with long labels it is said what runs and what has started."""
    names = [f"camera-{number}" for number in range(200)]
    labels = tuple(f"a label of some length {number}" for number in range(MOST_SHOWN))
    link = make_link()
    link.announce(
        base=dict.fromkeys(names, "b"),
        effective=dict.fromkeys(names, "e"),
        runtime="0.1",
        streams={name: Answers("m@1", labels) for name in names},
        board_times={names[0]: BoardTimes("b", "desktop", "0", "A72", 1, ())},
    )
    for name in names:
        link.show(name, lambda: LastRow(1, dict.fromkeys(labels, 0.5), ("high",)))

    link.step(0.0)

    life, last = life_of(broker), last_of(broker)
    assert (life.is_online, sorted(life.base), life.streams) == (True, sorted(names), {})
    assert life.board_times == {}
    assert last is not None
    assert last.streams == {name: LastRow(1, {}, ("high",)) for name in names}


def test_the_rate_limit_holds(
    make_link: MakeLink, cloud: object, clock: FakeClock, outbox: Outbox, commit: Commit
) -> None:
    """Frames go out at the configured rate once the first burst is spent."""
    link = make_link(bytes_per_s=50_000)
    for seed in range(20):
        commit(outbox, bulky(seed))

    link.step(0.0)
    burst = link.stats().bytes_up
    for _ in range(100):
        clock.advance(0.1)
        link.step(0.0)
        cloud.step()

    assert burst <= 2 * 98_304
    assert 400_000 < link.stats().bytes_up - burst < 600_000


def test_messages_wait_for_the_link_within_bounds(
    make_link: MakeLink, cloud: object, broker: MemoryBroker
) -> None:
    """While offline the newest 256 are kept, the rest is counted."""
    broker.cut("pump")
    link = make_link()
    for number in range(300):
        link.send(Message("er/1/d/pump/up/job/j", b"%d" % number))

    broker.mend("pump")
    turn(link, cloud)

    sent = [int(message.payload) for message in cloud.heard if "/job/" in message.topic]
    assert sent == list(range(44, 300))
    assert link.stats().discarded_total == 44


def test_rows_of_earlier_epochs_and_incarnations_are_delivered_under_their_own_names(
    open_outbox: Callable[..., Outbox], broker: MemoryBroker, clock: FakeClock,
    make_cloud: type, state: StateStore, commit: Commit, batch: Make,
) -> None:  # fmt: skip
    """After a restart, and after a lost state.db, old rows keep their identity."""
    from edge_runtime.config import SyncConfig

    for incarnation, epoch in ((7, 1), (7, 2), (9, 1)):
        outbox = open_outbox(epoch=epoch, incarnation=incarnation)
        commit(outbox, batch(epoch + 1))
        outbox.close()
    outbox = open_outbox(epoch=2, incarnation=9)
    commit(outbox, batch(4))
    cloud = make_cloud(broker, clock)
    link = Link("pump", broker.transport("pump"), outbox, state, clock, lambda _: (), SyncConfig())
    link.open()

    turn(link, cloud)

    assert {key: len(rows) for key, rows in cloud.rows.items()} == {
        (7, 1, "main"): 2, (7, 2, "main"): 3, (9, 1, "main"): 2, (9, 2, "main"): 4,
    }  # fmt: skip
    assert outbox.stats().rows == 0


def test_a_link_runs_in_its_own_thread_until_it_is_stopped(
    make_link: MakeLink, cloud: object, broker: MemoryBroker, outbox: Outbox,
    commit: Commit, batch: Make,
) -> None:  # fmt: skip
    """``wake`` makes it look at the outbox and at the stop flag at once."""
    link = make_link()
    stop = threading.Event()
    arrived = threading.Event()

    def watch(client: str, message: Message) -> list[Message]:
        if "/tel/" in message.topic:
            arrived.set()
        return [message]

    broker.fault = watch
    thread = threading.Thread(target=link.run, args=(stop,))
    thread.start()

    commit(outbox, batch(5))
    link.wake()
    assert arrived.wait(60.0)
    stop.set()
    link.wake()
    thread.join(10.0)

    assert not thread.is_alive()
    assert not life_of(broker).is_online


def test_a_link_that_rests_is_woken_to_end(
    make_link: MakeLink, outbox: Outbox, commit: Commit, batch: Make, broker: MemoryBroker,
    cloud: object,
) -> None:  # fmt: skip
    """A commit waits for the end of a rest; whoever ends the link does not, even if it is down."""
    link = make_link()
    commit(outbox, batch(2))
    link.step(0.0)
    broker.cut("pump")
    link.step(0.0)
    step = threading.Thread(target=link.step, args=(60.0,))

    step.start()
    link.wake()
    step.join(20.0)

    assert not step.is_alive()


def test_an_hour_of_silence_does_not_fill_the_broker(
    make_link: MakeLink, outbox: Outbox, cloud: object, commit: Commit, clock: FakeClock
) -> None:
    """An ingest that takes frames and never answers gets a few hundred, from a backlog of more."""
    link = make_link()
    for seed in range(60):
        commit(outbox, bulky(seed))
    cloud.is_mute = True

    for _ in range(3600):
        link.step(0.0)
        clock.advance(1.0)
    cloud.step()

    assert 100 < len(cloud.frames) < 300
    assert link.stats().inflight_frames <= 4
