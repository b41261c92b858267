"""The state store forgets nothing and goes back on nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.errors import StoreError, TrustError
from edge_runtime.sync.messages import CloudState
from edge_runtime.sync.state import StateStore
from edge_runtime.testing.clock import FakeClock


def test_the_epoch_rises_with_every_start(tmp_path: Path, clock: FakeClock) -> None:
    """Each process start has its own epoch within one incarnation."""
    starts = []
    for _ in range(3):
        store = StateStore(tmp_path / "state.db", clock)
        starts.append(store.start())
        store.close()

    assert [epoch for epoch, _ in starts] == [1, 2, 3]
    assert len({incarnation for _, incarnation in starts}) == 1
    assert 0 <= starts[0][1] < 2**63


def test_an_epoch_is_durable_before_it_is_used(tmp_path: Path) -> None:
    """A process that dies right after its start has used up its epoch."""
    script = (
        "import os, sys; from pathlib import Path\n"
        "from edge_runtime.clock import SystemClock\n"
        "from edge_runtime.sync.state import StateStore\n"
        "print(StateStore(Path(sys.argv[1]), SystemClock()).start()[0], flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "state.db")]

    epochs = [
        subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        for _ in range(2)
    ]

    assert epochs == ["1", "2"]


def test_a_corrupt_state_begins_a_new_incarnation(tmp_path: Path, clock: FakeClock) -> None:
    """Numbers of a lost state.db are never used again."""
    path = tmp_path / "state.db"
    store = StateStore(path, clock)
    _, before = store.start()
    store.close()
    path.write_bytes(b"\xff" * 4096)

    store = StateStore(path, clock)

    assert store.set_aside is not None
    assert store.start() != (1, before)


def test_values_come_back_as_what_they_were(state: StateStore) -> None:
    """Typed values are stored together, listed by prefix and deleted."""
    state.set_all({"job/1": CloudState(is_online=True), "job/2": [1, 2]})
    state.set("slot", {"a": 1.5})

    assert state.get("job/1", CloudState) == CloudState(is_online=True)
    assert state.get("job/2", list[int]) == [1, 2]
    assert state.keys("job/") == ("job/1", "job/2")
    state.delete("job/1")
    assert state.get("job/1", CloudState) is None


def test_a_value_of_another_type_is_an_error(state: StateStore) -> None:
    """What does not decode is reported with its key, never guessed."""
    state.set("slot", "text")

    with pytest.raises(StoreError, match="'slot'"):
        state.get("slot", int)


def test_a_floor_never_falls(state: StateStore) -> None:
    """A lower version is refused; the same or a higher one is taken."""
    assert state.floor("turbine") is None
    state.raise_floor("turbine", 5)
    state.raise_floor("turbine", 5)

    with pytest.raises(TrustError, match="version 4 is below the floor 5"):
        state.raise_floor("turbine", 4)

    assert state.floor("turbine") == 5


def test_every_write_is_synced(state: StateStore) -> None:
    """The database runs with synchronous=FULL."""
    assert state._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_closed_store_says_so(state: StateStore) -> None:
    """Using it after close is a StoreError, closing it twice is none."""
    state.close()
    state.close()

    with pytest.raises(StoreError, match="closed database"):
        state.set("x", 1)


def test_a_simulation_brings_its_own_chance(tmp_path: Path, clock: FakeClock) -> None:
    """The incarnation is what was drawn, once; a file that exists keeps its own."""
    asked: list[int] = []

    for number in (7, 8):
        store = StateStore(
            tmp_path / "state.db", clock, draw=lambda n, k=number: asked.append(n) or k
        )
        assert store.incarnation == 7
        store.close()

    assert set(asked) == {63}
