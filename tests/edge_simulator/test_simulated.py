"""A simulated sensor on the real device code: replayed, paced, unplugged and plugged in again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime import registry
from edge_runtime.bundle import Golden, save_bundle, write_arrays, write_golden
from edge_runtime.clock import SystemClock
from edge_runtime.config import load_device
from edge_runtime.config.check import check_device
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.modes import reader
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.ports import Source
from edge_runtime.quality import MASK, Quality, joined_masks, names_of_mask
from edge_runtime.spec import ArtefactSpec, ChannelSpec, ModelSpec, StreamSpec, WindowSpec
from edge_runtime.sync.frames import decode_table
from edge_runtime.sync.outbox import Outbox
from edge_runtime.testing import FakeClock, check_source, read_all
from edge_runtime.types import Frame
from edge_simulator.control import Gate
from edge_simulator.simulated import SimulatedConfig, SimulatedSource, sensor_of

RATE_HZ = 10.0
CHANNELS = (ChannelSpec("x"), ChannelSpec("y"))
NEED = StreamSpec(CHANNELS, RATE_HZ)
SIGNAL = {
    "kind": "sine",
    "rate_hz": RATE_HZ,
    "channels": [{"name": "x"}, {"name": "y"}],
    "tone_hz": 0.3,
}
START_NS = 1_704_067_200_000_000_000
UNPLUG = {"kind": "unplug", "active": [{"from_s": 2, "to_s": 5}]}
DROPOUT = {"kind": "dropout", "share": 0.3, "leaves": "missing"}
STUCK = {"kind": "stuck", "active": [{"from_s": 10, "to_s": 20}]}
CLIPPED = {"kind": "saturation", "full_scale": 0.5, "active": [{"from_s": 30}]}
HOLES = {"kind": "dropout", "share": 0.3}


def _config(*faults: dict[str, Any], **options: Any) -> SimulatedConfig:
    options = {"signal": SIGNAL, "speed": "max", "duration_s": 60, "faults": faults, **options}
    config = registry.configure("sources", "simulated", options)
    assert isinstance(config, SimulatedConfig)
    return config


def _source(
    *faults: dict[str, Any], clock: FakeClock | None = None, **options: Any
) -> SimulatedSource:
    return SimulatedSource(_config(*faults, **options), clock=clock)


def _opened(*faults: dict[str, Any], **options: Any) -> SimulatedSource:
    source = _source(*faults, **options)
    source.open("s", NEED, options.get("index", 0))
    return source


def _read_through(source: SimulatedSource) -> tuple[list[Frame], int]:
    """Read to the end as a device does: open again after an error; return frames and errors."""
    frames: list[Frame] = []
    position, errors = 0, 0
    while not source.is_exhausted:
        try:
            frame = source.read(0.0)
        except SourceError:
            errors += 1
            source.close()
            source.open("s", NEED, position)
            continue
        if frame is None:
            # Behind its last gap it finds that nothing is left.
            assert source.is_exhausted
            break
        frames.append(frame)
        position = frame.index + len(frame)
    return frames, errors


@given(
    st.integers(1, 700),
    st.lists(st.integers(0, 620), min_size=1, max_size=3),
    st.sampled_from([(), (DROPOUT,), (HOLES,), (DROPOUT, HOLES), (STUCK, DROPOUT, CLIPPED)]),
)
@settings(max_examples=25)
def test_it_keeps_the_contract_of_a_source(
    block: int, resume_at: list[int], faults: tuple[dict[str, Any], ...]
) -> None:
    """Opened at any index, with any block and missing samples, it goes on exactly there."""

    def make() -> Source:
        return _source(*faults, block=block)

    check_source(make, NEED, resume_at=resume_at)


def test_frames_carry_the_signal_and_its_times() -> None:
    """Sample n is at start plus n periods; truth can be joined by time."""
    config = _config(start="2024-01-01T00:00:00Z", block=100)
    source = SimulatedSource(config)
    source.open("s", NEED, 0)

    frames = read_all(source)

    samples = np.concatenate([frame.samples for frame in frames])
    times = np.concatenate([frame.time_ns for frame in frames])
    assert samples.tobytes() == sensor_of(config).read(0, 600).tobytes()
    assert times.tolist() == [START_NS + n * 100_000_000 for n in range(600)]
    assert {frame.step_ns for frame in frames} == {100_000_000}


def test_needed_channels_come_in_the_model_s_order() -> None:
    """A model may need fewer channels, in another order."""
    source = _source()

    source.open("s", StreamSpec((ChannelSpec("y"),), RATE_HZ), 0)

    frame = source.read(0.0)
    assert frame is not None
    expected = sensor_of(_config()).read(0, 256)
    assert frame.samples.tolist() == expected[:, 1:].tolist()


def test_missing_samples_leave_gaps_in_time_but_none_in_the_index() -> None:
    """The index counts what was delivered."""
    frames = read_all(_opened(DROPOUT))

    times = np.concatenate([frame.time_ns for frame in frames])
    count = sum(map(len, frames))
    assert count == pytest.approx(0.7 * 600, abs=40)
    assert frames[-1].index + len(frames[-1]) == count
    assert np.diff(times).max() > 100_000_000
    assert not np.isnan(np.concatenate([frame.samples for frame in frames])).any()
    assert any(frame.step_ns is None for frame in frames)


def _masks(frames: list[Frame]) -> list[int]:
    joined = joined_masks((frame.quality, len(frame)) for frame in frames)
    return [0] * sum(map(len, frames)) if joined is None else joined.tolist()


def test_a_sensor_that_is_well_marks_nothing() -> None:
    """Frames look as if there were no marks at all."""
    frames = read_all(_opened())

    assert all(frame.quality is None for frame in frames)


@pytest.mark.parametrize(("frozen_s", "patience"), [(0.1, 3), (1.0, 10)])
def test_a_sensor_that_is_stuck_is_marked_as_soon_as_it_can_be_known(
    frozen_s: float, patience: int
) -> None:
    """The reading before the fault is repeated; so often it is no proof, then it is."""
    frames = read_all(_opened(STUCK, frozen_s=frozen_s))

    first = 99 + patience
    expected = [Quality.FROZEN if first <= n < 200 else 0 for n in range(600)]
    assert _masks(frames) == expected


@pytest.mark.parametrize(
    ("faults", "need"),
    [
        ([STUCK | {"channels": ["x"]}], NEED),
        ([STUCK, {"kind": "noise", "rms": 0.1}], NEED),
        ([STUCK | {"channels": ["x"]}], StreamSpec(CHANNELS[1:], RATE_HZ)),
    ],
    ids=["one channel moves", "noise behind it", "another channel is delivered"],
)
def test_a_sensor_whose_readings_still_move_is_not_frozen(
    faults: list[dict[str, Any]], need: StreamSpec
) -> None:
    """The driver of a real part could not know it either."""
    source = _source(*faults)
    source.open("s", need, 0)

    assert not any(_masks(read_all(source)))


def test_two_faults_can_freeze_a_sensor_together() -> None:
    """Each holds one channel; marked is when both do."""
    other = {"kind": "stuck", "channels": ["y"], "active": [{"from_s": 15, "to_s": 25}]}
    frames = read_all(_opened(STUCK | {"channels": ["x"]}, other))

    expected = [Quality.FROZEN if 159 <= n < 200 else 0 for n in range(600)]
    assert _masks(frames) == expected


def test_what_is_clipped_is_marked_where_it_is_clipped() -> None:
    """A reading below the full scale is right, and one before the fault too."""
    frames = read_all(_opened(CLIPPED))

    samples = np.concatenate([frame.samples for frame in frames])
    expected = (np.abs(samples) >= 0.5).any(axis=1) & (np.arange(600) >= 300)
    assert 0 < expected[300:].sum() < 300
    assert _masks(frames) == np.where(expected, int(Quality.SATURATED), 0).tolist()


def test_a_converter_at_its_end_is_marked() -> None:
    """A machine that shakes more than its sensor can follow."""
    signal = {"kind": "rotating", "adc": {"full_scale_g": 0.2, "bits": 8}}
    source = _source(signal=signal, duration_s=1.0)

    source.open("s", StreamSpec((ChannelSpec("x"),), 3200.0), 0)
    frames = read_all(source)

    samples = np.concatenate([frame.samples for frame in frames])
    at_end = (samples == samples.max()) | (samples == samples.min())
    assert samples.min() == np.float32(-0.2)
    expected = np.where(at_end.any(axis=1), int(Quality.SATURATED), 0)
    assert _masks(frames) == expected.tolist()
    assert 0 < np.count_nonzero(expected) < len(expected)


def test_the_first_sample_behind_missing_ones_is_marked() -> None:
    """Whether they were lost one by one or the sensor was unplugged; nothing was due before 0."""
    frames, _ = _read_through(_opened(UNPLUG, DROPOUT, block=7))

    times = np.concatenate([frame.time_ns for frame in frames])
    numbers = (times - START_NS) // 100_000_000
    gaps = np.diff(numbers, prepend=-1 if numbers[0] == 0 else -2) > 1
    assert _masks(frames) == np.where(gaps, int(Quality.LOST_BEFORE), 0).tolist()


def test_unpaced_an_unplugged_sensor_raises_once_and_is_plugged_in_again() -> None:
    """No sample of the gap is delivered, none around it is lost, and the index has no hole."""
    frames, errors = _read_through(_opened(UNPLUG, block=7))

    times = np.concatenate([frame.time_ns for frame in frames])
    numbers = (times - START_NS) // 100_000_000
    indices = np.concatenate([np.arange(f.index, f.index + len(f)) for f in frames])
    assert errors == 1
    assert numbers.tolist() == [*range(20), *range(50, 600)]
    assert indices.tolist() == list(range(570))


@example([(399, 200)], 1, True)
@given(
    st.lists(st.tuples(st.integers(0, 600), st.integers(1, 200)), min_size=1, max_size=4),
    st.integers(1, 100),
    st.booleans(),
)
@settings(max_examples=40)
def test_any_plugging_and_unplugging_loses_nothing_else(
    gaps: list[tuple[int, int]], block: int, is_thin: bool
) -> None:
    """What is delivered is what is present, however often the sensor fails in between."""
    active = [{"from_s": first / 10, "to_s": (first + count) / 10} for first, count in gaps]
    faults = [{"kind": "unplug", "active": active}, *([DROPOUT] if is_thin else [])]
    frames, errors = _read_through(_opened(*faults, block=block))

    present = ~np.isnan(sensor_of(_config(*faults)).read(0, 600)).any(axis=1)
    times = [time for frame in frames for time in frame.time_ns.tolist()]
    assert times == [START_NS + n * 100_000_000 for n in np.flatnonzero(present)]
    assert errors <= len(gaps)
    assert errors >= any(first < 600 for first, _ in gaps)


def test_in_real_time_it_raises_from_the_unplugging_until_it_is_plugged_in() -> None:
    """Event time goes on while the device waits and opens the source again."""
    clock = FakeClock()
    source = _opened(UNPLUG, clock=clock, speed=1.0)
    seen: list[tuple[int, object]] = []

    for second in range(8):
        try:
            frame = source.read(0.0)
            seen.append((second, frame and (frame.index, len(frame))))
        except SourceError:
            seen.append((second, "unplugged"))
            source.close()
            source.open("s", NEED, 20)
        clock.advance(1.0)

    # The samples up to 2 s are due at 2 s; what follows the last of them is the gap.
    assert seen == [
        (0, (0, 1)),
        (1, (1, 10)),
        (2, (11, 9)),
        (3, "unplugged"),
        (4, "unplugged"),
        (5, (20, 1)),
        (6, (21, 10)),
        (7, (31, 10)),
    ]


def test_the_error_says_how_long_and_why() -> None:
    """Whoever reads the log knows that it is a simulation."""
    source = _opened({"kind": "unplug", "active": [{"from_s": 0, "to_s": 5}]})

    with pytest.raises(SourceError, match="unplugged from 0 s of event time to 5 s"):
        source.read(0.0)


def test_a_sensor_that_is_never_plugged_in_again_always_raises() -> None:
    """It neither ends nor delivers."""
    source = _opened({"kind": "unplug"}, duration_s=None)

    for _ in range(3):
        assert not source.is_exhausted
        with pytest.raises(SourceError, match="for ever"):
            source.read(0.0)


def test_a_recording_that_ends_unplugged_ends_after_saying_so() -> None:
    """The end is the end."""
    frames, errors = _read_through(_opened({"kind": "unplug", "active": [{"from_s": 59}]}))

    assert errors == 1
    assert sum(map(len, frames)) == 590


def test_a_driver_s_pace_counts_delivered_samples() -> None:
    """It releases indices; the gap is told when what follows it is released."""
    source = _source(UNPLUG)
    source.pace = gate = Gate()
    source.open("s", NEED, 0)

    gate.release(20)
    frame = source.read(0.0)
    assert frame is not None and len(frame) == 20
    assert source.read(0.0) is None
    gate.release(25)
    with pytest.raises(SourceError):
        source.read(0.0)
    after = source.read(0.0)
    assert after is not None and (after.index, len(after)) == (20, 5)


def test_a_driver_s_pace_is_never_waited_for_long() -> None:
    """It does not notice that the source is closed, so the source looks itself."""

    class Slow:
        asked: float | None = None

        def wait(self, index: int, time_ns: int, timeout_s: float) -> int:
            self.asked = timeout_s
            return 0

    source = _source()
    source.pace = slow = Slow()
    source.open("s", NEED, 0)

    assert source.read(600.0) is None
    assert slow.asked == 0.5


def test_speed_multiplies_time() -> None:
    """At 20x two seconds pass in a tenth."""
    clock = FakeClock()
    source = _opened(clock=clock, speed=20.0)
    source.read(0.0)
    clock.advance(0.1)

    frame = source.read(0.0)

    assert frame is not None and len(frame) == 20


def test_a_recording_ends_where_it_ends() -> None:
    """Neither duration nor block reads past it."""
    turbine = {"kind": "gas_turbine", "first_row": 10, "last_row": 25, "at_end": "end"}
    config = _config(signal=turbine, duration_s=None)
    source = SimulatedSource(config)

    source.open("s", StreamSpec((ChannelSpec("TIT"),), 1 / 3600), 3)

    assert [(frame.index, len(frame)) for frame in read_all(source)] == [(3, 12)]


@pytest.mark.parametrize(
    ("need", "message"),
    [
        (
            StreamSpec(CHANNELS, 20.0),
            "sine: the simulated signal has 10 Hz; expected the model's 20",
        ),
        (StreamSpec((ChannelSpec("z"),), 10.0), "has the channels x, y; expected also z"),
    ],
)
def test_what_the_model_needs_is_compared(need: StreamSpec, message: str) -> None:
    """A wrong rate never reaches a model."""
    with pytest.raises(ConfigError, match=message):
        _source().open("s", need, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 0}, "speed"),
        ({"seed": -1}, "seed"),
        ({"block": 0}, "block"),
        ({"duration_s": 0}, "duration_s"),
        ({"signal": {"kind": "tuba"}}, "tuba"),
        ({"start": "2024-01-01T00:00:00"}, "start"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    """The message names the key."""
    with pytest.raises(ConfigError, match=message):
        _config(**options)


def test_it_needs_no_more_than_a_device_has() -> None:
    """A simulated sensor runs where nothing optional is installed."""
    blocked = ("matplotlib", "scipy", "pyarrow", "duckdb", "iotcore", "onnxruntime", "rich")
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from edge_simulator.signals import RotatingConfig, build_signal\n"
        "import edge_simulator.simulated\n"
        "build_signal(RotatingConfig(), 1).read(0, 1)\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr


@pytest.fixture
def device_yaml(tmp_path: Path) -> Callable[..., Path]:
    """Write a device whose sensor is simulated, with a model that sums three samples."""
    spec = ModelSpec(
        name="sum",
        version="1",
        kind="regressor",
        stream=NEED,
        window=WindowSpec(length=3, hop=1),
        artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
        labels=("total",),
    )
    model = write_arrays({"w0": np.ones((6, 1), np.float32), "b0": np.zeros(1, np.float32)})
    inputs = np.ones((2, 3, 2))
    golden = write_golden(Golden(inputs, np.full((2, 1), 6.0)))
    save_bundle(tmp_path / "bundle", spec, {"model.npz": model, "golden.npz": golden})

    def write(source: str, *more: str, isolation: str = "thread") -> Path:
        path = tmp_path / "device.yaml"
        path.write_text(
            f"device: bench-1\nstate: state\nstreams:\n  main:\n    source: {source}\n"
            f"    model: {{bundle: bundle, isolation: {isolation}}}\n" + "\n".join(more)
        )
        return path

    return write


SOURCE = (
    "{kind: simulated, speed: max, duration_s: 60, faults: [{kind: unplug, active: "
    "[{from_s: 2, to_s: 5}]}], signal: {kind: sine, rate_hz: 10, channels: [{name: x}, {name: y}]}}"
)


def test_a_device_survives_the_unplugging(
    device_yaml: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Edge mode opens the source again; windows on both sides are scored, none spans the gap."""
    monkeypatch.setattr(reader, "_RESTART_S", (0.001, 0.001))
    device = EdgeDevice(load_device(device_yaml(SOURCE)))

    device.run(drain_s=0.0)

    status = device.status().streams["main"]
    assert status.restarts == 1
    assert status.estimates == (20 - 2) + (550 - 2)


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_faulty_sensor_shows_in_everything_that_leaves_the_device(
    tmp_path: Path, device_yaml: Callable[..., Path], isolation: str
) -> None:
    """Status, a file of results and the rows for the cloud tell the same windows apart."""
    unplug = "{kind: unplug, active: [{from_s: 2, to_s: 5}]}"
    bad = (
        "{kind: stuck, active: [{from_s: 10, to_s: 20}]},"
        "{kind: saturation, full_scale: 0.5, active: [{from_s: 30}]}"
    )
    more = (
        "    upload: windows",
        "sync: {host: 127.0.0.1, port: 9}",
        f"sinks: [{{kind: jsonl, path: {tmp_path / 'out.jsonl'}}}]",
    )
    path = device_yaml(SOURCE.replace(unplug, bad), *more, isolation=isolation)
    samples = np.array(_masks(read_all(_opened(STUCK, CLIPPED))))
    expected = samples[:-2] | samples[1:-1] | samples[2:]

    device = EdgeDevice(load_device(path))
    device.run(drain_s=0.0)

    status = device.status().streams["main"]
    assert status.suspect == {
        "frozen": np.count_nonzero(expected & Quality.FROZEN),
        "saturated": np.count_nonzero(expected & Quality.SATURATED),
    }
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    names = [line.get("quality", []) for line in lines if line["kind"] == "estimate"]
    assert names == [names_of_mask(mask) for mask in expected.tolist()]
    assert _sent_masks(path) == expected.tolist()


