"""A fleet on one event clock: nothing lost, nothing twice, and the same bytes every time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime import registry
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.sources import Recording
from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame, Table
from edge_simulator.fleet.engine import Engine
from edge_simulator.fleet.load import Fleet
from edge_simulator.fleet.pace import Pacer
from edge_simulator.fleet.play import play
from edge_simulator.fleet.result import Result

MakeFleet = Callable[..., Fleet]

CHAOS = """\
faults:
  - {fault: cut, per_day: 1500, for: 10s}
  - {fault: half_open, per_day: 700, for: 20s}
  - {fault: drop, per_day: 4000}
  - {fault: delay, seconds: 3, per_day: 700, for: 15s}
  - {fault: throttle, bytes_per_s: 300, per_day: 700, for: 15s}
  - {fault: loss, share: 0.5, per_day: 1500, for: 15s}
  - {fault: duplicate, share: 0.5, per_day: 1500, for: 15s}
  - {fault: power_off, per_day: 1500, for: 3s}
  - {fault: clock_unset, per_day: 700, for: 15s}
  - {fault: clock_offset, seconds: 1e6, per_day: 700, for: 15s}
  - {fault: clock_jump, seconds: -5000, per_day: 2000}
  - {fault: disk_full, per_day: 700, for: 10s}
  - {fault: cloud_gone, at: 50s, for: 10s}
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Fleet], Result]:
    """Run a fleet in a folder of its own."""
    runs: list[Path] = []

    def start(fleet: Fleet) -> Result:
        runs.append(tmp_path / f"run-{len(runs)}")
        return play(Engine(fleet, runs[-1]), Pacer(None))

    return start


def _events(result: Result, name: str) -> list[dict[str, object]]:
    entries = [msgspec.json.decode(line) for line in result.lines]
    return [entry for entry in entries if entry["event"] == name]


def test_what_a_fleet_reads_arrives(make_fleet: MakeFleet, run: Callable[[Fleet], Result]) -> None:
    """Two minutes at one sample a second are 121 samples, and as many windows but four."""
    result = run(make_fleet())

    counts = result.counts["pump-1"]
    assert counts.rows_made == 121 - 4 + counts.decisions
    # The sample of the last instant is not committed before the end.
    assert counts.rows_arrived + counts.rows_waiting == counts.rows_made
    assert counts.rows_waiting <= 2
    assert counts.decisions >= 2
    assert (counts.rows_lost, counts.duplicates, counts.windows_missing) == (0, 0, 0)


def test_the_same_file_gives_the_same_bytes(
    make_fleet: MakeFleet, run: Callable[[Fleet], Result], tmp_path: Path
) -> None:
    """With every kind of fault by chance, two runs leave the same file, byte for byte."""
    for name in ("first", "second"):
        run(make_fleet(CHAOS)).write(tmp_path / name)

    first = (tmp_path / "first").read_bytes()
    assert first == (tmp_path / "second").read_bytes()
    assert first.count(b"fault.began") > 15


def test_messages_that_are_lost_or_doubled_cost_and_double_no_row(
    make_fleet: MakeFleet, run: Callable[[Fleet], Result]
) -> None:
    """What does not arrive is sent again, what arrives twice is known; only that takes longer."""
    faults = """\
faults:
  - {fault: loss, share: 0.6, at: 10s, for: 60s}
  - {fault: duplicate, share: 0.6, at: 20s, for: 60s}
"""

    result, calm = run(make_fleet(faults)), run(make_fleet())

    for name, counts in result.counts.items():
        assert counts.rows_made == calm.counts[name].rows_made
        assert (counts.rows_lost, counts.duplicates, counts.windows_missing) == (0, 0, 0)
        assert counts.rows_arrived + counts.rows_waiting == counts.rows_made
        assert counts.rows_waiting <= 2
        assert counts.backlog_peak > calm.counts[name].backlog_peak


def test_another_seed_gives_other_faults(
    make_fleet: MakeFleet, run: Callable[[Fleet], Result]
) -> None:
    """Chance comes from the seed, and decisions do not depend on it."""
    fleet = make_fleet(CHAOS)
    first, second = run(fleet), run(msgspec.structs.replace(fleet, seed=99))

    assert _events(first, "fault.began") != _events(second, "fault.began")
    said = [
        {(str(e["device"]), e["index"], e["edge"]) for e in _events(result, "decision")}
        for result in (first, second)
    ]
    # What was made last may still be unread where the device was off at the end.
    assert len(said[0] ^ said[1]) <= 6


