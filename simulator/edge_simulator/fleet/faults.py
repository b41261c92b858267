"""Faults: when they happen, and what they do to a device, in both ways of running."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import msgspec

from edge_simulator.fleet.config import (
    ClockJump,
    ClockOffset,
    ClockUnset,
    Cut,
    Delay,
    DiskFull,
    Drop,
    Duplicate,
    FaultConfig,
    HalfOpen,
    Lasting,
    Loss,
    PowerOff,
    Sensor,
    Throttle,
    Update,
)
from edge_simulator.fleet.load import Fault, Fleet
from edge_simulator.link.flow import Chances

__all__ = ["Act", "BreakableLine", "Patient", "Troubles", "by_hand", "schedule"]

_DAY_NS = 86_400_000_000_000


class Act(msgspec.Struct, frozen=True, eq=False):
    """A fault that begins on one device.

    Attributes:
        at_ns: When, from the start.
        until_ns: When it ends by itself; None if it is over at once.
        device: On whom.
        fault: What.
    """

    at_ns: int
    until_ns: int | None
    device: str
    fault: Fault


class BreakableLine(Protocol):
    """A device's way to the broker, `LinkProxy` or its twin `Line`.

    Attributes:
        delay_s: One way, for everything.
        bytes_per_s: Of each direction; None for no limit.
        chances: How many messages are lost, and how many come twice.
    """

    delay_s: float
    bytes_per_s: float | None
    chances: Chances

    def cut(self) -> None:
        """Reset every connection, and let none come about."""
        ...

    def half_open(self) -> None:
        """Swallow everything."""
        ...

    def mend(self) -> None:
        """Carry everything again."""
        ...


class Patient(Protocol):
    """A device that faults happen to."""

    @property
    def line(self) -> BreakableLine:
        """Its way to the broker."""
        ...

    def power_off(self) -> None:
        """Take its power; nothing if it has none."""
        ...

    def power_on(self, *, is_clock_set: bool) -> None:
        """Start it; with a clock that is not set it is 1970."""
        ...

    def shift_clock(self, seconds: float) -> None:
        """Move its wall clock."""
        ...

    def set_clock(self, offset_s: float) -> None:
        """Set its wall clock so far ahead of true time."""
        ...

    def fill_disk(self, *, is_full: bool) -> None:
        """Leave no room on its disk, or give it back."""
        ...

    def use_sensor(self, fault: int | None) -> None:
        """Read its streams with the options of a fault, or its own."""
        ...

    def update(self, fault: Fault) -> None:
        """Have the cloud offer it a base."""
        ...


def by_hand(config: FaultConfig) -> Fault:
    """Return a fault that stands in no file; one that lasts does so until it is ended."""
    lasts_ns = int(isinstance(config, Lasting))
    return Fault(number=-1, config=config, at_ns=None, lasts_ns=lasts_ns, members=())


def schedule(fleet: Fleet) -> list[Act]:
    """Return everything that happens by schedule and by chance, in order.

    Chance depends on the fleet's seed, the fault's place in the file and the
    device's name alone: another device or fault changes nothing for the others.
    """
    acts = [act for fault in fleet.faults for act in _acts(fleet, fault)]
    return sorted(acts, key=lambda act: (act.at_ns, act.fault.number))


def _acts(fleet: Fleet, fault: Fault) -> Iterator[Act]:
    for device in fault.members:
        for at_ns in _moments(fleet, fault, device):
            yield Act(at_ns, at_ns + fault.lasts_ns if fault.lasts_ns else None, device, fault)


def _moments(fleet: Fleet, fault: Fault, device: str) -> Iterator[int]:
    """Yield when a fault happens to a device: intervals are exponential, and never overlap."""
    if fault.at_ns is not None:
        yield fault.at_ns
        return
    rate = (fault.config.per_day or 0.0) / _DAY_NS
    chance = random.Random(f"{fleet.seed}/{fault.number}/{device}")  # noqa: S311 - repeatable
    at_ns = round(chance.expovariate(rate))
    while at_ns < fleet.duration_ns:
        yield at_ns
        at_ns += fault.lasts_ns + round(chance.expovariate(rate))


class Troubles:
    """What is wrong with one device at present, and what that comes to.

    Faults of one kind may overlap: the line is cut as long as any cut lasts, the
    longest delay, the smallest bandwidth and the greatest share count, power comes back
    with the last.

    Args:
        patient: The device.
    """

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._active: list[Fault] = []
        self._mode = "up"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the faults that last at present."""
        return tuple(fault.kind for fault in self._active)

    def has(self, fault: Fault) -> bool:
        """Whether this fault lasts at present."""
        return fault in self._active

    def begin(self, fault: Fault, *, lasts: bool) -> None:
        """Let a fault happen; one that ``lasts`` is ended by `end`."""
        if lasts:
            self._active.append(fault)
        self._change(fault.config, fault, is_begin=True)

    def end(self, fault: Fault) -> None:
        """Let a fault be over; nothing if it was ended by hand."""
        if fault in self._active:
            self._active.remove(fault)
            self._change(fault.config, fault, is_begin=False)

    def end_by_hand(self, kind: str) -> list[Fault]:
        """End every fault of a kind, and return them."""
        ended = [fault for fault in self._active if fault.kind == kind]
        for fault in ended:
            self.end(fault)
        return ended

    def _change(self, config: FaultConfig, fault: Fault, *, is_begin: bool) -> None:
        patient = self._patient
        match config:
            case Cut() | HalfOpen() | Delay() | Throttle() | Loss() | Duplicate():
                self._set_line()
            case Drop():
                patient.line.cut()
                self._mode = "cut"
                self._set_line()
            case PowerOff():
                self._set_power(is_begin=is_begin)
            case ClockOffset(seconds=seconds):
                patient.shift_clock(seconds if is_begin else -seconds)
            case ClockJump(seconds=seconds):
                patient.shift_clock(seconds)
            case ClockUnset():
                self._unset_clock(is_begin=is_begin)
            case DiskFull():
                patient.fill_disk(is_full=self._has(DiskFull))
            case Sensor():
                self._use_sensor()
            case Update():
                patient.update(fault)

    def _set_line(self) -> None:
        line = self._patient.line
        delays = [c.seconds for c in self._configs() if isinstance(c, Delay)]
        rates = [c.bytes_per_s for c in self._configs() if isinstance(c, Throttle)]
        line.delay_s, line.bytes_per_s = max(delays, default=0.0), min(rates, default=None)
        line.chances = Chances(drop=self._share(Loss), duplicate=self._share(Duplicate))
        mode = "cut" if self._has(Cut) else "half_open" if self._has(HalfOpen) else "up"
        if mode != self._mode:
            self._mode = mode
            changes: Mapping[str, Callable[[], None]] = {
                "cut": line.cut,
                "half_open": line.half_open,
                "up": line.mend,
            }
            changes[mode]()

    def _share(self, kind: type[Loss | Duplicate]) -> float:
        return max((c.share for c in self._configs() if isinstance(c, kind)), default=0.0)

    def _set_power(self, *, is_begin: bool) -> None:
        if is_begin:
            self._patient.power_off()
        elif not self._has(PowerOff):
            self._patient.power_on(is_clock_set=not self._has(ClockUnset))

    def _unset_clock(self, *, is_begin: bool) -> None:
        if not is_begin:
            offsets = [c.seconds for c in self._configs() if isinstance(c, ClockOffset)]
            self._patient.set_clock(sum(offsets))
        elif not self._has(PowerOff):
            self._patient.power_off()
            self._patient.power_on(is_clock_set=False)

    def _use_sensor(self) -> None:
        numbers = [fault.number for fault in self._active if isinstance(fault.config, Sensor)]
        self._patient.use_sensor(numbers[-1] if numbers else None)

    def _has(self, kind: type[FaultConfig]) -> bool:
        return any(isinstance(config, kind) for config in self._configs())

    def _configs(self) -> list[FaultConfig]:
        return [fault.config for fault in self._active]
