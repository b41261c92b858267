"""Whatever the network and the power do: every committed row arrives, and is stored once."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.config import OutboxConfig, SyncConfig
from edge_runtime.ports import Message
from edge_runtime.sync.link import Link
from edge_runtime.sync.outbox import Batch, Outbox
from edge_runtime.sync.state import StateStore
from edge_runtime.sync.transport import MemoryBroker
from edge_runtime.testing.clock import FakeClock
from edge_runtime.types import Table

ACTIONS = ["commit", "commit", "work", "work", "work", "cut", "mend", "restart", "cloud", "wait"]


class BadNetwork:
    """Drops, repeats and delays frames and acknowledgements; presence and birth get through."""

    def __init__(self, luck: random.Random) -> None:
        self.is_bad = True
        self._luck = luck
        self._held: dict[str, list[Message]] = {}

    def __call__(self, client: str, message: Message) -> list[Message]:
        if message.topic.endswith(("/cloud", "/life")):
            return [message]
        late = self._held.pop(client, [])
        chance = self._luck.random() if self.is_bad else 1.0
        if chance < 0.15:
            return late
        if chance < 0.30:
            self._held[client] = [*late, message]
            return []
        if chance < 0.40:
            return [message, *late, message]
        return [message, *late]


class Device:
    """Outbox, state and link of one device that can lose its power."""

    def __init__(self, folder: Path, broker: MemoryBroker, clock: FakeClock) -> None:
        self._folder = folder
        self._broker = broker
        self._clock = clock
        self.made: dict[tuple[int, int, str], list[int]] = {}
        self.start()

    def start(self) -> None:
        self.state = StateStore(self._folder / "state.db", self._clock)
        epoch, incarnation = self.state.start()
        self.outbox = Outbox.open(
            self._folder / "outbox.db",
            epoch=epoch,
            incarnation=incarnation,
            config=OutboxConfig(quota_mb=64, ballast_mb=0),
            clock=self._clock,
        )
        self.link = Link(
            "pump",
            self._broker.transport("pump"),
            self.outbox,
            self.state,
            self._clock,
            lambda _: (),
            SyncConfig(inflight_frames=5),
        )
        self.link.open()

    def lose_power(self) -> None:
        self._broker.cut("pump")
        self.outbox.close()
        self.state.close()
        self._broker.mend("pump")

    def commit(self, stream: str, n: int) -> None:
        key = (self.state.incarnation, self.state.epoch, stream)
        rows = self.made.setdefault(key, [])
        values = np.arange(len(rows), len(rows) + n)
        noise = np.random.default_rng(n).random((n, 3))
        table = Table({"x": values, "noise": noise})
        self.outbox.commit(
            source="s",
            position=0,
            snapshot=b"",
            base="",
            batches=[Batch(stream, "estimate", table)],
        )
        rows.extend(values.tolist())


@settings(max_examples=40)
@given(
    actions=st.lists(st.sampled_from(ACTIONS), min_size=5, max_size=60),
    seed=st.integers(0, 2**32),
)
def test_every_committed_row_is_stored_exactly_once(
    tmp_path_factory: pytest.TempPathFactory,
    make_cloud: Callable[..., object],
    actions: list[str],
    seed: int,
) -> None:
    """Cuts, losses, repeats, delays, power cuts and new ingests at random points."""
    luck = random.Random(seed)
    network = BadNetwork(luck)
    clock, broker = FakeClock(), MemoryBroker(network)
    device = Device(tmp_path_factory.mktemp("faults"), broker, clock)
    cloud = make_cloud(broker, clock)

    for action in actions:
        match action:
            case "commit":
                device.commit(luck.choice(["a", "b"]), luck.choice([1, 30, 3000, 9000]))
            case "work":
                device.link.step(0.0)
                cloud.step()
            case "cut" | "mend":
                getattr(broker, action)("pump")
            case "restart":
                device.lose_power()
                device.start()
            case "cloud":
                cloud.stop()
                cloud.start()
            case _:
                clock.advance(luck.uniform(0.1, 20.0))
        assert_stored_was_made(cloud.rows, device.made)

    network.is_bad = False
    broker.mend("pump")
    for _ in range(400):
        device.link.step(0.0)
        cloud.step()
        clock.advance(2.0)
        if device.outbox.stats().rows == 0:
            break
    assert cloud.rows == device.made
    device.outbox.close()
    device.state.close()


def assert_stored_was_made(
    stored: dict[tuple[int, int, str], list[int]], made: dict[tuple[int, int, str], list[int]]
) -> None:
    for key, rows in stored.items():
        assert rows == made[key][: len(rows)]
