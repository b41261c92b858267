"""The other way of running: a real process per device, a real broker, lines that break.

Samples are released as simulated time passes, at any speed; time-outs, commits
and links stay on the machine's own clock. What happens is real, and so not the
same twice.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_runtime.clock import SystemClock
from edge_runtime.config import SyncConfig
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.pipeline.records import decisions_table
from edge_runtime.sync.paho import PahoTransport
from edge_runtime.types import Decision, Table
from edge_simulator.broker import Broker, choose_broker
from edge_simulator.fleet.cloud import CloudTwin
from edge_simulator.fleet.config import CloudGone, Update
from edge_simulator.fleet.faults import Act, Troubles, schedule
from edge_simulator.fleet.ingest import RealCloud
from edge_simulator.fleet.ledger import Ledger, runs_text
from edge_simulator.fleet.load import Fault, Fleet, Member
from edge_simulator.fleet.real_device import RealDevice
from edge_simulator.fleet.result import Journal, Result, result_of
from edge_simulator.fleet.updates import Workshop
from edge_simulator.link import LinkProxy

__all__ = ["Processes"]

# Starting takes processor time, not waiting: more at once would only start later.
_AT_ONCE = max(2, os.cpu_count() or 2)
_CLOUD = "cloud-twin"
_DRAIN_S = 10.0
_QUIET_S = 0.05
# With one of these a device may well stay behind.
_HOLDING = ("cut", "half_open", "power_off", "disk_full")

OnTold = Callable[[str, str, Mapping[str, Any]], None]
"""Called with a device, an event and facts."""


class Processes:
    """Used by one thread: `start`, `advance` until the end, `finish`, `close`.

    Whoever tells a story of his own releases samples himself and calls `look_around`
    instead of `advance`.

    Args:
        fleet: What to run.
        folder: Holds nothing of an earlier run.
        on_told: Called with whatever the devices tell, on this thread.

    Attributes:
        fleet: What runs.
        devices: By name.
        troubles: What is wrong with each device at present.
        journal: What has happened.
        ledger: Who has which row.
        workshop: Has the keys.
        broker: Between devices and cloud.
        cloud: Takes the rows; there from `start` on.
        elapsed_ns: Simulated time so far.
    """

    cloud: CloudTwin | RealCloud

    def __init__(self, fleet: Fleet, folder: Path, on_told: OnTold | None = None) -> None:
        self.fleet = fleet
        self.ledger = Ledger()
        self.journal = Journal()
        self.elapsed_ns = 0
        self.devices: dict[str, RealDevice] = {}
        self.troubles: dict[str, Troubles] = {}
        self.workshop = Workshop(fleet, folder)
        self.broker = Broker(choose_broker(fleet.broker), folder / "broker")
        self._folder = folder
        self._on_told = on_told
        self._stack = ExitStack()
        self._told: queue.SimpleQueue[tuple[str, str, Mapping[str, Any]]] = queue.SimpleQueue()
        self._acts = schedule(fleet)
        self._lasting: list[Act] = []
        self._clouds_gone = 0
        self._committed: dict[tuple[str, str], int] = {}
        self._made: dict[str, list[Decision]] = {}
        self._probes: dict[int, int] = {}

    def start(self) -> None:
        """Start broker, lines, cloud and devices.

        Raises:
            ConfigError: The port where others may listen is taken.
            SourceError: A process does not start; its last words are shown.
        """
        for name in ("logs", "devices"):
            (self._folder / name).mkdir()
        broker = self._stack.enter_context(self.broker)
        target = (broker.host, broker.port)
        if self.fleet.port is not None:
            self._listen(self.fleet.port, target)
        members = [self.workshop.equipped(member) for member in self.fleet.members]
        self.cloud = self._opened_cloud(members)
        for number, member in enumerate(members):
            # What is lost or doubled is a message, as on the lines of `fast`.
            link = LinkProxy(target=target, unit="packets", seed=self.fleet.seed + number)
            line = self._stack.enter_context(link)
            device = RealDevice(
                member, self._folder, line, broker.protocol, self._hear, self._offer
            )
            self.devices[member.name] = device
            self.troubles[member.name] = Troubles(device)
        self._stack.callback(self._stop_devices)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(RealDevice.start, self.devices.values()))

    def advance(self, upto_ns: int) -> bool:
        """Let everything happen that is due by ``upto_ns``; False, as it never hurries."""
        self._probe(upto_ns)
        for act in self._due(upto_ns):
            self.elapsed_ns = act.at_ns
            self._begin(act, lasts=act.until_ns is not None)
        self.elapsed_ns = upto_ns
        for act in [act for act in self._lasting if (act.until_ns or 0) <= upto_ns]:
            self._lasting.remove(act)
            self._end(act)
        for device in self.devices.values():
            device.release_due(upto_ns)
        self.look_around()
        return False

    def look_around(self) -> None:
        """Take what the devices told and what reached the cloud.

        Raises:
            SourceError: A process has ended by itself; its last words are shown.
        """
        for name, device in self.devices.items():
            device.check(self.troubles[name].kinds)
        self._listen_on()

    def end(self) -> None:
        """Let what is on its way arrive, and end every device cleanly."""
        self._drain()
        self._stop_devices()
        self._listen_on()
        time.sleep(_QUIET_S)
        self._listen_on()

    def finish(self) -> Result:
        """End everything that came of the devices, and take stock."""
        self.end()
        self.cloud.finish()
        counts = {}
        for name, device in self.devices.items():
            self.ledger.starts[name] = device.process.starts
            self._note_made(name, device.member)
            waiting = device.waiting()
            counts[name] = self.ledger.counts(name, waiting=waiting, positions={})
        return result_of(self.fleet, self.journal, counts, self.ledger.sightings, self._probes)

    def close(self) -> None:
        """End everything that still runs; safe to call twice."""
        self._stack.close()

    def pid_of(self, device: str) -> int | None:
        """Return the id of a device's process."""
        return self.devices[device].process.pid if device in self.devices else None

    def toggle(self, device: str, fault: Fault) -> None:
        """Let a fault begin on a device now, or end if one of its kind lasts."""
        ended = self.troubles[device].end_by_hand(fault.kind)
        if not ended:
            self._begin(Act(self.elapsed_ns, None, device, fault), lasts=bool(fault.lasts_ns))
        for each in ended:
            self._note("fault.ended", device, each)

    # --- parts ------------------------------------------------------------------------------

    def _listen(self, port: int, target: tuple[str, int]) -> None:
        """Let anybody on this machine listen to the broker on a port that is known before."""
        try:
            self._stack.enter_context(LinkProxy(port, target))
        except SourceError as error:
            raise ConfigError(
                f"port {port} is taken: {error.what}",
                where=self.fleet.document.where("port"),
                expected="a free port",
                remedy="Perhaps another simulation runs; choose another port, or leave it out.",
            ) from error

    def _opened_cloud(self, members: Sequence[Member]) -> CloudTwin | RealCloud:
        sync = SyncConfig(port=self.broker.port, protocol=self.broker.protocol)
        cloud: CloudTwin | RealCloud
        if self.fleet.cloud == "ingest":
            cloud = RealCloud(
                members,
                self._folder,
                sync,
                self.ledger,
                self._tell,
                refresh=self.fleet.refresh,
                layer_key=self.workshop.layer_path,
            )
            self._stack.callback(cloud.close_store)
        else:
            cloud = CloudTwin(
                lambda: PahoTransport(sync, _CLOUD, SystemClock()), self.ledger, self._tell
            )
        cloud.open()
        self._stack.callback(cloud.close)
        return cloud

    def _offer(self, fault: Fault, device: str) -> None:
        if isinstance(fault.config, Update):
            made_ns = self.fleet.start_ns + self.elapsed_ns
            self.cloud.offer(self.workshop.offer(fault, fault.config, device, made_ns))

    def _hear(self, name: str, event: str, facts: Mapping[str, Any]) -> None:
        """Take what a device says on a thread of its own."""
        self._told.put((name, event, facts))

    def _stop_devices(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(RealDevice.stop, self.devices.values()))

    # --- what happens -----------------------------------------------------------------------

    def _due(self, upto_ns: int) -> list[Act]:
        count = sum(1 for act in self._acts if act.at_ns <= upto_ns)
        due, self._acts = self._acts[:count], self._acts[count:]
        return due

    def _begin(self, act: Act, *, lasts: bool) -> None:
        self._note("fault.began", act.device, act.fault)
        if isinstance(act.fault.config, CloudGone):
            self._change_cloud(1)
        self.troubles[act.device].begin(act.fault, lasts=lasts)
        if act.until_ns is not None:
            self._lasting.append(act)

    def _end(self, act: Act) -> None:
        if self.troubles[act.device].has(act.fault):
            self._note("fault.ended", act.device, act.fault)
            if isinstance(act.fault.config, CloudGone):
                self._change_cloud(-1)
            self.troubles[act.device].end(act.fault)

    def _change_cloud(self, change: int) -> None:
        was_gone, self._clouds_gone = self._clouds_gone > 0, self._clouds_gone + change
        if was_gone != (self._clouds_gone > 0):
            self.cloud.open() if was_gone else self.cloud.close()

    def _probe(self, upto_ns: int) -> None:
        for i, expectation in enumerate(self.fleet.expect):
            at_ns = expectation.at_ns
            if at_ns is not None and at_ns <= upto_ns and i not in self._probes:
                self._probes[i] = sum(self.ledger.backlog[name] for name in expectation.members)

    def _listen_on(self) -> None:
        """Take what devices that have ended told last, and what of it reached the cloud."""
        self._take_told()
        if not self._clouds_gone:
            while self.cloud.step(0.0):
                pass

    def _take_told(self) -> None:
        while not self._told.empty():
            name, event, facts = self._told.get()
            self._take(name, event, facts)
            if self._on_told is not None:
                self._on_told(name, event, facts)

    def _take(self, name: str, event: str, facts: Mapping[str, Any]) -> None:
        if event == "status":
            self.ledger.waits(name, int(facts["backlog_rows"]))
            self.ledger.runs[name] = self._what_runs(facts["streams"])
        elif event == "rows.committed":
            key = (name, str(facts["stream"]))
            self._committed[key] = max(self._committed.get(key, 0), int(facts["position"]))
        elif event == "estimates.made":
            for values in facts["value"]:
                self.ledger.glimpsed(name, values)
        elif event == "link.changed":
            self.ledger.is_linked[name] = bool(facts["is_connected"])
            self._tell("link", name, {"is_connected": facts["is_connected"]})
        elif event == "decision.made":
            decision = msgspec.convert(dict(facts), Decision)
            for fresh in self.ledger.decided(name, self.elapsed_ns, [decision]):
                self._made.setdefault(name, []).append(fresh)
                self._tell("decision", name, msgspec.structs.asdict(fresh))

    def _what_runs(self, streams: Mapping[str, Mapping[str, Any]]) -> str:
        return runs_text(
            self.fleet.refs,
            [
                (each["base"], None if each["layers_made_ns"] is None else each["effective_id"])
                for each in streams.values()
            ],
        )

    def _note_made(self, name: str, member: Member) -> None:
        """Note what the device's commits and decisions say that it made."""
        decided = self._made.get(name, [])
        for stream, feed in member.feeds.items():
            position = self._committed.get((name, stream), feed.first)
            index = feed.windows(position)
            if feed.is_whole:
                table = Table({"index": index, "value": np.zeros(len(index))})
                self.ledger.made(name, stream, table)
            if member.config.streams[stream].upload != "none":
                # A decision is told when it is made, and kept with the sample it was made at.
                made = [each for each in decided if each.stream == stream and each.index < position]
                self.ledger.made(name, f"{stream}-decisions", decisions_table(made))

    def _drain(self) -> None:
        """Give rows that are on their way a moment to arrive."""
        deadline_s = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline_s and any(map(self._is_behind, self.devices)):
            self._listen_on()
            time.sleep(_QUIET_S)

    def _is_behind(self, name: str) -> bool:
        is_held = any(kind in _HOLDING for kind in self.troubles[name].kinds)
        return not (is_held or self._clouds_gone) and self.devices[name].is_behind()

    def _note(self, event: str, device: str, fault: Fault) -> None:
        self._tell(event, device, {"fault": fault.kind, "number": fault.number})

    def _tell(self, event: str, device: str, facts: Mapping[str, object]) -> None:
        self.journal.add(self.elapsed_ns, event, device, facts)
