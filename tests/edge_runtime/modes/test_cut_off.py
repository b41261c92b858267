"""A device that ends in the midst of it says at its next start what may be missing."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.clock import SystemClock
from edge_runtime.config import load_device
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.modes.writer import most_windows
from edge_runtime.spec import ChannelSpec, ModelSpec, StreamSpec, WindowSpec
from edge_runtime.sync.blocks import Block
from edge_runtime.sync.outbox import Outbox
from edge_runtime.testing.serial import FakeSerial

DEVICE = """\
schema: 1
device: bench-1
state: state
outbox: {commit_s: 0.02, ballast_mb: 0}
streams:
  main:
    source: {kind: serial, port: PORT, format: {kind: delimited, fields: [a, b]}}
    model: {bundle: bundle}
    upload: UPLOAD
sync: {host: 127.0.0.1, port: 9}
"""
_RUN = """
import sys
from edge_runtime.config import load_device
from edge_runtime.modes.edge import EdgeDevice
def tell(name, facts):
    if name == "rows.committed":
        print(facts["position"], flush=True)
EdgeDevice(load_device(sys.argv[1]), on_event=tell).run(drain_s=0.0)
"""


@pytest.fixture
def sensor(tmp_path: Path) -> Iterator[FakeSerial]:
    """A sensor that sends two numbers, a hundred times a second."""
    pytest.importorskip("serial")
    sensor = FakeSerial(tmp_path)
    with sensor.playing(100.0, lambda k: b"%d,%d\n" % (k % 7, k % 3)):
        yield sensor
    sensor.unplug()


def _yaml(folder: Path, upload: str) -> Path:
    path = folder / "device.yaml"
    text = DEVICE.replace("PORT", str(folder / "usb-sensor")).replace("UPLOAD", upload)
    path.write_text(text)
    return path


def _killed(path: Path, commits: int) -> None:
    """Let the device run in a process of its own, and kill it."""
    command = [sys.executable, "-c", _RUN, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as device:
        assert device.stdout is not None
        for _ in range(commits):
            assert device.stdout.readline()
        device.kill()


def _ran(path: Path, commits: int) -> list[tuple[str, object]]:
    """Let it run until so many commits, and end; return what it told."""
    told: list[tuple[str, object]] = []
    enough = threading.Event()

    def tell(name: str, facts: object) -> None:
        told.append((name, facts))
        if sum(name == "rows.committed" for name, _ in told) >= commits:
            enough.set()

    device = EdgeDevice(load_device(path), on_event=tell)
    running = threading.Thread(target=device.run, kwargs={"drain_s": 0.0})
    running.start()
    assert enough.wait(60)
    device.stop()
    running.join(60)
    return told


def _blocks(path: Path) -> list[Block]:
    config = load_device(path)
    state = config.state / "outbox.db"
    outbox = Outbox.open(
        state, epoch=1000, incarnation=1, config=config.outbox, clock=SystemClock()
    )
    with closing(outbox):
        return outbox.pending(limit_bytes=1 << 30)


@pytest.mark.usefixtures("sensor", "bundle")
def test_what_a_live_sensor_may_have_lost_is_a_gap_at_the_next_start(tmp_path: Path) -> None:
    """As many windows as a group commit can hold, and one row for decisions, once."""
    path = _yaml(tmp_path, "windows")
    _killed(path, 3)

    _ran(path, 2)
    told = _ran(path, 2)

    gaps = [
        (block.epoch, block.stream, block.seq0, block.n, block.reason)
        for block in _blocks(path)
        if block.kind == "gap"
    ]
    assert gaps == [(2, "main", 0, 1, "restart"), (2, "main-decisions", 0, 1, "restart")]
    assert "outbox.cut_off" not in [name for name, _ in told]


@pytest.mark.slow
@pytest.mark.usefixtures("sensor", "bundle")
def test_privacy_holds_for_gaps_too(tmp_path: Path) -> None:
    """Where decisions alone may leave the device, nothing tells of estimates."""
    path = _yaml(tmp_path, "decisions")
    _killed(path, 1)

    told = _ran(path, 1)

    gaps = [block.stream for block in _blocks(path) if block.kind == "gap"]
    assert gaps == ["main-decisions"]
    assert [name for name, _ in told].count("outbox.cut_off") == 1


@pytest.mark.usefixtures("sensor", "bundle")
def test_rows_that_went_with_a_corrupt_file_are_a_gap(tmp_path: Path) -> None:
    """Of a live sensor they are gone; one row says so, for nobody knows how many they were."""
    path = _yaml(tmp_path, "windows")
    _ran(path, 1)
    (tmp_path / "state" / "outbox.db").write_bytes(b"garbage" * 1000)

    told = _ran(path, 1)

    gaps = [(block.stream, block.n, block.reason) for block in _blocks(path) if block.kind == "gap"]
    assert gaps == [("main", 1, "corrupt"), ("main-decisions", 1, "corrupt")]
    assert {"outbox.set_aside", "outbox.cut_off"} <= {name for name, _ in told}


def test_a_recording_delivers_again_and_has_no_gap(device_yaml: Callable[..., Path]) -> None:
    """Nothing of it is missing, however its device ended."""
    path = device_yaml("sync: {host: 127.0.0.1, port: 9}")
    text = path.read_text().replace("block: 7", "block: 7\n      speed: 100")
    path.write_text(text)
    _killed(path, 2)

    _ran(path, 2)

    assert [block for block in _blocks(path) if block.kind == "gap"] == []


@pytest.mark.parametrize(("passed_s", "windows"), [(0.0, 1), (0.25, 2), (10.0, 63)])
def test_windows_of_a_time_are_rounded_up(passed_s: float, windows: int) -> None:
    """50 samples a second, a window every 8 of them."""
    spec = ModelSpec(
        name="x", version="1", kind="regressor", labels=("y",), artefacts=(),
        stream=StreamSpec((ChannelSpec("a"),), rate_hz=50.0),
        window=WindowSpec(length=16, hop=8),
    )  # fmt: skip

    assert most_windows(spec, passed_s) == windows
