"""A device whose certificate is good for a minute renews it while rows flow, and loses none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_cloud.config import load_cloud
from edge_cloud.service import CloudService
from edge_runtime.config import SyncConfig, load_device
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.ports import Clock
from edge_runtime.sync.identity.folder import IdentityFolder, Validity
from edge_runtime.sync.paho import PahoTransport
from edge_simulator.chaos.books import tally
from edge_simulator.chaos.workload import STREAM, write_bundle, write_device, write_recording
from edge_simulator.secured import SecuredCloud

from .conftest import Gate  # isort: skip

DEVICE = "pump-1"
LIFE_S = 60
ROWS = 20_000
PATIENCE_S = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto]


class Scene:
    """A broker with certificates, an ingest with one of its own, and a whole device."""

    def __init__(self, cloud: SecuredCloud, folder: Path) -> None:
        self.cloud = cloud
        self.identity = cloud.enroll(DEVICE)
        self.path = folder / "devices" / f"{DEVICE}.yaml"
        write_bundle(self.path.with_name("sum-1"))
        write_recording(self.path.with_suffix(".npz"), ROWS, seed=3)
        link: dict[str, object] = {"host": "localhost", "port": cloud.broker.port, "tls": "on"}
        write_device(self.path, link, max_age_s=None)
        self.cloud_path = folder / "cloud.yaml"
        self.cloud_path.write_text(
            f"store: {folder}/store\ncompact_s: null\n"
            f"broker: {{host: localhost, port: {cloud.broker.port}, tls: on}}\n"
            f"identity: {{names: [localhost], ca: {cloud.authority.folder}}}\n"
        )
        self.links: list[PahoTransport] = []
        self.gate = Gate()
        self.released = 0
        self.device = EdgeDevice(
            load_device(self.path), paces={STREAM: self.gate}, connect=self._connect
        )

    def _connect(self, sync: SyncConfig, client_id: str, clock: Clock) -> PahoTransport:
        self.links.append(PahoTransport(sync, client_id, clock))
        return self.links[-1]

    @property
    def sessions(self) -> int:
        return self.links[0].stats().connections_total if self.links else 0

    @property
    def is_delivered(self) -> bool:
        """Whether every sample that was released was read, and what came of it has arrived."""
        status = self.device.status()
        return status.streams[STREAM].position >= self.released and status.backlog_rows == 0

    def flow_until(self, is_so: Callable[[], bool], what: str) -> None:
        """Let samples come, a few at a time, until something is so."""

        def flows() -> bool:
            self.released = min(self.released + 5, ROWS)
            self.gate.release(self.released)
            return is_so()

        self.wait_until(flows, what)

    def wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < deadline, what
            threading.Event().wait(0.05)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with SecuredCloud(tmp_path, days=LIFE_S / 86_400) as cloud:
        cloud.broker.start()
        yield Scene(cloud, tmp_path)


@contextmanager
def running(device: EdgeDevice) -> Iterator[None]:
    thread = threading.Thread(target=lambda: device.run(stays=True))
    thread.start()
    try:
        yield
    finally:
        device.stop()
        thread.join(PATIENCE_S)


@contextmanager
def ingesting(config: Path) -> Iterator[None]:
    service = CloudService(load_cloud(config), roles=["ingest"])
    service.start()
    try:
        yield
    finally:
        service.stop()


def validity_of(identity: IdentityFolder) -> Validity:
    validity = identity.validity()
    assert validity is not None
    return validity


def test_a_certificate_is_renewed_while_rows_flow(scene: Scene) -> None:
    """At two thirds of its life the next one is there, and the session moves over to it.

    When the first has ended, and the broker with every session, the device comes back with
    a newer one; every row is stored once.
    """
    first = validity_of(scene.identity)

    with ingesting(scene.cloud_path), running(scene.device):
        scene.flow_until(lambda: scene.sessions > 0, "the device does not connect")
        scene.flow_until(lambda: validity_of(scene.identity) != first, "nothing is renewed")
        renewed_s = time.time()
        scene.flow_until(lambda: scene.sessions > 1, "the session stays on the old certificate")
        moved_s = time.time()
        scene.flow_until(lambda: time.time() > first.not_after_s + 1, "the first does not end")
        scene.cloud.broker.kill()
        scene.cloud.broker.restart()
        sessions = scene.sessions
        scene.flow_until(lambda: scene.sessions > sessions, "the device does not come back")
        scene.wait_until(lambda: scene.is_delivered, "rows are left on the device")

    found = tally(scene.cloud.store, scene.path, STREAM)
    assert first.renew_at_s <= renewed_s <= moved_s < first.not_after_s
    assert (found.lost, found.duplicated, found.in_gaps) == ((), 0, 0)
    assert found.stored == found.made > 500
