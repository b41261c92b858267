"""A fleet of real processes behind a real broker keeps every row, whatever is broken."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edge_runtime.errors import ConfigError
from edge_simulator.broker import free_port
from edge_simulator.fleet.config import DiskFull
from edge_simulator.fleet.faults import by_hand
from edge_simulator.fleet.load import Fleet
from edge_simulator.fleet.play import Running, pacer_of, play, running_of

MakeFleet = Callable[..., Fleet]

PROCESSES = "mode: processes\nspeed: 20\nbroker: iotcore\n"
# With one, so few rows fit into what its file has.
NO_BALLAST = "device:\n      streams", "device:\n      outbox: {ballast_mb: 0}\n      streams"
FAULTS = """\
faults:
  - {fault: cut, at: 10s, for: 30s, devices: [pump-1]}
  - {fault: power_off, at: 30s, for: 10s, devices: [pump-2]}
  - {fault: drop, at: 60s}
  - {fault: loss, share: 0.3, at: 15s, for: 40s}
  - {fault: duplicate, share: 0.3, at: 15s, for: 40s}
  - {fault: clock_jump, seconds: -1000, at: 70s}
  - {fault: cloud_gone, at: 80s, for: 10s}
"""


def test_real_processes_lose_nothing(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """Cut, killed, reset, dated wrongly, messages gone or twice: each row arrives once or waits."""
    fleet = make_fleet(PROCESSES + FAULTS)

    result = play(running_of(fleet, tmp_path), pacer_of(fleet))

    for name, starts in {"pump-1": 1, "pump-2": 2}.items():
        counts = result.counts[name]
        assert (counts.rows_lost, counts.duplicates, counts.starts) == (0, 0, starts)
        assert counts.rows_made >= 121 - 4
        assert counts.rows_arrived + counts.rows_waiting >= counts.rows_made
    kinds = [msgspec.json.decode(line).get("fault") for line in result.lines]
    assert kinds.count("cut") == 2


def test_a_real_cloud_gives_the_same_rows_as_its_twin(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    """What its store holds is what the fast engine's twin got, byte for byte."""
    fleet = make_fleet(
        PROCESSES + "cloud: ingest\n", edit=("duration: 2min", "duration: 59s 500ms")
    )
    fast = msgspec.structs.replace(fleet, mode="fast", speed=None, cloud="twin")
    (tmp_path / "real").mkdir()

    real = play(running_of(fleet, tmp_path / "real"), pacer_of(fleet))
    quick = play(running_of(fast, tmp_path / "fast"), pacer_of(fast))

    for name, counts in real.counts.items():
        assert (counts.rows_lost, counts.rows_waiting) == (0, 0)
        assert counts.arrived_sha256 == quick.counts[name].arrived_sha256


@pytest.mark.slow
def test_a_full_disk_costs_a_device_with_a_ballast_nothing_at_first(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    """Its file is large enough for minutes: rows are made, kept and delivered all the time."""
    fleet = make_fleet(PROCESSES + "faults:\n  - {fault: disk_full, at: 10s, for: 60s}\n")

    result = play(running_of(fleet, tmp_path), pacer_of(fleet))

    for counts in result.counts.values():
        assert (counts.rows_lost, counts.duplicates, counts.gap_rows) == (0, 0, 0)
        assert counts.rows_made >= 121 - 4


@pytest.mark.slow
def test_a_full_disk_is_told_in_gaps_or_costs_nothing(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    """Full, killed while full, and free again: each row has arrived, waits, or is declared."""
    faults = """\
faults:
  - {fault: disk_full, at: 10s, for: 60s}
  - {fault: power_off, at: 30s, for: 10s, devices: [pump-2]}
"""
    fleet = make_fleet(PROCESSES.replace("20", "5") + faults, edit=NO_BALLAST)

    result = play(running_of(fleet, tmp_path), pacer_of(fleet))

    for name, starts in {"pump-1": 1, "pump-2": 2}.items():
        counts = result.counts[name]
        log = (tmp_path / "logs" / f"{name}.log").read_text()
        assert "outbox.full" in log and "outbox.has_room" in log
        assert (counts.rows_lost, counts.duplicates, counts.starts) == (0, 0, starts)
        assert counts.rows_made >= 121 - 4
        assert counts.rows_arrived + counts.rows_waiting + counts.gap_rows >= counts.rows_made


@pytest.mark.slow
def test_a_disk_that_stays_full_takes_nothing_that_was_committed(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    """Ended without room, by chance and by hand, a device has lost no row that it had made."""
    faults = "faults:\n  - {fault: disk_full, per_day: 20000, for: 10min, devices: [pump-1]}\n"
    fleet = make_fleet(PROCESSES + faults, edit=NO_BALLAST)
    running = running_of(fleet, tmp_path)
    by_key = by_hand(DiskFull(lasts="0s"))

    def press(elapsed_ns: int) -> None:
        if elapsed_ns > 60 * 10**9 and not running.troubles["pump-2"].kinds:
            running.toggle("pump-2", by_key)

    result = play(running, pacer_of(fleet), press)

    for name, counts in result.counts.items():
        assert running.troubles[name].kinds == ("disk_full",)
        assert (counts.rows_lost, counts.duplicates) == (0, 0)
        assert counts.rows_made < 121 - 4


UPDATES = """\
faults:
  - {fault: update, at: 10s, stream: main, bundle: sum-2, signed_by: stranger}
  - {fault: update, at: 30s, stream: main, bundle: sum-2, golden: wrong}
  - {fault: update, at: 60s, stream: main, bundle: sum-2}
  - {fault: cut, at: 59s, for: 10s, devices: [pump-2]}
"""


@pytest.mark.slow
@pytest.mark.parametrize("cloud", ["twin", "ingest"])
def test_a_real_device_takes_the_good_update_alone(
    make_fleet: MakeFleet, tmp_path: Path, cloud: str
) -> None:
    """A stranger's and a wrong one are refused, the good one goes live, and no row is lost."""
    fleet = make_fleet(PROCESSES.replace("20", "5") + f"cloud: {cloud}\n" + UPDATES)

    result = play(running_of(fleet, tmp_path), pacer_of(fleet))

    for name in ("pump-1", "pump-2"):
        counts = result.counts[name]
        assert (counts.updates_refused, counts.updates_committed) == (2, 1)
        assert (counts.rows_lost, counts.duplicates, counts.gap_rows) == (0, 0, 0)
    told = [msgspec.json.decode(line) for line in result.lines]
    reasons = [each["reason"] for each in told if each["event"] == "update"]
    assert sorted(reasons) == ["", "", "admission", "admission", "key", "key"]


def test_a_port_that_is_taken_is_named(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """Two simulations on one port: the second says which line to change."""
    port = free_port()
    fleet = make_fleet(PROCESSES + f"port: {port}\n")
    running: Running = running_of(fleet, tmp_path)

    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(ConfigError, match=f"port {port} is taken") as caught:
            play(running, pacer_of(fleet))

    assert caught.value.where.endswith("fleet.yaml:17:7")
