import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import SourceError, WireError
from edge_simulator.control import Channel, Gate, connect, decode, listen, reader


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    with listen() as server:
        near = connect(f"127.0.0.1:{server.getsockname()[1]}")
        connection, _ = server.accept()
    far = Channel(connection)
    yield near, far
    near.close()
    far.close()


@given(st.lists(st.integers(0, 1000)), st.integers(0, 1000))
def test_a_gate_never_takes_back_what_it_released(releases: list[int], index: int) -> None:
    """What may be delivered is what the highest release says, in whatever order they came."""
    gate = Gate()
    for release in releases:
        gate.release(release)

    granted = gate.wait(index, 0, 0.0)

    assert granted == max(0, max(releases, default=0) - index)


def test_a_closed_gate_gives_nothing_after_its_time() -> None:
    """Without a release a wait ends with nothing."""
    assert Gate().wait(0, 0, 0.01) == 0


def test_a_release_wakes_who_waits() -> None:
    """A source that waits goes on at once when the driver releases samples."""
    gate = Gate()
    threading.Timer(0.02, gate.release, (24,)).start()

    granted = gate.wait(0, 0, 10.0)

    assert granted == 24


def test_what_is_sent_arrives_in_order(ends: tuple[Channel, Channel]) -> None:
    """Both sides see each other's objects in order, arrays as lists."""
    near, far = ends

    near.send({"event": "estimates.made", "value": np.array([1.5])})
    near.send({"event": "status", "n": np.int64(3)})
    lines = far.lines()

    assert next(lines) == {"event": "estimates.made", "value": [1.5]}
    assert next(lines) == {"event": "status", "n": 3}


def test_a_hang_up_ends_the_reader(ends: tuple[Channel, Channel]) -> None:
    """When the other side is gone, the reader says so once, after the last line."""
    near, far = ends
    seen: list[object] = []
    ended = threading.Event()
    thread = reader(far, seen.append, ended.set)

    near.send({"stop": True})
    near.close()

    assert ended.wait(60)
    thread.join(5)
    assert seen == [{"stop": True}]


@pytest.mark.parametrize("line", [b"", b"{", b"[1]\n", b"\xff\n", b'"text"\n'])
def test_a_line_that_is_no_object_is_refused(line: bytes) -> None:
    """A broken line is a wire error, not a guess."""
    with pytest.raises(WireError, match="control channel"):
        decode(line)


def test_no_driver_is_said_plainly() -> None:
    """A device started by hand says who usually starts it."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"

        with pytest.raises(SourceError, match="edge-runtime run"):
            connect(address, timeout_s=1)
