"""The in-memory broker behaves like a broker, and fails when told to."""

from __future__ import annotations

import threading

import pytest

from edge_runtime.ports import Connected, Disconnected, Message, TransportEvent
from edge_runtime.sync.transport import MemoryBroker, MemoryTransport, topic_matches


def drained(transport: MemoryTransport) -> list[TransportEvent]:
    events = []
    while (event := transport.receive(0.0)) is not None:
        events.append(event)
    return events


def joined(broker: MemoryBroker, client: str, *filters: str) -> MemoryTransport:
    transport = broker.transport(client)
    transport.open(filters, Message(f"gone/{client}", b"will"))
    return transport


@pytest.mark.parametrize(
    ("pattern", "topic", "is_match"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("#", "a/b", True),
        ("+/b", "a/b", True),
        ("a/b", "a", False),
        ("a", "a/b", False),
    ],
)
def test_filters_match_as_mqtt_says(pattern: str, topic: str, *, is_match: bool) -> None:
    """``+`` is one level, ``#`` is the rest and the level above it."""
    assert topic_matches(pattern, topic) is is_match


def test_messages_arrive_in_order_at_those_who_subscribed() -> None:
    """Routing follows subscriptions and keeps the order."""
    broker = MemoryBroker()
    reader, other = joined(broker, "reader", "a/+"), joined(broker, "other", "b")

    for number in range(3):
        assert reader.publish(Message("a/x", b"%d" % number))

    assert drained(reader)[1:] == [Message("a/x", b"%d" % number) for number in range(3)]
    assert drained(other) == [Connected()]


def test_retained_messages_wait_for_subscribers() -> None:
    """The newest retained message is delivered on connection; an empty one removes it."""
    broker = MemoryBroker()
    writer = joined(broker, "writer")
    writer.publish(Message("a", b"old", retain=True))
    writer.publish(Message("a", b"new", retain=True))

    assert drained(joined(broker, "late", "#"))[1:] == [Message("a", b"new", retain=True)]
    writer.publish(Message("a", b"", retain=True))
    assert drained(joined(broker, "later", "#")) == [Connected()]
    assert broker.retained("a") is None


def test_a_cut_publishes_the_will_and_a_clean_close_does_not() -> None:
    """A client that is cut off is told so, and takes nothing until it is mended."""
    broker = MemoryBroker()
    watcher, client = joined(broker, "watcher", "gone/#"), joined(broker, "client", "#")
    drained(client)

    broker.cut("client")
    assert not client.publish(Message("a", b""))
    watcher.publish(Message("a", b"missed"))
    broker.mend("client")
    client.close()
    client.close()

    assert drained(client) == [Disconnected("cut"), Connected(), Disconnected("closed")]
    assert drained(watcher)[1:] == [Message("gone/client", b"will")]


def test_a_second_client_takes_the_session_over() -> None:
    """One id has one session."""
    broker = MemoryBroker()
    first = joined(broker, "client")
    second = joined(broker, "client")

    assert drained(first) == [Connected(), Disconnected("session taken over")]
    assert second.is_connected
    assert not first.publish(Message("a", b""))


def test_a_client_that_is_cut_before_it_opens_waits() -> None:
    """It connects as soon as it is mended."""
    broker = MemoryBroker()
    broker.cut("client")
    client = joined(broker, "client")
    assert drained(client) == []

    broker.mend("client")

    assert drained(client) == [Connected()]


def test_a_fault_decides_what_arrives() -> None:
    """A script drops, repeats and delays deliveries."""
    broker = MemoryBroker(lambda _client, message: [message] * int(message.payload))
    reader = joined(broker, "reader", "a")

    for payload in (b"0", b"1", b"2"):
        reader.publish(Message("a", payload))

    assert [event.payload for event in drained(reader)[1:]] == [b"1", b"2", b"2"]


def test_a_wake_ends_a_wait() -> None:
    """A waiting receive returns None at once, and so does the next one if none waits."""
    client = joined(MemoryBroker(), "client")
    drained(client)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(client.receive(30.0)))
    waiting.start()

    client.wake()
    waiting.join(10.0)

    assert answers == [None]
    client.wake()
    assert client.receive(30.0) is None


def test_a_client_that_does_not_receive_is_bounded() -> None:
    """Beyond its queue messages are dropped and counted."""
    broker = MemoryBroker()
    joined(broker, "sleeper", "a")
    writer = joined(broker, "writer")

    for _ in range(10_050):
        writer.publish(Message("a", b""))

    assert broker.discarded_total == 51
