"""What goes wrong in a run, and when: all of it follows from the seed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from edge_simulator.fuse import DEVICE_STEPS, INGEST_STEPS
from edge_simulator.link.flow import Unit
from edge_simulator.link.script import LinkFault, fault_of

__all__ = [
    "BROKER",
    "INGEST",
    "FullDisk",
    "Kill",
    "Plan",
    "faults_of",
    "ingests_of",
    "kind_of",
    "plan_of",
    "unit_of",
]

INGEST, BROKER = "ingest", "broker"

_MOST_PASSINGS = {"insert": 12, "commit": 12, "publish": 8, "puback": 8, "ack": 6, "delete": 6}
_FULL_EVERY_S, _FULL_FOR_S = 40.0, 4.0
# So long before a link is cut, that rows wait when the disk is full.
_BACKLOG_S = 4.0
_ALL_UNITS = (
    "by chance 3 a minute cut for 1s",
    "by chance 2 a minute half_open for 1s",
    "by chance 4 a minute reset",
    "by chance 3 a minute delay 100ms for 2s",
    "by chance 3 a minute jitter 100ms for 2s",
    "by chance 2 a minute throttle 20kB/s for 2s",
)
_HITS = {
    "bytes": ("drop 0.05", "duplicate 0.05", "reorder 0.05", "corrupt 0.0005"),
    "packets": ("drop 0.3", "duplicate 0.5", "reorder 0.3", "truncate 0.2", "corrupt 0.2"),
}


class Kill(msgspec.Struct, frozen=True):
    """One SIGKILL.

    Attributes:
        at_s: From the start; at a step it is set from then on.
        victim: A device, an ingest or ``broker``.
        step: Where in its work; empty for wherever it is then.
        passings: How many times the step is passed first, this one counted.
    """

    at_s: float
    victim: str
    step: str = ""
    passings: int = 0

    def __str__(self) -> str:
        where = f"at its next {self.step}, no. {self.passings}" if self.step else "wherever it is"
        return f"{self.at_s:8.3f} s  {self.victim}, {where}"


class FullDisk(msgspec.Struct, frozen=True):
    """A device's disk has no room for a time.

    Attributes:
        at_s: From the start.
        until_s: End of it.
        device: Whose.
        is_cut: Whether its link is cut before and meanwhile, so that something must go.
    """

    at_s: float
    until_s: float
    device: str
    is_cut: bool


class Plan(msgspec.Struct, frozen=True):
    """Everything that is planned; links break by their scripts, from the same seed.

    Attributes:
        seed: Where it comes from.
        kills: In order of time.
        full_disks: In order of time.
    """

    seed: int
    kills: tuple[Kill, ...]
    full_disks: tuple[FullDisk, ...]

    def digest(self) -> str:
        """Return SHA-256 over the kills, to compare runs by."""
        return hashlib.sha256("\n".join(map(str, self.kills)).encode()).hexdigest()


def ingests_of(number: int) -> tuple[str, ...]:
    """Return the names of so many ingests; the only one needs no number."""
    return (INGEST,) if number == 1 else tuple(f"{INGEST}-{n + 1}" for n in range(number))


def kind_of(victim: str) -> str:
    """Return what a victim is: ``device``, ``ingest`` or ``broker``."""
    kind = victim.partition("-")[0]
    return kind if kind in (INGEST, BROKER) else "device"


def plan_of(
    seed: int,
    seconds: float,
    *,
    per_minute: float,
    devices: Sequence[str],
    ingests: Sequence[str] = (INGEST,),
) -> Plan:
    """Plan a run: half of the kills at named steps, half at random instants.

    Args:
        seed: Decides everything.
        seconds: Length of the run.
        per_minute: Kills a minute, planned; some come late, when a step is not passed.
        devices: Names.
        ingests: Names; each is killed by itself.
    """
    half = 2 * 60.0 / per_minute
    at_steps = _kills_at_steps(_chance(seed, "steps"), seconds, half, devices, ingests)
    anywhere = _kills_anywhere(_chance(seed, "instants"), seconds, half, devices, ingests)
    return Plan(
        seed,
        tuple(sorted([*at_steps, *anywhere], key=lambda kill: kill.at_s)),
        tuple(_full_disks(_chance(seed, "disks"), seconds, devices)),
    )


def faults_of(link: int, full_disks: Iterable[FullDisk] = ()) -> list[LinkFault]:
    """Return what goes wrong on one link.

    Args:
        link: Its number.
        full_disks: Of the device whose link it is.
    """
    hits = [f"by chance 2 a minute {what} for 1s" for what in _HITS[unit_of(link)]]
    cuts = [
        f"at {full.at_s - _BACKLOG_S:.3f}s cut for {_BACKLOG_S + _FULL_FOR_S}s"
        for full in full_disks
        if full.is_cut
    ]
    return [fault_of(line) for line in (*_ALL_UNITS, *hits, *cuts)]


def unit_of(link: int) -> Unit:
    """Return what is hit on one link: bytes and packets by turns."""
    return "packets" if link % 2 else "bytes"


def _chance(seed: int, name: str) -> random.Random:
    return random.Random(f"{seed}/{name}")  # noqa: S311 - repeatable


def _instants(chance: random.Random, seconds: float, mean_s: float) -> Iterator[float]:
    at_s = chance.expovariate(1 / mean_s)
    while at_s < seconds:
        yield round(at_s, 3)
        at_s += chance.expovariate(1 / mean_s)


def _kills_at_steps(
    chance: random.Random,
    seconds: float,
    mean_s: float,
    devices: Sequence[str],
    ingests: Sequence[str],
) -> Iterator[Kill]:
    """Yield kills at steps; of ten, three hit an ingest."""
    for at_s in _instants(chance, seconds, mean_s):
        is_ingest = chance.random() < 0.3
        victim = chance.choice(ingests if is_ingest else devices)
        step = chance.choice(INGEST_STEPS if is_ingest else DEVICE_STEPS)
        passings = chance.randint(1, _MOST_PASSINGS.get(step, 6))
        yield Kill(at_s, victim, step, passings)


def _kills_anywhere(
    chance: random.Random,
    seconds: float,
    mean_s: float,
    devices: Sequence[str],
    ingests: Sequence[str],
) -> Iterator[Kill]:
    """Yield kills at random instants; of ten, two hit an ingest and two the broker."""
    for at_s in _instants(chance, seconds, mean_s):
        victims = [chance.choice(ingests), BROKER, chance.choice(devices)]
        victim = chance.choices(victims, (2, 2, 6))[0]
        yield Kill(at_s, victim)


def _full_disks(
    chance: random.Random, seconds: float, devices: Sequence[str]
) -> Iterator[FullDisk]:
    last_s = seconds - _BACKLOG_S - _FULL_FOR_S
    for start_s in _instants(chance, last_s, _FULL_EVERY_S / len(devices)):
        device, at_s = chance.choice(devices), start_s + _BACKLOG_S
        yield FullDisk(at_s, at_s + _FULL_FOR_S, device, chance.random() < 0.7)
