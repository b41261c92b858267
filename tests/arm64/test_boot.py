"""A whole arm64 machine: it boots, decides, loses power, boots again and takes an update."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_cloud.config import CloudConfig
from edge_cloud.service import CloudService
from edge_cloud.signing import SigningKey, sign_base
from edge_runtime.bundle import load_bundle
from edge_runtime.config import SyncConfig
from edge_runtime.update.slots import signed_path, write_signed
from edge_simulator.broker import Broker

pytestmark = pytest.mark.arm64

TURBINE = Path(__file__).resolve().parents[2] / "examples/gas_turbine"
ROWS = 900
RATE = 15  # rows a second: one run of the machine takes a minute
LIMIT_S = 240.0
DEVICE = """\
schema: 1
device: vm-1
state: state
streams:
  main:
    source:
      kind: csv
      path: rows.csv
      time: {{start: "2013-01-01T00:00:00Z", step_s: 3600}}
      speed: {speed}
      block: 16
    model: {{bundle: turbine-nox-1.0.0, backend: litert}}
    upload: windows
sync: {{host: 10.0.2.2, port: {port}, protocol: "3.1.1", tls: off}}
trust: {{release_keys: [release.pub]}}
"""


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A broker on this machine's loopback, which the guest sees as 10.0.2.2."""
    with Broker("iotcore", tmp_path / "broker") as broker:
        yield broker.port


@pytest.fixture
def cloud(tmp_path: Path, port: int) -> Iterator[CloudService]:
    """A cloud on that broker."""
    config = CloudConfig(
        store=tmp_path / "store",
        broker=SyncConfig(port=port, protocol="3.1.1"),
        bundles=(TURBINE / "bundles/turbine-nox-1.0.0",),
    )
    service = CloudService(config)
    service.start()
    yield service
    service.stop()


def _disk(folder: Path, release_key: SigningKey, layer_key: SigningKey, port: int) -> Path:
    """Make the device's disk: configuration, signed bundle, key and recording."""
    from vm import make_disk

    files = folder / "files"
    bundle = files / "turbine-nox-1.0.0"
    shutil.copytree(TURBINE / "bundles" / bundle.name, bundle)
    signed = sign_base(release_key, load_bundle(bundle), [layer_key.public], 1)
    write_signed(signed_path(bundle), signed)
    (files / "release.pub").write_text(release_key.public.hex())
    lines = (TURBINE / "gas_turbine_2011_2015.csv").read_text().splitlines()
    (files / "rows.csv").write_text("\n".join(lines[: ROWS + 1]) + "\n")
    (files / "device.yaml").write_text(DEVICE.format(speed=3600 * RATE, port=port))
    disk = folder / "disk.img"
    make_disk(disk, files)
    return disk


def _wait_for(what: str, is_done: Callable[[], bool], machine: Any) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not is_done():
        said = machine.log.read_text(errors="replace")[-1500:]
        assert machine.is_on, f"the machine went off before {what}: {said}"
        assert time.monotonic() < deadline, f"{what} did not happen: {said}"
        time.sleep(0.2)


def test_a_power_cut_loses_nothing_and_an_update_arrives(
    machine_folder: Path, tmp_path: Path, cloud: CloudService, port: int
) -> None:
    """Every row is stored once, and the new base answers the last ones."""
    from vm import Machine

    release_key, layer_key = SigningKey.generate(), SigningKey.generate()
    disk = _disk(tmp_path, release_key, layer_key, port)

    def stored() -> list[int]:
        table = cloud.store.rows("main", device="vm-1")
        return table.columns["index"].tolist() if len(table) else []

    first = Machine(machine_folder, disk, tmp_path / "first.log")
    try:
        _wait_for("the first rows", lambda: len(stored()) >= 60, first)
    finally:
        first.cut()
    before = len(stored())

    bundle = load_bundle(TURBINE / "bundles/turbine-nox-2.0.0")
    cloud.registry.add(bundle, sign_base(release_key, bundle, [layer_key.public], 2))
    cloud.jobs.publish(cloud.registry, bundle.digest)
    second = Machine(machine_folder, disk, tmp_path / "second.log")
    try:
        _wait_for("the end of the recording", lambda: len(stored()) >= ROWS, second)
        _wait_for("the update", lambda: _is_committed(cloud), second)
    finally:
        second.cut()

    assert 60 <= before < ROWS
    assert sorted(stored()) == list(range(ROWS))
    assert cloud.store.gaps() == []
    bases = cloud.store.rows("main", device="vm-1").columns["effective_id"].tolist()
    assert len(set(bases)) == 2
    assert bases[0] != bases[-1]


def _is_committed(cloud: CloudService) -> bool:
    return any(job.state == "committed" for job in cloud.jobs.all())
