"""A board is measured once, and from then on every report knows how long it takes there."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edge_cloud.config import CloudConfig
from edge_cloud.service import CloudService
from edge_runtime.bundle import load_bundle
from edge_runtime.cli import main
from edge_runtime.config import SyncConfig, load_device
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.sync.board_times import DeviceTimes, read_times

from .conftest import FIRST_ROW, LIMIT_S, TURBINE, PortBroker

BUNDLE = TURBINE / "bundles/turbine-nox-1.0.0"
INT8 = BUNDLE / "model_int8.tflite"


class Plant:
    """Devices that run the turbine's base, and a cloud that knows it, on a real broker."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.store = folder / "store"
        self.yaml = folder / "cloud.yaml"
        self.yaml.write_text(
            f"schema: 1\nstore: {self.store}\nbroker: {{port: {port}}}\nbundles: [{BUNDLE}]\n"
        )

    def tune(self, name: str) -> None:
        profiles = self.folder / name / "profiles"
        words = ["tune", str(BUNDLE), "--seconds", "0.3", "--profiles", str(profiles), "--json"]
        assert main(words) == 0

    @contextmanager
    def device(self, name: str) -> Iterator[EdgeDevice]:
        path = self.folder / f"{name}.yaml"
        path.write_text(
            f"""\
schema: 1
device: {name}
state: {self.folder / name}
streams:
  turbine:
    source:
      kind: csv
      path: {TURBINE / "gas_turbine_2011_2015.csv"}
      first_row: {FIRST_ROW}
      time: {{start: "2013-01-01T00:00:00Z", step_s: 3600.0}}
    model: {{bundle: {BUNDLE}}}
    upload: none
sync: {{host: 127.0.0.1, port: {self.port}, protocol: "3.1.1"}}
"""
        )
        device = EdgeDevice(load_device(path))
        running = threading.Thread(target=device.run, kwargs={"stays": True})
        running.start()
        try:
            yield device
        finally:
            device.stop()
            running.join(LIMIT_S)
            assert not running.is_alive()

    @contextmanager
    def cloud(self) -> Iterator[None]:
        broker = SyncConfig(port=self.port, protocol="3.1.1")
        service = CloudService(CloudConfig(store=self.store, broker=broker, bundles=(BUNDLE,)))
        service.start()
        try:
            yield
        finally:
            service.stop()

    def answers(self, n: int) -> list[DeviceTimes]:
        """Wait until so many devices have answered."""
        deadline = time.monotonic() + LIMIT_S
        pause = threading.Event()
        while len(told := list(read_times(self.store))) < n:
            assert time.monotonic() < deadline, f"only {told} came"
            pause.wait(0.02)
        return told


@pytest.fixture
def plant(port_broker: PortBroker, tmp_path: Path) -> Plant:
    """The broker is there; nobody else is."""
    port_broker.start()
    return Plant(tmp_path, port_broker.port)


@pytest.mark.slow
def test_two_boards_answer_over_the_link_and_the_report_says_measured(
    plant: Plant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tuned, connected, listed, exported, and read by ``convert`` from the store and the file.

    The second device is of the same machine; the third was never measured, and says nothing.
    """
    for name in ("turbine-1", "turbine-2"):
        plant.tune(name)
    capsys.readouterr()
    with plant.cloud(), ExitStack() as stack:
        for name in ("turbine-1", "turbine-2", "turbine-3"):
            stack.enter_context(plant.device(name))
        told = plant.answers(2)

    assert [(one.device, one.refused) for one in told] == [("turbine-1", ""), ("turbine-2", "")]
    assert {one.times.base for one in told} == {load_bundle(BUNDLE).digest}
    assert main(["cloud", "boards", str(plant.yaml), "--json"]) == 0
    exported = tmp_path / "boards.json"
    exported.write_text(capsys.readouterr().out)
    assert len(json.loads(exported.read_text())) == 2
    for bench in (plant.store, exported):
        output = tmp_path / "again"
        words = ["convert", str(INT8), "--precision", "as-is", "-o", str(output), "--quiet"]
        assert main([*words, "--target", "desktop", "--bench", str(bench)]) == 0
        assert "measured on 2 boards (desktop), 2 runs" in capsys.readouterr().out
        page = (tmp_path / "again-report" / "report.html").read_text()
        assert "Latency on desktop: measured on 2 boards" in page
        shutil.rmtree(output)


@pytest.mark.slow
def test_an_answer_waits_at_the_broker_for_a_cloud_that_is_away(plant: Plant) -> None:
    """The device has come and gone before the cloud is there: what it said was retained."""
    plant.tune("turbine-1")
    with plant.device("turbine-1") as device:
        deadline = time.monotonic() + LIMIT_S
        pause = threading.Event()
        while not device.status().is_connected:
            assert time.monotonic() < deadline
            pause.wait(0.02)

    with plant.cloud():
        (told,) = plant.answers(1)

    assert (told.device, told.refused) == ("turbine-1", "")
    assert {file.backend for file in told.times.files} == {"litert", "onnx"}