def _sent_masks(path: Path) -> list[int]:
    """Return the masks of the rows that wait for the cloud, 0 where there are none."""
    config = load_device(path)
    outbox = Outbox.open(
        config.state / "outbox.db",
        epoch=10**6,
        incarnation=1,
        config=config.outbox,
        clock=SystemClock(),
    )
    blocks = outbox.pending(limit_bytes=10**9)
    outbox.close()
    tables = [decode_table(block.body) for block in blocks if block.kind == "estimate"]
    masks = [table.columns.get("quality", np.zeros(len(table), MASK)) for table in tables]
    return np.concatenate(masks).tolist()


def test_check_compares_it_with_the_model(device_yaml: Callable[..., Path]) -> None:
    """Rate and channels are known before anything is opened; errors have line and column."""
    assert check_device(load_device(device_yaml(SOURCE))).streams[0].source == "simulated"
    wrong_rate = load_device(device_yaml(SOURCE.replace("rate_hz: 10", "rate_hz: 20")))
    with pytest.raises(ConfigError, match=r"delivers 20 Hz, but model sum@1 needs 10 Hz"):
        check_device(wrong_rate)
    with pytest.raises(ConfigError, match=r"device.yaml:5:\d+: (.|\n)*unplugged"):
        load_device(device_yaml(SOURCE.replace("kind: unplug", "kind: unplugged")))


def test_paths_of_recordings_are_relative_to_the_file(
    tmp_path: Path, device_yaml: Callable[..., Path]
) -> None:
    """As everywhere in a device's YAML."""
    signal = "{kind: recording, path: rows.csv, rate_hz: 10, channels: [{name: x}, {name: y}]}"
    options = (
        load_device(device_yaml(f"{{kind: simulated, signal: {signal}}}")).streams["main"].source
    )

    assert options["signal"]["path"] == str(tmp_path / "rows.csv")
