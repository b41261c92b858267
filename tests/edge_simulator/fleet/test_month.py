"""A month of ten devices, with faults, twice."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from edge_simulator.fleet.engine import Engine
from edge_simulator.fleet.load import Fleet, load_fleet
from edge_simulator.fleet.pace import Pacer
from edge_simulator.fleet.play import play

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
LIMIT_S = 180.0

MONTH = """\
duration: 30d
seed: 3
devices:
  - name: turbine
    count: 10
    device:
      streams:
        turbine:
          source:
            kind: csv
            path: gas_turbine/gas_turbine_2011_2015.csv
            first_row: 15039
            last_row: 17000
            time: {start: "2011-04-14T09:00:00Z", step_s: 3600}
          model: {bundle: gas_turbine/bundles/turbine-nox-1.0.0}
          upload: windows
    spread: {turbine: {first_row: 100}}
faults:
  - {fault: cut, at: 3d, for: 1w}
  - {fault: power_off, per_day: 0.3, for: 20min}
  - {fault: half_open, per_day: 0.2, for: 3h}
  - {fault: drop, per_day: 1}
  - {fault: delay, seconds: 5, at: 15d, for: 3h}
  - {fault: throttle, bytes_per_s: 200, at: 16d, for: 1d}
  - {fault: clock_jump, seconds: -86400, at: 20d}
  - {fault: clock_unset, at: 21d, for: 2d}
  - {fault: disk_full, at: 24d, for: 1d}
  - {fault: cloud_gone, at: 25d, for: 1d}
"""


@pytest.mark.slow
def test_a_month_of_ten_devices_twice(tmp_path: Path) -> None:
    """Each run takes less than three minutes, loses nothing, and leaves the same bytes."""
    (tmp_path / "month.yaml").write_text(MONTH)
    fleet = load_fleet(tmp_path / "month.yaml", folder=EXAMPLES)

    first, first_s = _timed(fleet, tmp_path / "first")
    second, second_s = _timed(fleet, tmp_path / "second")

    assert first == second
    assert max(first_s, second_s) < LIMIT_S
    devices = msgspec.json.decode(first.splitlines()[-1])["devices"]
    assert len(devices) == 10
    for counts in devices.values():
        assert counts["rows_made"] >= 720
        assert (counts["rows_lost"], counts["duplicates"], counts["windows_missing"]) == (0, 0, 0)


def _timed(fleet: Fleet, folder: Path) -> tuple[bytes, float]:
    began_s = time.monotonic()
    result = play(Engine(fleet, folder), Pacer(None))
    result.write(folder / "result.jsonl")
    return (folder / "result.jsonl").read_bytes(), time.monotonic() - began_s
