"""The window believes in frames for as long as the round trip suggests."""

from __future__ import annotations

from edge_runtime.sync.window import Window

KEY = (7, 1, "main")
OTHER = (7, 1, "other")
S = 10**9


def test_the_first_time_out_is_five_seconds() -> None:
    """Nothing is known about the round trip at first."""
    window = Window()
    assert window.due_in_ns(0) is None

    window.add(KEY, 10, now_ns=0)

    assert window.due_in_ns(2 * S) == 3 * S


def test_an_acknowledgement_frees_its_own_stream_up_to_its_mark() -> None:
    """Frames leave when all their rows have arrived."""
    window = Window()
    for key, upto in ((KEY, 10), (OTHER, 10), (KEY, 20), (KEY, 30)):
        window.add(key, upto, now_ns=0)

    window.acknowledge(KEY, 25, now_ns=1)

    assert len(window) == 2
    assert window.has(KEY)
    assert window.has(OTHER)


def test_the_time_out_follows_the_round_trip() -> None:
    """It is three round trips when they are steady, and never less than a second."""
    slow, quick = Window(), Window()
    for number in range(60):
        slow.add(KEY, number, now_ns=0)
        slow.acknowledge(KEY, number, now_ns=4 * S)
        quick.add(KEY, number, now_ns=0)
        quick.acknowledge(KEY, number, now_ns=S // 1000)

    assert 12 * S <= slow.timeout_ns() < 13 * S
    assert quick.timeout_ns() == S


def test_each_strike_doubles_the_patience_until_something_arrives() -> None:
    """A silent cloud is asked less and less often, at most once in 75 s."""
    window = Window()
    window.add(KEY, 10, now_ns=0)

    waits = []
    for _ in range(6):
        window.strike(jitter=0.0)
        waits.append(window.timeout_ns() // S)
    window.strike(jitter=1.0)

    assert waits == [10, 20, 40, 60, 60, 60]
    assert window.timeout_ns() == 75 * S
    window.acknowledge(KEY, 10, now_ns=S)
    assert window.timeout_ns() < 60 * S


def test_a_frame_sent_twice_teaches_nothing() -> None:
    """Its acknowledgement may belong to the first copy (Karn's rule)."""
    window = Window()
    window.add(KEY, 10, now_ns=0)
    window.clear()
    window.add(KEY, 10, now_ns=60 * S)

    window.acknowledge(KEY, 10, now_ns=60 * S + 1)

    assert window.timeout_ns() == 5 * S


def test_time_outs_halve_what_may_be_on_its_way_until_something_arrives() -> None:
    """An ingest that hangs gets 20, 10, 5, 4 frames, and all 20 again once it answers."""
    window = Window()
    rooms = [window.room(20)]
    for _ in range(5):
        window.strike(0.0)
        rooms.append(window.room(20))
    window.add(KEY, 10, 0)
    rooms.append(window.room(20))
    window.acknowledge(KEY, 10, 1)
    rooms.append(window.room(20))

    assert rooms == [20, 10, 5, 4, 4, 4, 3, 20]
    assert Window().room(2) == 2
