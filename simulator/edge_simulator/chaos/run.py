"""A run: what is planned happens, what is killed is started again, then the books are closed."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from edge_simulator.broker import BrokerChoice
from edge_simulator.chaos.books import Tally
from edge_simulator.chaos.plan import (
    FullDisk,
    Kill,
    Plan,
    faults_of,
    ingests_of,
    kind_of,
    plan_of,
)
from edge_simulator.chaos.stage import Stage
from edge_simulator.disk import can_fill
from edge_simulator.link.script import Player

__all__ = ["Options", "Report", "run"]

_TICK_S = 0.01
_LONGEST_PAUSE_S = 0.5
_DRAIN_S = 120.0
# One device drops what has waited so long: such rows must turn up as gaps.
_MAX_AGE_S = 3.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is like.

    Attributes:
        seed: Decides everything that is planned.
        seconds: How long things go wrong.
        per_minute: Kills a minute, planned.
        devices: How many.
        ingests: How many; several share the rows by a shared subscription.
        rows_per_s: Samples a second of each device.
        broker: Which broker.
    """

    seed: int
    seconds: float = 60.0
    per_minute: float = 90.0
    devices: int = 3
    ingests: int = 2
    rows_per_s: float = 100.0
    broker: BrokerChoice = "auto"

    @property
    def names(self) -> list[str]:
        """Names of the devices."""
        return [f"device-{number + 1}" for number in range(self.devices)]

    def plan(self) -> Plan:
        """Return what the seed plans."""
        return plan_of(
            self.seed,
            self.seconds,
            per_minute=self.per_minute,
            devices=self.names,
            ingests=ingests_of(self.ingests),
        )


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run; ``chaos.json``.

    Attributes:
        seed: Repeats the plan.
        plan_sha256: Of the planned kills, to compare runs by.
        kills: SIGKILLs that hit a running process.
        kills_a_minute: While things went wrong.
        kills_at_steps: By victim and step.
        kills_anywhere: At random instants, by victim.
        kills_of_ingests: Both together, of each ingest.
        ends_on_full_disk: Times a device did not come up on a full disk, and was started again.
        fuses_left: Planned kills at steps that were not passed any more.
        rows_made: Rows that the devices committed.
        rows_stored: Of them in the store, each counted once.
        rows_duplicated: Times a row is there again.
        rows_evicted: Rows that full disks and age cost, as the devices count them.
        rows_in_gaps: Rows in gap records that reached the cloud.
        rows_waiting: Rows that were not delivered in time, and are still on a device.
        rows_lost: Rows that are nowhere.
        lost: The first of them, as ``device/index``.
        is_drained: Whether everything was delivered in the end.
        seconds: How long things went wrong.
        drain_s: How long the rest took to arrive.
        broker: Which.
        devices: What became of each one's rows.
        links: What went wrong on the links, counted.
    """

    seed: int
    plan_sha256: str
    kills: int
    kills_a_minute: float
    kills_at_steps: dict[str, int]
    kills_anywhere: dict[str, int]
    kills_of_ingests: dict[str, int]
    ends_on_full_disk: int
    fuses_left: int
    rows_made: int
    rows_stored: int
    rows_duplicated: int
    rows_evicted: int
    rows_in_gaps: int
    rows_waiting: int
    rows_lost: int
    lost: list[str]
    is_drained: bool
    seconds: float
    drain_s: float
    broker: str
    devices: list[Tally]
    links: dict[str, int]

    @property
    def is_balanced(self) -> bool:
        """Whether the books of every device close, and nothing waits any more."""
        return self.is_drained and all(tally.is_balanced for tally in self.devices)


OnTick = Callable[[float, int], None]
"""Called with the seconds so far, and the kills."""


def run(options: Options, folder: Path, on_tick: OnTick = lambda _s, _kills: None) -> Report:
    """Run it; nothing of it is left running.

    Args:
        options: What it is like.
        folder: Empty; takes logs, databases and the store.
        on_tick: Called all the time.

    Raises:
        EdgeError: Something does not start, or ends without being killed.
    """
    rows = int(options.seconds * options.rows_per_s)
    stage = Stage(
        folder,
        devices=options.names,
        ingests=options.ingests,
        rows=rows,
        broker=options.broker,
        seed=options.seed,
        max_age_s={options.names[-1]: _MAX_AGE_S},
    )
    with stage:
        play = _Play(options, stage)
        seconds = play.run(on_tick)
        stage.release(rows)
        started_s = time.monotonic()
        is_drained = stage.drain(_DRAIN_S, lambda: on_tick(seconds, play.kills))
        drain_s = time.monotonic() - started_s
        stage.stop()
        return _report(options, stage, seconds, drain_s, is_drained=is_drained)


class _Play:
    """Lets what is planned happen; used by one thread."""

    def __init__(self, options: Options, stage: Stage) -> None:
        self._options = options
        self._stage = stage
        plan = options.plan()
        self._kills = deque(plan.kills)
        self._full = deque(plan.full_disks if can_fill() else ())
        self._filled: list[FullDisk] = []
        self._pauses = random.Random(f"{options.seed}/pauses")  # noqa: S311 - repeatable
        self._starts_s: dict[str, float] = {}
        self._players = {
            name: Player(link, faults_of(number, _of(name, self._full)), f"{options.seed}/{name}")
            for number, (name, link) in enumerate(stage.links.items())
        }

    @property
    def kills(self) -> int:
        """Kills so far."""
        return sum(len(victim.kills) for victim in self._stage.victims.values())

    def run(self, on_tick: OnTick) -> float:
        """Let things go wrong until the end, and right again; return how long it took, s."""
        started_s = time.monotonic()
        while (elapsed_s := time.monotonic() - started_s) < self._options.seconds:
            self._advance(elapsed_s)
            on_tick(elapsed_s, self.kills)
            time.sleep(_TICK_S)
        self._mend()
        return time.monotonic() - started_s

    def _advance(self, elapsed_s: float) -> None:
        self._stage.release(int(elapsed_s * self._options.rows_per_s))
        for player in self._players.values():
            player.advance(elapsed_s)
        self._fill_disks(elapsed_s)
        while self._kills and self._kills[0].at_s <= elapsed_s:
            self._do(self._kills.popleft())
        self._start_again(elapsed_s)

    def _do(self, kill: Kill) -> None:
        victim = self._stage.victims[kill.victim]
        if kill.step:
            victim.light(kill)
        else:
            victim.kill(kill)

    def _start_again(self, elapsed_s: float) -> None:
        """Start what is down, a moment later."""
        for name, victim in self._stage.victims.items():
            if victim.look():
                continue
            pause_s = self._pauses.random() * _LONGEST_PAUSE_S
            if self._starts_s.setdefault(name, elapsed_s + pause_s) <= elapsed_s:
                del self._starts_s[name]
                victim.start()

    def _fill_disks(self, elapsed_s: float) -> None:
        while self._full and self._full[0].at_s <= elapsed_s:
            full = self._full.popleft()
            self._filled.append(full)
            self._set_disk(full, is_full=True)
        for full in [full for full in self._filled if full.until_s <= elapsed_s]:
            self._filled.remove(full)
            self._set_disk(full, is_full=False)

    def _set_disk(self, full: FullDisk, *, is_full: bool) -> None:
        is_full = is_full or any(other.device == full.device for other in self._filled)
        self._stage.devices[full.device].set_disk(is_full=is_full)

    def _mend(self) -> None:
        """Let no more go wrong: links carry, disks have room, fuses are out."""
        for player in self._players.values():
            player.end()
        self._filled.clear()
        for device in self._stage.devices.values():
            device.set_disk(is_full=False)
        for victim in self._stage.victims.values():
            victim.douse()


def _of(device: str, full_disks: Iterable[FullDisk]) -> list[FullDisk]:
    return [full for full in full_disks if full.device == device]


def _report(
    options: Options, stage: Stage, seconds: float, drain_s: float, *, is_drained: bool
) -> Report:
    tallies = stage.tallies()
    kills = [kill for victim in stage.victims.values() for kill in victim.kills]
    lost = [f"{tally.device}/{index}" for tally in tallies for index in tally.lost]
    return Report(
        seed=options.seed,
        plan_sha256=options.plan().digest(),
        kills=len(kills),
        kills_a_minute=round(len(kills) / seconds * 60, 1),
        kills_at_steps=dict(
            sorted(
                Counter(
                    f"{kind_of(kill.victim)} {kill.step}" for kill in kills if kill.step
                ).items()
            )
        ),
        kills_anywhere=dict(Counter(kind_of(kill.victim) for kill in kills if not kill.step)),
        kills_of_ingests={
            name: len(stage.victims[name].kills) for name in ingests_of(options.ingests)
        },
        ends_on_full_disk=sum(victim.ends for victim in stage.victims.values()),
        fuses_left=sum(len(victim.doused) for victim in stage.victims.values()),
        rows_made=sum(tally.made for tally in tallies),
        rows_stored=sum(tally.stored for tally in tallies),
        rows_duplicated=sum(tally.duplicated for tally in tallies),
        rows_evicted=sum(tally.dropped for tally in tallies),
        rows_in_gaps=sum(tally.in_gaps for tally in tallies),
        rows_waiting=sum(tally.waiting for tally in tallies),
        rows_lost=len(lost),
        lost=lost[:20],
        is_drained=is_drained,
        seconds=round(seconds, 1),
        drain_s=round(drain_s, 1),
        broker=stage.broker.kind,
        devices=tallies,
        links=_counts(stage),
    )


def _counts(stage: Stage) -> dict[str, int]:
    """Sum what went wrong over all links."""
    sums: Counter[str] = Counter()
    for link in stage.links.values():
        sums.update(msgspec.structs.asdict(link.counts()))
    return dict(sums)
