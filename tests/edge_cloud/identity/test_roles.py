"""The cloud's own links keep their certificates young, whichever process they are in."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from edge_cloud.config import CloudConfig, IdentityConfig
from edge_cloud.identity.authority import Authority
from edge_cloud.ingest import Member
from edge_cloud.service import CloudService
from edge_runtime.config import SyncConfig
from edge_runtime.testing import FakeClock
from edge_simulator.broker import free_port

DAY_S = 86_400.0
PATIENCE_S = 60.0


@pytest.mark.parametrize(
    ("member", "name"), [(None, "cloud-ingest"), (Member(3), "cloud-ingest-3")]
)
def test_an_ingest_renews_the_certificate_of_its_own_link(
    tmp_path: Path, clock: FakeClock, member: Member | None, name: str
) -> None:
    """One of several, too: nobody else knows under which number it was started."""
    Authority.create(tmp_path / "ca", "test", clock)
    config = CloudConfig(
        store=tmp_path / "store",
        broker=SyncConfig(host="localhost", port=free_port(), tls="on"),
        identity=IdentityConfig(names=("localhost",), ca=tmp_path / "ca"),
    )
    service = CloudService(config, clock=clock, roles=["ingest"], member=member)
    service.start()
    certificate = tmp_path / "ca" / "roles" / f"{name}.pem"
    first = certificate.read_bytes()

    clock.advance(61 * DAY_S)
    deadline = time.monotonic() + PATIENCE_S
    while certificate.read_bytes() == first and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    renewed = certificate.read_bytes()
    service.stop()

    assert renewed != first
