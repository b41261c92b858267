"""Device, ingest and broker end by SIGKILL at every step of a row: none lost, none doubled."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from edge_simulator.chaos.plan import BROKER, INGEST, Kill, ingests_of
from edge_simulator.fuse import DEVICE_STEPS, INGEST_STEPS

from .conftest import DEVICE, Scene


@pytest.mark.parametrize("step", DEVICE_STEPS)
def test_a_device_killed_at_any_step_keeps_every_row(scene: Scene, step: str) -> None:
    """Before and after commit, publish, PUBACK, ack and delete: each row arrives once."""
    scene.flow()

    for passings in (1, 3):
        scene.killed_at(DEVICE, step, passings)

    scene.balance()


def test_a_device_that_was_killed_delivers_again_within_two_seconds(scene: Scene) -> None:
    """From its start to the first row acknowledged again; the best of three, imports apart."""
    scene.flow()
    times_s = []

    for _ in range(3):
        scene.killed_at(DEVICE, "publish")
        started_s = time.monotonic()
        scene.trickle("the first row again", lambda: scene.stored > 0)
        times_s.append(time.monotonic() - started_s)

    scene.balance()
    assert min(times_s) < 2.0


@pytest.mark.parametrize("step", INGEST_STEPS)
def test_an_ingest_killed_at_any_step_stores_each_row_once(scene: Scene, step: str) -> None:
    """Before and after the catalogue's commit, before the ack: exactly one copy."""
    scene.flow()

    for passings in (1, 2):
        scene.killed_at(INGEST, step, passings)

    scene.balance()


@pytest.mark.mosquitto
@pytest.mark.parametrize("step", INGEST_STEPS)
def test_of_two_ingests_either_may_be_killed_at_any_step(
    mosquitto_scene: Callable[..., Scene], step: str
) -> None:
    """They share the rows; what one had in hand when it ended is stored once, by either."""
    scene = mosquitto_scene(ingests=2)
    scene.flow()

    for name in ingests_of(2):
        scene.killed_at(name, step)

    scene.balance()


@pytest.mark.mosquitto
@pytest.mark.parametrize("is_persistent", [False, True])
def test_a_killed_broker_loses_no_row(
    mosquitto_scene: Callable[..., Scene], is_persistent: bool
) -> None:
    """Whether it keeps its state or not: what it had acknowledged and lost is sent again."""
    scene = mosquitto_scene(is_persistent=is_persistent)
    broker = scene.stage.victims[BROKER]
    scene.flow()

    for _ in range(5):
        broker.kill(Kill(0.0, BROKER))
        scene.trickle_for(0.2)
        broker.start()
        scene.trickle_for(0.5)

    scene.balance()
    assert len(broker.kills) == 5


def test_a_kill_leaves_nothing_running(scene: Scene) -> None:
    """A fuse ends the real process: its id is gone."""
    scene.flow()
    pid = scene.stage.devices[DEVICE].pid
    assert pid is not None

    scene.killed_at(DEVICE, "commit")

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    scene.balance()