@given(seed=st.integers(0, 10**6))
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_chain_of_faults_loses_or_doubles_a_row(
    make_fleet: MakeFleet, run: Callable[[Fleet], Result], seed: int
) -> None:
    """Whatever happens in whatever order: every window is answered once and is kept."""
    result = run(msgspec.structs.replace(make_fleet(CHAOS), seed=seed))

    for counts in result.counts.values():
        assert (counts.rows_lost, counts.duplicates, counts.windows_missing) == (0, 0, 0)
        assert counts.gap_rows == 0
        assert counts.rows_made <= counts.rows_arrived + counts.rows_waiting


def test_rows_wait_while_the_link_is_cut(
    make_fleet: MakeFleet, run: Callable[[Fleet], Result]
) -> None:
    """The device decides on, its backlog grows row by row, and is empty again afterwards."""
    more = (
        "faults:\n  - {fault: cut, at: 20s, for: 60s, devices: [pump-1]}\n"
        "expect:\n  - {what: backlog, at: 75s, devices: [pump-1], at_least: 1}\n"
    )

    result = run(make_fleet(more))

    assert 54 <= result.probes[0] <= 65
    assert result.counts["pump-1"].backlog <= 2
    assert result.counts["pump-2"].backlog_peak < 5
    links = [(e["at_ns"], e["is_connected"]) for e in _events(result, "link")]
    assert (20 * 10**9, False) in links and (80 * 10**9, True) in links


@pytest.mark.parametrize(
    ("fault", "least"),
    [
        ("{fault: half_open, at: 20s, for: 100s}", 70),
        ("{fault: cloud_gone, at: 20s, for: 100s}", 70),
        ("{fault: power_off, at: 20s, for: 100s}", 70),
        ("{fault: disk_full, at: 20s, for: 100s}", 70),
        ("{fault: throttle, bytes_per_s: 20, at: 20s, for: 100s}", 15),
    ],
)
def test_a_fault_keeps_rows_from_the_cloud(
    make_fleet: MakeFleet, run: Callable[[Fleet], Result], fault: str, least: int
) -> None:
    """Each of them holds rows back: stopped while it lasts, far fewer rows have arrived."""
    result = run(make_fleet(f"faults:\n  - {fault}\n", edit=("duration: 2min", "duration: 100s")))

    for counts in result.counts.values():
        assert counts.rows_arrived <= 100 - least
        assert counts.rows_lost == 0


def test_a_delay_is_as_long_as_it_says(
    make_fleet: MakeFleet, run: Callable[[Fleet], Result]
) -> None:
    """With ten seconds each way, rows of about the last ten seconds have not arrived."""
    fault = "faults:\n  - {fault: delay, seconds: 10, at: 1s, for: 10min}\n"

    counts = run(make_fleet(fault)).counts["pump-1"]

    assert 8 <= counts.rows_made - counts.rows_arrived <= 14


def test_a_power_cut_takes_what_was_not_committed_and_no_more(
    make_fleet: MakeFleet, tmp_path: Path
) -> None:
    """The files are those of the instant; the device starts in a new epoch and goes on."""
    engine = Engine(make_fleet(), tmp_path / "run")
    engine.start()
    while engine.advance(50 * 10**9 + 100):
        pass
    device = engine.devices["pump-1"]
    before = sorted(path.name for path in (tmp_path / "run/devices/pump-1").iterdir())

    device.power_off()

    after = sorted(path.name for path in (tmp_path / "run/devices/pump-1").iterdir())
    assert before == after
    assert "outbox.db-wal" in after
    assert not device.is_on
    device.power_on()
    # The sample of second 50 was read, and not yet committed.
    assert device.answers["main"].serving.position == 50
    engine.close()


def test_an_unset_clock_dates_rows_and_no_decision(
    make_fleet: MakeFleet, run: Callable[[Fleet], Result]
) -> None:
    """A device that believes in 1970 gives the same answers to the same samples."""
    right = run(make_fleet())
    unset = run(make_fleet("faults:\n  - {fault: clock_unset, at: 30s, for: 60s}\n"))

    for name in right.counts:
        assert right.counts[name].arrived_sha256 == unset.counts[name].arrived_sha256
    assert {counts.starts for counts in unset.counts.values()} == {2}


def test_a_sensor_fault_changes_what_is_read_while_it_lasts(
    make_fleet: MakeFleet, run: Callable[[Fleet], Result]
) -> None:
    """The stream's source has the fault's options, and its own again afterwards."""
    fault = "{fault: sensor, at: 40s, for: 30s, stream: main, options: {columns: {a: b, b: b}}}"
    right, wrong = run(make_fleet()), run(make_fleet(f"faults:\n  - {fault}\n"))

    changed = {
        int(str(e["index"]))
        for e in _events(right, "decision") + _events(wrong, "decision")
        if e["device"] == "pump-1"
        and not any(
            (e["index"], e["edge"], e["value"]) == (o["index"], o["edge"], o["value"])
            for o in _events(right if e in _events(wrong, "decision") else wrong, "decision")
        )
    }
    assert changed
    assert min(changed) >= 40 and max(changed) <= 80


