"""What goes wrong in a run follows from its seed."""

from __future__ import annotations

from collections import Counter

from edge_simulator.chaos.plan import (
    BROKER,
    INGEST,
    faults_of,
    ingests_of,
    kind_of,
    plan_of,
    unit_of,
)
from edge_simulator.fuse import DEVICE_STEPS, INGEST_STEPS

DEVICES = ["device-1", "device-2"]


def test_a_seed_repeats_its_plan() -> None:
    """The same kills and full disks from the same seed, others from another."""
    first, again, other = (
        plan_of(seed, 120.0, per_minute=90.0, devices=DEVICES) for seed in (7, 7, 8)
    )

    assert first == again and first.digest() == again.digest()
    assert first.kills != other.kills and first.digest() != other.digest()


def test_half_of_the_kills_are_at_steps_and_every_step_has_its_turn() -> None:
    """At about the rate that was asked for; devices and ingest at steps, all three anywhere."""
    plan = plan_of(7, 3600.0, per_minute=60.0, devices=DEVICES)
    at_steps = [kill for kill in plan.kills if kill.step]
    anywhere = Counter(kill.victim for kill in plan.kills if not kill.step)

    assert 3400 < len(plan.kills) < 3800
    assert 0.45 < len(at_steps) / len(plan.kills) < 0.55
    assert {kill.step for kill in at_steps if kill.victim == INGEST} == set(INGEST_STEPS)
    assert {kill.step for kill in at_steps if kill.victim != INGEST} == set(DEVICE_STEPS)
    assert set(anywhere) == {*DEVICES, INGEST, BROKER}
    assert all(kill.passings >= 1 for kill in at_steps)


def test_several_ingests_are_killed_each_by_itself() -> None:
    """Every one of them, at every step and anywhere; one alone needs no number."""
    ingests = ingests_of(2)

    plan = plan_of(7, 3600.0, per_minute=60.0, devices=DEVICES, ingests=ingests)

    hit = {(kill.victim, kill.step) for kill in plan.kills if kind_of(kill.victim) == INGEST}
    assert hit == {(name, step) for name in ingests for step in (*INGEST_STEPS, "")}
    assert (ingests_of(1), ingests) == ((INGEST,), ("ingest-1", "ingest-2"))


def test_a_plan_is_in_order_and_in_time() -> None:
    """Nothing is planned for after the end."""
    plan = plan_of(7, 60.0, per_minute=90.0, devices=DEVICES)

    times = [kill.at_s for kill in plan.kills]
    assert times == sorted(times) and times[-1] < 60.0
    assert all(full.at_s < full.until_s <= 60.0 for full in plan.full_disks)


def test_links_break_in_both_units_and_with_full_disks() -> None:
    """Bytes and packets by turns, and a cut around each full disk that asks for one."""
    plan = plan_of(7, 600.0, per_minute=90.0, devices=DEVICES)

    cuts = [fault for fault in faults_of(0, plan.full_disks) if fault.when == "at"]

    assert (unit_of(0), unit_of(1)) == ("bytes", "packets")
    assert len(cuts) == sum(full.is_cut for full in plan.full_disks) > 0
    assert {fault.kind for fault in faults_of(1)} > {"cut", "reset", "drop", "truncate"}
