"""The load of the sync benchmarks: devices that a real ingest takes for devices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Load = Callable[[str], ModuleType]


@pytest.mark.mosquitto
def test_every_frame_of_the_load_is_answered_and_stored(load: Load, tmp_path: Path) -> None:
    """Ten devices on one asyncio loop, three frames each, through broker and ingest."""
    sync = load("sync")
    devices = sync._Load(10, every_s=0.1, seconds=0.3)

    with sync._broker() as port, sync._cloud(tmp_path, port):
        asyncio.run(devices.run(port))

    assert devices.unanswered == 0
    assert len(devices.latencies_s) == 30
    assert sync._stored_rows(tmp_path) == 30 * sync._ROWS_OF_A_FRAME


def test_a_device_sends_as_often_as_its_time_allows(load: Load) -> None:
    """Devices are spread evenly, and those whose turn does not come send nothing."""
    sync = load("sync")

    devices = sync._Load(6, every_s=60.0, seconds=30.0)

    assert [len(frames) for frames in devices._payloads.values()] == [1, 1, 1, 0, 0, 0]
