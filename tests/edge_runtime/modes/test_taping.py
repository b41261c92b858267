"""A device that records: killed anywhere, out of disk, with a model that fails."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from edge_runtime.config import RecordConfig, RingConfig, load_device
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.tape import open_tapes

from .conftest import LENGTH, ROWS, replayed  # isort: skip


class OddDevice(Protocol):
    """What the fixture gives."""

    folder: Path

    def base(self, version: str, **model: object) -> object: ...

    def declare(self, odd: str = "", *, extra: str = "") -> Path: ...


RUN = (
    "import sys\n"
    "from edge_runtime.config import load_device\n"
    "from edge_runtime.modes.edge import EdgeDevice\n"
    "def tell(name, facts):\n"
    "    if name == 'rows.committed': print(facts['position'], flush=True)\n"
    "EdgeDevice(load_device(sys.argv[1]), on_event=tell).run(drain_s=0.0)\n"
)


def test_killed_anywhere_what_was_answered_can_bereplayed(
    device_yaml: Callable[..., Path],
) -> None:
    """SIGKILL at random instants: the tapes of all starts together hold every window."""
    path = device_yaml("record: {}")
    path.write_text(path.read_text().replace("block: 7", "block: 7\n      speed: 400"))
    dice = random.Random(5)
    killed = 0

    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", RUN, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(dice.randint(2, 12)):
            child.stdout.readline()
        child.kill()
        child.wait()
        child.stdout.close()
        killed += child.returncode == -signal.SIGKILL
    EdgeDevice(load_device(path)).run(drain_s=0.0)

    tapes = open_tapes(load_device(path).recording)
    report = replayed(load_device(path).recording)["main"]
    epochs = {segment.origin.epoch for segment in tapes["main"].segments}
    assert killed >= 3
    assert len(epochs) == 7
    assert report.is_equal
    assert report.comparison.windows >= ROWS - LENGTH + 1


def test_nothing_is_recorded_unless_it_is_asked_for(device_yaml: Callable[..., Path]) -> None:
    """Raw data stays in memory by default."""
    path = device_yaml()

    EdgeDevice(load_device(path)).run(drain_s=0.0)

    assert not load_device(path).recording.exists()


@pytest.mark.usefixtures("one_by_one")
def test_a_disk_without_room_stops_the_recording_and_nothing_else(
    device_yaml: Callable[..., Path],
) -> None:
    """Every window is answered; the frames that are not kept are counted with their reason."""
    path = device_yaml("record: {keep_free_mb: 1000000000}")
    device = EdgeDevice(load_device(path))

    device.run(drain_s=0.0)

    assert device.status().streams["main"].estimates == ROWS - LENGTH + 1
    assert device._tapes["main"].discarded == {"disk_full": -(-ROWS // 7)}
    assert device._tapes["main"].size_bytes == 0
    assert device.status().counters["tape_frames_discarded"] == -(-ROWS // 7)


@pytest.mark.usefixtures("one_by_one")
def test_frames_that_a_failed_model_did_not_answer_are_told_apart(
    odd_device: OddDevice, misbehaving_here: str
) -> None:
    """A model that fails in between: what the device answered is what the replay answers."""
    odd_device.base("1", do="fail", after=100, once=str(odd_device.folder / "failed"))
    path = odd_device.declare(extra="record: {}")

    EdgeDevice(load_device(path)).run(drain_s=0.0)

    report = replayed(load_device(path).recording)
    assert report["odd"].passed == 1
    assert report["odd"].is_equal and report["calm"].is_equal
    assert report["odd"].windows < report["calm"].windows


@pytest.mark.parametrize(
    ("device", "stream", "expected"),
    [
        ("", "", None),
        ("", "record: true", RecordConfig()),
        ("", "record: {quota_mb: 3}", RingConfig(3)),
        ("record: {quota_mb: 9}", "", RecordConfig(9)),
        ("record: {quota_mb: 9}", "record: true", RecordConfig(9)),
        ("record: {quota_mb: 9}", "record: false", None),
        ("record: {quota_mb: 9}", "record: {max_age_s: 60}", RingConfig(256, 60)),
    ],
)
def test_a_stream_may_say_otherwise_than_its_device(
    device_yaml: Callable[..., Path], device: str, stream: str, expected: RingConfig | None
) -> None:
    """What a stream says about its recording counts, else what the device says."""
    path = device_yaml(device)
    lines = path.read_text().replace("    model:", f"    {stream}\n    model:")
    path.write_text(lines)

    assert load_device(path).ring("main") == expected
