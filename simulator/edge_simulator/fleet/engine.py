"""The fast engine: a whole fleet in one thread, on one event clock.

Nothing in it asks for wall time, and everything by chance comes from the seed:
the same file gives the same result, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from edge_runtime.modes.models import SharedModels
from edge_runtime.sync.transport import MemoryBroker
from edge_simulator.fleet.cloud import CloudTwin
from edge_simulator.fleet.config import CloudGone, Update
from edge_simulator.fleet.device import FastDevice
from edge_simulator.fleet.faults import Act, BreakableLine, Troubles, schedule
from edge_simulator.fleet.ledger import Ledger
from edge_simulator.fleet.load import Fault, Fleet, Member
from edge_simulator.fleet.result import Journal, Result, result_of
from edge_simulator.fleet.updates import Workshop
from edge_simulator.fleet.wire import Line
from edge_simulator.fleet.world import World

__all__ = ["Engine"]

_CLOUD = "cloud"


class Engine:
    """Used by one thread: `start`, `advance` until it says no, `finish`, `close`.

    The same file gives the same result, byte for byte, whatever the pace.

    Args:
        fleet: What to run.
        folder: Empty.

    Attributes:
        fleet: What runs.
        devices: By name.
        troubles: What is wrong with each device at present.
        journal: What has happened.
        ledger: Who has which row.
    """

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.ledger = Ledger()
        self.journal = Journal()
        self.fleet = fleet
        self._world = World(fleet.start_ns)
        self._broker = MemoryBroker()
        self._cloud = CloudTwin(lambda: self._broker.transport(_CLOUD), self.ledger, self._tell)
        self._clouds_gone = 0
        self._workshop = Workshop(fleet, folder)
        self._awake: dict[str, None] = {}
        self._probes: dict[int, int] = {}
        models = SharedModels(), SharedModels()
        self._patients = {
            member.name: self._patient(self._workshop.equipped(member), folder, models)
            for member in fleet.members
        }
        self.devices = {name: patient.device for name, patient in self._patients.items()}
        self.troubles = {name: Troubles(patient) for name, patient in self._patients.items()}

    @property
    def elapsed_ns(self) -> int:
        """Simulated time since the start, ns."""
        return self._world.elapsed_ns

    def start(self) -> None:
        """Switch everything on, and plan the faults."""
        self._cloud.open()
        # Before the faults: who looks at an instant sees what was until then.
        for i, expectation in enumerate(self.fleet.expect):
            if expectation.at_ns is not None:
                self._world.at(expectation.at_ns, self._probe(i, expectation.members))
        for act in schedule(self.fleet):
            self._plan(act)
        for device in self.devices.values():
            device.power_on()
        self._settle()

    def advance(self, upto_ns: int) -> bool:
        """Let the next event happen, and all that follows at once; False if none is due by then."""
        next_ns = self._world.next_ns
        if next_ns is None or next_ns > min(upto_ns, self.fleet.duration_ns):
            return False
        self._world.step()
        self._settle()
        return True

    def finish(self) -> Result:
        """Take stock: what is open is committed, nothing more is sent."""
        counts = {}
        for name, device in self.devices.items():
            waiting, positions = device.finish()
            counts[name] = self.ledger.counts(name, waiting=waiting, positions=positions)
        return result_of(self.fleet, self.journal, counts, self.ledger.sightings, self._probes)

    def close(self) -> None:
        """Close every file."""
        for device in self.devices.values():
            device.close()

    # --- faults by hand -------------------------------------------------------------------

    def pid_of(self, device: str) -> int | None:  # noqa: ARG002
        """Return None: all devices are in this process."""
        return None

    def toggle(self, device: str, fault: Fault) -> None:
        """Let a fault begin on a device now, or end if one of its kind lasts."""
        ended = self.troubles[device].end_by_hand(fault.kind)
        if not ended:
            self._begin(Act(self.elapsed_ns, None, device, fault), lasts=bool(fault.lasts_ns))
        for each in ended:
            self._note("fault.ended", device, each)
        self._wake(device)
        self._settle()

    # --- inside -----------------------------------------------------------------------------

    def _patient(
        self, member: Member, folder: Path, models: tuple[SharedModels, SharedModels]
    ) -> _Patient:
        sync = member.config.sync
        line = Line(
            self._world,
            self._broker,
            member.name,
            seed=self.fleet.seed,
            keepalive_s=sync.keepalive_s if sync else 30,
            on_arrival=lambda: self._wake(member.name),
        )
        device = FastDevice(
            member,
            folder / "devices" / member.name,
            line,
            self._world,
            seed=self.fleet.seed,
            ledger=self.ledger,
            tell=self._tell,
            wake=self._wake,
            models=models,
            refs=self.fleet.refs,
        )
        return _Patient(device, line, self._offer)

    def _offer(self, fault: Fault, device: str) -> None:
        if isinstance(fault.config, Update):
            made_ns = self._world.start_ns + self.elapsed_ns
            self._cloud.offer(self._workshop.offer(fault, fault.config, device, made_ns))

    def _plan(self, act: Act) -> None:
        lasts = act.until_ns is not None
        self._world.at(act.at_ns, lambda: self._begin(act, lasts=lasts))
        if act.until_ns is not None:
            self._world.at(act.until_ns, lambda: self._end(act))

    def _begin(self, act: Act, *, lasts: bool) -> None:
        self._note("fault.began", act.device, act.fault)
        if isinstance(act.fault.config, CloudGone):
            self._change_cloud(1)
        self.troubles[act.device].begin(act.fault, lasts=lasts)
        self._wake(act.device)

    def _end(self, act: Act) -> None:
        if not self.troubles[act.device].has(act.fault):
            return
        self._note("fault.ended", act.device, act.fault)
        if isinstance(act.fault.config, CloudGone):
            self._change_cloud(-1)
        self.troubles[act.device].end(act.fault)
        self._wake(act.device)

    def _change_cloud(self, change: int) -> None:
        was_gone, self._clouds_gone = self._clouds_gone > 0, self._clouds_gone + change
        if was_gone != (self._clouds_gone > 0):
            self._cloud.open() if was_gone else self._cloud.close()
            self._awake.update(dict.fromkeys(self.devices))

    def _probe(self, number: int, members: tuple[str, ...]) -> Callable[[], None]:
        def look() -> None:
            self._probes[number] = sum(self.ledger.backlog[name] for name in members)

        return look

    def _wake(self, device: str) -> None:
        self._awake[device] = None

    def _settle(self) -> None:
        """Let devices and cloud talk until nobody has anything to say at this instant."""
        while self._awake:
            awake, self._awake = self._awake, {}
            moved = [name for name in awake if self.devices[name].step()]
            while self._cloud.step(0.0):
                pass
            self._awake.update(dict.fromkeys(moved))
            self._awake.update(dict.fromkeys(sorted(self._cloud.touched)))
            self._cloud.touched.clear()

    def _note(self, event: str, device: str, fault: Fault) -> None:
        self._tell(event, device, {"fault": fault.kind, "number": fault.number})

    def _tell(self, event: str, device: str, facts: Mapping[str, object]) -> None:
        self.journal.add(self.elapsed_ns, event, device, facts)


class _Patient(msgspec.Struct, frozen=True, eq=False):
    """A device of this engine, as faults see it; see `Patient`."""

    device: FastDevice
    way: Line
    offer: Callable[[Fault, str], None]

    @property
    def line(self) -> BreakableLine:
        return self.way

    def power_off(self) -> None:
        self.device.power_off()

    def power_on(self, *, is_clock_set: bool) -> None:
        self.device.power_on(is_clock_set=is_clock_set)

    def shift_clock(self, seconds: float) -> None:
        self.device.clock.offset_ns += round(seconds * 1e9)

    def set_clock(self, offset_s: float) -> None:
        self.device.clock.offset_ns = round(offset_s * 1e9)

    def fill_disk(self, *, is_full: bool) -> None:
        self.device.is_disk_full = is_full

    def use_sensor(self, fault: int | None) -> None:
        self.device.use_sensor(fault)

    def update(self, fault: Fault) -> None:
        self.offer(fault, self.device.name)
