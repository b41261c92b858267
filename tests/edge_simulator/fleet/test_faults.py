"""When faults happen, and what several at once come to."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec
import pytest

from edge_simulator.fleet.faults import Troubles, schedule
from edge_simulator.fleet.load import Fault, Fleet
from edge_simulator.link.flow import Chances

MakeFleet = Callable[..., Fleet]


class _Line:
    def __init__(self) -> None:
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self.chances = Chances()
        self.told: list[str] = []

    def cut(self) -> None:
        self.told.append("cut")

    def half_open(self) -> None:
        self.told.append("half_open")

    def mend(self) -> None:
        self.told.append("mend")


class _Patient:
    """Writes down what is done to it."""

    def __init__(self) -> None:
        self.line = _Line()
        self.told: list[object] = []

    def power_off(self) -> None:
        self.told.append("off")

    def power_on(self, *, is_clock_set: bool) -> None:
        self.told.append("on" if is_clock_set else "on in 1970")

    def shift_clock(self, seconds: float) -> None:
        self.told.append(seconds)

    def set_clock(self, offset_s: float) -> None:
        self.told.append(f"set {offset_s:g}")

    def fill_disk(self, *, is_full: bool) -> None:
        self.told.append(is_full)

    def use_sensor(self, fault: int | None) -> None:
        self.told.append(fault)

    def update(self, fault: Fault) -> None:
        self.told.append(fault.number)


def test_chance_concerns_nobody_else(make_fleet: MakeFleet) -> None:
    """Another fault in the file, and another device, leave a device's own chances alone."""
    one = "  - {fault: cut, per_day: 3000, for: 2s}\n"
    fleet = make_fleet(f"faults:\n{one}")
    more = make_fleet(f"faults:\n{one}{one}", edit=("count: 2", "count: 3"))

    def times(fleet: Fleet, device: str) -> list[int]:
        acts = schedule(fleet)
        return [a.at_ns for a in acts if (a.device, a.fault.number) == (device, 0)]

    for device in ("pump-1", "pump-2"):
        assert times(fleet, device) == times(more, device)
    assert times(fleet, "pump-1") != times(fleet, "pump-2")


def test_a_fault_by_chance_never_overlaps_itself(make_fleet: MakeFleet) -> None:
    """The next one begins after the end of the one before, and about as often as it says."""
    fleet = make_fleet(
        "faults:\n  - {fault: cut, per_day: 1, for: 1h}\n",
        edit=("duration: 2min", "duration: 200d"),
    )

    acts = [act for act in schedule(fleet) if act.device == "pump-1"]

    pairs = itertools.pairwise(acts)
    assert all(a.until_ns is not None and a.until_ns <= b.at_ns for a, b in pairs)
    assert 150 < len(acts) < 250


@pytest.fixture
def faults(make_fleet: MakeFleet) -> dict[str, Fault]:
    """One fault of each kind that lasts."""
    kinds = {
        "cut": "",
        "half_open": "",
        "power_off": "",
        "clock_unset": "",
        "disk_full": "",
        "clock_offset": "seconds: 5, ",
        "delay": "seconds: 2, ",
        "throttle": "bytes_per_s: 9, ",
        "loss": "share: 0.2, ",
        "duplicate": "share: 0.1, ",
    }
    lines = [f"  - {{fault: {kind}, at: 1s, {more}for: 9s}}\n" for kind, more in kinds.items()]
    return dict(zip(kinds, make_fleet("faults:\n" + "".join(lines)).faults, strict=True))


def test_the_worst_of_several_link_faults_counts(faults: dict[str, Fault]) -> None:
    """Cut beats half open, and the line is mended when the last of them is over."""
    patient = _Patient()
    troubles = Troubles(patient)

    for kind in ("half_open", "cut"):
        troubles.begin(faults[kind], lasts=True)
    for kind in ("cut", "half_open"):
        troubles.end(faults[kind])

    assert patient.line.told == ["half_open", "cut", "half_open", "mend"]


def test_the_longest_delay_counts_and_ends(faults: dict[str, Fault]) -> None:
    """Delay and bandwidth are those of the faults that last, and nothing afterwards."""
    patient = _Patient()
    troubles = Troubles(patient)
    longer = msgspec.structs.replace(
        faults["delay"], config=msgspec.structs.replace(faults["delay"].config, seconds=7)
    )

    for fault in (faults["delay"], longer, faults["throttle"]):
        troubles.begin(fault, lasts=True)
    assert (patient.line.delay_s, patient.line.bytes_per_s) == (7, 9)
    for fault in (longer, faults["throttle"]):
        troubles.end(fault)

    assert (patient.line.delay_s, patient.line.bytes_per_s) == (2, None)
    assert patient.line.told == []


def test_the_greatest_share_counts_and_ends(faults: dict[str, Fault]) -> None:
    """Messages are lost and doubled as the faults that last say, and not at all afterwards."""
    patient = _Patient()
    troubles = Troubles(patient)
    worse = msgspec.structs.replace(
        faults["loss"], config=msgspec.structs.replace(faults["loss"].config, share=0.7)
    )

    for fault in (faults["loss"], worse, faults["duplicate"]):
        troubles.begin(fault, lasts=True)
    assert patient.line.chances == Chances(drop=0.7, duplicate=0.1)
    for fault in (worse, faults["duplicate"]):
        troubles.end(fault)

    assert patient.line.chances == Chances(drop=0.2)


def test_power_comes_back_with_a_clock_that_is_not_set(faults: dict[str, Fault]) -> None:
    """Whoever starts while the clock is unset starts in 1970, and is set right once."""
    patient = _Patient()
    troubles = Troubles(patient)

    troubles.begin(faults["clock_unset"], lasts=True)
    troubles.begin(faults["power_off"], lasts=True)
    troubles.end(faults["power_off"])
    troubles.begin(faults["clock_offset"], lasts=True)
    troubles.end(faults["clock_unset"])

    assert patient.told == ["off", "on in 1970", "off", "on in 1970", 5, "set 5"]


def test_a_fault_that_was_ended_by_hand_does_not_end_again(faults: dict[str, Fault]) -> None:
    """Its schedule comes too late and changes nothing."""
    patient = _Patient()
    troubles = Troubles(patient)
    troubles.begin(faults["disk_full"], lasts=True)

    troubles.end_by_hand("disk_full")
    troubles.end(faults["disk_full"])

    assert patient.told == [True, False]
    assert troubles.kinds == ()