def test_a_source_without_a_pace_is_refused(
    make_fleet: MakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps its own time cannot be driven by an event clock, and the message says so."""
    engine = Engine(make_fleet(), tmp_path / "run")
    create = registry.create
    monkeypatch.setattr(
        registry, "create", lambda group, *a: object() if group == "sources" else create(group, *a)
    )

    with pytest.raises(ConfigError, match="keeps its own time"):
        engine.start()

    engine.close()


def test_a_fault_by_hand_begins_and_ends(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """The same key that breaks a link mends it, also one that a schedule broke."""
    engine = Engine(make_fleet("faults:\n  - {fault: cut, at: 0s, for: 1min}\n"), tmp_path / "run")
    engine.start()
    while engine.advance(10 * 10**9):
        pass
    cut = engine.fleet.faults[0]

    kinds = []
    for _ in range(3):
        kinds.append(engine.troubles["pump-1"].kinds)
        engine.toggle("pump-1", cut)

    assert kinds == [("cut",), (), ("cut",)]
    engine.close()


def test_a_cloud_that_forgets_is_found_out(
    make_fleet: MakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were acknowledged and are not there are lost; rows stored twice are duplicates."""
    engine = Engine(make_fleet(), tmp_path / "run")
    keep, seen = engine.ledger.arrived, list[int]()

    def careless(device: str, stream: str, table: Table) -> None:
        seen.append(len(table))
        for _ in range({10: 0, 20: 2}.get(len(seen), 1)):
            keep(device, stream, table)

    monkeypatch.setattr(engine.ledger, "arrived", careless)

    result = play(engine, Pacer(None))

    assert result.total("rows_lost", ["pump-1", "pump-2"]) == seen[9]
    assert result.total("duplicates", ["pump-1", "pump-2"]) == seen[19]


class _Loose:
    """A recording whose plug comes loose at one sample, until it was opened three times more."""

    def __init__(self, source: Recording, at: int) -> None:
        self._source = source
        self._at = at
        self._opened = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "pace":
            self._source.pace = value  # type: ignore[assignment]
        super().__setattr__(name, value)

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        self._opened += 1
        self._source.open(stream, need, index)

    def read(self, timeout_s: float) -> Frame | None:
        frame = self._source.read(timeout_s)
        if frame is not None and frame.index >= self._at and self._opened < 4:
            raise SourceError("unplugged")
        return frame


def test_a_source_that_fails_is_opened_again(
    make_fleet: MakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the real reader: after growing waits, at the sample that was not delivered."""
    create = registry.create

    def loose(group: registry.Group, *rest: Any) -> object:
        made = create(group, *rest)
        return _Loose(made, 40) if group == "sources" else made

    monkeypatch.setattr(registry, "create", loose)

    result = play(Engine(make_fleet(), tmp_path / "run"), Pacer(None))

    assert len(_events(result, "source.failed")) == len(_events(result, "source.recovered")) == 2
    assert result.total("windows_missing", ["pump-1", "pump-2"]) == 0
    assert result.total("rows_made", ["pump-1"]) >= 121 - 4


def test_what_a_device_drops_is_a_gap_and_no_loss(
    make_fleet: MakeFleet, run: Callable[[Fleet], Result]
) -> None:
    """Rows that grew too old during a cut are declared, and counted as declared."""
    old = ("      streams:", "      outbox: {max_age_s: 10}\n      streams:")

    result = run(make_fleet("faults:\n  - {fault: cut, at: 20s, for: 60s}\n", edit=old))

    for name, counts in result.counts.items():
        told = sum(int(str(e["rows"])) for e in _events(result, "gap") if e["device"] == name)
        assert counts.gap_rows == told
        assert 40 <= counts.gap_rows <= 60
        assert (counts.rows_lost, counts.duplicates) == (0, 0)


@given(steps=st.lists(st.integers(1, 40 * 10**9), max_size=8))
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_pace_changes_nothing(
    make_fleet: MakeFleet, run: Callable[[Fleet], Result], tmp_path: Path, steps: list[int]
) -> None:
    """However simulated time is cut into pieces, the same things happen in the same order."""
    fleet = make_fleet(CHAOS, edit=("duration: 2min", "duration: 55s"))
    engine = Engine(fleet, tmp_path / f"paced-{len(list(tmp_path.iterdir()))}")
    engine.start()
    for upto_ns in [*itertools.accumulate(steps), fleet.duration_ns]:
        while engine.advance(upto_ns):
            pass

    paced = engine.finish()
    engine.close()

    whole = run(fleet)
    assert paced.lines == whole.lines
    assert paced.summary() == whole.summary()
