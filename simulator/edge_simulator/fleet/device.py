"""One device of the fast engine: the real parts, driven by events instead of threads.

Real are `boot_stream` with slots and update agent, `Pipeline`, `Serving`,
`Outbox`, `StateStore`, `Link` and the sources. What is left out is what only
moves data between threads.

A power cut keeps the files as they are at that instant and forgets everything
else: what a SIGKILL leaves behind. So both ways of running cut power alike.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

import msgspec

from edge_runtime import registry
from edge_runtime.config import DeviceConfig, SyncConfig, split_kind
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.modes.boot import boot_stream
from edge_runtime.modes.models import SharedModels
from edge_runtime.modes.serving import Commit
from edge_runtime.modes.updates import StreamUpdates
from edge_runtime.modes.vitals import Vitals
from edge_runtime.modes.writer import batches_of
from edge_runtime.pipeline import AnyPipeline
from edge_runtime.ports import Source
from edge_runtime.sources import Pace
from edge_runtime.spec import effective_id
from edge_runtime.sync.link import Link
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.state import StateStore
from edge_runtime.types import Decision
from edge_runtime.update.trust import Trust, public_key_of
from edge_runtime.version import __version__
from edge_simulator.fleet.agents import Agents
from edge_simulator.fleet.ledger import Heap, Ledger, runs_text, waiting_rows
from edge_simulator.fleet.load import Feed, Member
from edge_simulator.fleet.wire import Line
from edge_simulator.fleet.world import DeviceClock, World

__all__ = ["FastDevice"]

# A fast stream is read so often: a frame holds what came since.
_READ_NS = 1_000_000_000
# How long a link may stay away when nothing happens: an event brings it back.
_REST_S = 3600.0
# As the real reader of a source does.
_RESTART_S = (0.5, 30.0)
_SOONEST_NS = 1_000_000
_AGENT_S = 1.0

Tell = Callable[[str, str, Mapping[str, object]], None]


class _Paced(Protocol):
    """A source that a pace can drive."""

    pace: Pace | None


class _Tap:
    """Lets samples through as they come in simulated time; a `Pace`."""

    def __init__(self, world: World, feed: Feed) -> None:
        self._world = world
        self._feed = feed

    def wait(self, index: int, time_ns: int, timeout_s: float) -> int:  # noqa: ARG002
        return max(0, self._feed.due(self._world.elapsed_ns) - index)


class _Running:
    """What a device has while it is switched on."""

    def __init__(self, state: StateStore, outbox: Outbox) -> None:
        self.state = state
        self.outbox = outbox
        self.streams: dict[str, StreamUpdates] = {}
        self.sources: dict[str, Source] = {}
        self.held: list[Commit] = []
        self.waits_s: dict[str, float] = {}
        self.link: Link
        self.agents: Agents

    def close(self) -> None:
        for source in self.sources.values():
            source.close()
        self.outbox.close()
        self.state.close()


class FastDevice:
    """Used by the one thread of the engine.

    Args:
        member: What it is.
        folder: For its state and nothing else.
        line: To the broker.
        world: True time.
        seed: Of the fleet.
        ledger: Told what is committed.
        tell: Told what happens.
        wake: Called when the link has something to do.
        models: Shared by the fleet: for the pipelines, and to prove layers on.
        refs: What bases are called, by digest.
    """

    def __init__(
        self,
        member: Member,
        folder: Path,
        line: Line,
        world: World,
        *,
        seed: int,
        ledger: Ledger,
        tell: Tell,
        wake: Callable[[str], None],
        models: tuple[SharedModels, SharedModels],
        refs: Mapping[str, str],
    ) -> None:
        self.name = member.name
        self._member = member
        self._folder = folder
        self._config = msgspec.structs.replace(member.config, state=folder)
        self._line = line
        self._world = world
        self._ledger = ledger
        self._tell = tell
        self._wake = wake
        self._models = models
        self._refs = refs
        self._random = random.Random(f"{seed}/{member.name}")  # noqa: S311 - repeatable
        self._now: _Running | None = None
        self._boots = 0
        self._planned: set[str] = set()
        self._step_ns = -1
        self._is_disk_full = False
        self._vitals = Vitals()
        self.clock = DeviceClock(world)
        self.sensor: int | None = None

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._now is not None

    @property
    def answers(self) -> Mapping[str, StreamUpdates]:
        """Its streams while it is on."""
        return self._now.streams if self._now else {}

    # --- power --------------------------------------------------------------------------

    def power_on(self, *, is_clock_set: bool = True) -> None:
        """Start from what is on the disk."""
        self._boots += 1
        self._planned.clear()
        self._step_ns = -1
        self._ledger.starts[self.name] += 1
        self.clock.boot(is_set=is_clock_set)
        now = self._now = self._opened()
        for name in self._config.streams:
            self._open_source(now, name)
        now.agents.start()
        self._announce(now)
        now.link.open()
        for name in now.sources:
            self._plan_read(name)
        self._wake(self.name)

    def power_off(self) -> None:
        """Lose power: the files stay as they are, all else is gone."""
        now = self._now
        if now is None:
            return
        image = self._folder.with_name(f"{self._folder.name}.image")
        shutil.copytree(self._folder, image)
        self._now = None
        # SQLite tidies up as it closes; a device without power does not.
        now.close()
        self._ledger.is_linked[self.name] = False
        shutil.rmtree(self._folder)
        image.rename(self._folder)
        self._line.unplug()

    def _opened(self) -> _Running:
        state = StateStore(self._folder / "state.db", self.clock, draw=self._random.getrandbits)
        now = _Running(state, self._opened_outbox(state))
        for name in self._config.streams:
            now.streams[name] = self._booted(now, name)
        now.link = self._linked(now)
        now.agents = Agents(self.name, now.streams, now.link.send, lambda: self._announce(now))
        return now

    def _opened_outbox(self, state: StateStore) -> Outbox:
        epoch, incarnation = state.start()
        return Outbox.open(
            self._folder / "outbox.db",
            epoch=epoch,
            incarnation=incarnation,
            config=self._config.outbox,
            limits=self._config.limits,
            clock=self.clock,
            # A simulated power cut keeps what the kernel has.
            is_synced=False,
        )

    def _booted(self, now: _Running, name: str) -> StreamUpdates:
        models, proofs = self._models
        return boot_stream(
            self._config,
            name,
            state=now.state,
            outbox=now.outbox,
            trust=_trust_of(self._config),
            clock=self.clock,
            models=models,
            proofs=proofs,
            vitals=self._vitals,
        )

    def _linked(self, now: _Running) -> Link:
        return Link(
            self.name,
            self._line.plug(),
            now.outbox,
            now.state,
            self.clock,
            lambda asked: now.agents.take(asked),
            self._config.sync or SyncConfig(),
            jitter=self._random.random,
        )

    def _announce(self, now: _Running) -> None:
        pipelines = {name: stream.serving.pipeline for name, stream in now.streams.items()}
        now.link.announce(
            base={name: pipeline.base for name, pipeline in pipelines.items()},
            effective={name: pipeline.effective_id for name, pipeline in pipelines.items()},
            runtime=__version__,
        )
        runs = [(each.base, _layers_of(each)) for each in pipelines.values()]
        self._ledger.runs[self.name] = runs_text(self._refs, runs)

    # --- sources --------------------------------------------------------------------------

    def use_sensor(self, fault: int | None) -> None:
        """Read every stream with the options of a sensor fault, or with its own again."""
        self.sensor = fault
        now = self._now
        if now is not None:
            for name, source in now.sources.items():
                source.close()
                self._open_source(now, name)

    def _open_source(self, now: _Running, name: str) -> None:
        config = self._config if self.sensor is None else self._member.sensors[self.sensor]
        kind, options = split_kind(config.streams[name].source)
        source = registry.create("sources", kind, options, f"streams.{name}.source")
        if not hasattr(source, "pace"):
            raise _unpaced(name, kind)
        cast(_Paced, source).pace = _Tap(self._world, self._member.feeds[name])
        serving = now.streams[name].serving
        source.open(name, serving.pipeline.spec.stream, serving.position)
        now.sources[name] = source

    def _plan_read(self, name: str, *, is_idle: bool = False) -> None:
        """Read when the next sample is due, and not at once again if nothing came."""
        now = self._now
        if now is None or name in self._planned or now.sources[name].is_exhausted:
            return
        self._planned.add(name)
        feed = self._member.feeds[name]
        index = max(now.streams[name].serving.position, feed.first)
        pause_ns = _READ_NS if is_idle or feed.rate_hz > 1 else 0
        due_ns = max(feed.due_ns(index), self._world.elapsed_ns + pause_ns)
        self._at(due_ns, lambda: self._read(name))

    def _read(self, name: str) -> None:
        """Push what has come, and commit what is due."""
        self._planned.discard(name)
        now = self._running()
        serving, source = now.streams[name].serving, now.sources[name]
        before = serving.position
        try:
            while not now.held and (frame := source.read(0.0)) is not None:
                self._recovered(now, name)
                serving.push(frame)
                if serving.is_due:
                    self._commit(now, serving.take())
        except SourceError:
            self._rest(now, name)
        if serving.due_ns is not None:
            due_ns = self.clock.elapsed_ns(serving.due_ns)
            self._at(due_ns, lambda: self._commit_due(name))
        if not now.held:
            self._plan_read(name, is_idle=serving.position == before)

    def _rest(self, now: _Running, name: str) -> None:
        """Close a source that failed, and open it again after a growing, jittered wait."""
        now.sources[name].close()
        if name not in now.waits_s:
            self._tell("source.failed", self.name, {"stream": name})
        wait_s = now.waits_s.get(name, _RESTART_S[0])
        now.waits_s[name] = min(2 * wait_s, _RESTART_S[1])
        self._planned.add(name)
        due_ns = self._world.elapsed_ns + round(self._random.uniform(0, wait_s) * 1e9)
        self._at(due_ns, lambda: self._reopen(name))

    def _reopen(self, name: str) -> None:
        now = self._running()
        serving = now.streams[name].serving
        try:
            now.sources[name].open(name, serving.pipeline.spec.stream, serving.position)
        except SourceError:
            self._rest(now, name)
        else:
            self._read(name)

    def _recovered(self, now: _Running, name: str) -> None:
        if now.waits_s.pop(name, None) is not None:
            self._tell("source.recovered", self.name, {"stream": name})

    # --- storage --------------------------------------------------------------------------

    @property
    def is_disk_full(self) -> bool:
        """Whether somebody else has filled the disk."""
        return self._is_disk_full

    @is_disk_full.setter
    def is_disk_full(self, is_full: bool) -> None:
        self._is_disk_full = is_full
        now = self._now
        if now is not None and not is_full:
            held, now.held = now.held, []
            for commit in held:
                self._commit(now, commit)
            for name in now.sources if held else ():
                self._plan_read(name)

    def _commit_due(self, name: str) -> None:
        now = self._running()
        if now.streams[name].serving.is_due:
            self._commit(now, now.streams[name].serving.take())

    def _commit(self, now: _Running, commit: Commit) -> None:
        """Make a commit durable; held back, and nothing read meanwhile, while the disk is full.

        That is where the real writer stands when the outbox raises `OutboxFullError`:
        it tries again until there is room, and the pipeline waits for it.
        """
        if self._is_disk_full:
            now.held.append(commit)
            return
        batches = batches_of(commit, self._config.streams[commit.stream].upload)
        now.outbox.commit(
            source=commit.stream,
            position=commit.position,
            snapshot=commit.snapshot,
            base=commit.base,
            batches=batches,
        )
        for batch in batches:
            self._ledger.made(self.name, batch.stream, batch.table)
        for estimates in commit.estimates:
            self._ledger.answered(self.name, commit.stream, estimates.table())
        self._note_decisions(commit.decisions)
        self._wake(self.name)

    def _note_decisions(self, decisions: Sequence[Decision]) -> None:
        for decision in self._ledger.decided(self.name, self._world.elapsed_ns, decisions):
            facts = {
                "stream": decision.stream,
                "label": decision.label,
                "edge": decision.edge,
                "index": decision.index,
                "time_ns": decision.time_ns,
                "value": decision.value,
                "effective_id": decision.effective_id,
            }
            self._tell("decision", self.name, facts)

    # --- link -----------------------------------------------------------------------------

    def step(self) -> bool:
        """Let the link send and receive what it can now; True if anything moved."""
        now = self._now
        if now is None:
            return False
        before = now.link.stats()
        self._line.wanted_s = _REST_S
        now.link.step(_REST_S)
        now.agents.step(self.clock.monotonic_ns())
        stats = now.link.stats()
        self._ledger.is_linked[self.name] = stats.is_connected
        if stats.is_connected != before.is_connected:
            now.agents.set_link(is_up=stats.is_connected)
            self._tell("link", self.name, {"is_connected": stats.is_connected})
        self._ledger.waits(self.name, stats.backlog_rows)
        self._plan_step(now)
        return (stats.bytes_up, stats.bytes_down) != (before.bytes_up, before.bytes_down)

    def _plan_step(self, now: _Running) -> None:
        wanted_s = min(self._line.wanted_s, _AGENT_S if now.agents.is_fetching else _REST_S)
        if wanted_s >= _REST_S:
            return
        due_ns = self._world.elapsed_ns + max(round(wanted_s * 1e9), _SOONEST_NS)
        # One appointment is enough, unless this one is earlier.
        if not self._world.elapsed_ns < self._step_ns <= due_ns:
            self._step_ns = due_ns
            self._at(due_ns, lambda: self._wake(self.name))

    # --- the end --------------------------------------------------------------------------

    def finish(self) -> tuple[dict[str, Heap], dict[str, tuple[Feed, int]]]:
        """Commit what is open, and return what waits in the outbox and how far it has read."""
        self.is_disk_full = False
        if self._now is None:
            self.power_on()
        now = self._running()
        for stream in now.streams.values():
            if stream.serving.due_ns is not None:
                self._commit(now, stream.serving.take())
        waiting = waiting_rows(now.outbox)
        self._ledger.waits(self.name, now.outbox.stats().rows)
        feeds = self._member.feeds
        return waiting, {
            name: (feeds[name], stream.serving.position) for name, stream in now.streams.items()
        }

    def close(self) -> None:
        """Close the files."""
        if self._now is not None:
            self._now.close()
            self._now = None

    def _running(self) -> _Running:
        assert self._now is not None  # noqa: S101 - appointments of a device without power lapse
        return self._now

    def _at(self, elapsed_ns: int, do: Callable[[], None]) -> None:
        """Have something done, unless the device has been switched off by then."""
        boots = self._boots

        def still() -> None:
            if self._now is not None and self._boots == boots:
                do()

        self._world.at(elapsed_ns, still)


def _layers_of(pipeline: AnyPipeline) -> str | None:
    """Return what base and layers together are called; None without layers."""
    return None if pipeline.effective_id == effective_id(pipeline.base) else pipeline.effective_id


def _trust_of(config: DeviceConfig) -> Trust | None:
    if config.trust is None:
        return None
    return Trust([public_key_of(path) for path in config.trust.release_keys])


def _unpaced(stream: str, kind: str) -> ConfigError:
    return ConfigError(
        f"streams.{stream}.source is of kind {kind!r}, which keeps its own time",
        expected="a source with a pace, such as a recording",
        remedy="Run this fleet with --mode processes.",
    )
