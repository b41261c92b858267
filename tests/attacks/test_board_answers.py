"""A device that lies about boards: about another's not at all, about its own for one voice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_cloud.boards.kept import Boards
from edge_cloud.ingest import Router
from edge_cloud.jobs import Jobs
from edge_cloud.publisher import Publisher
from edge_cloud.registry import Registry
from edge_cloud.store import Store
from edge_runtime.bundle import load_bundle
from edge_runtime.errors import WireError
from edge_runtime.ports import Connected
from edge_runtime.sync.board_times import DeviceTimes, read_times
from edge_runtime.sync.messages import BoardTimes, FileTime, Life, encode
from edge_runtime.sync.topics import Address

from .conftest import PATIENCE_S, Scene

pytestmark = pytest.mark.mosquitto

BUNDLE = load_bundle(Path(__file__).parents[2] / "examples/gas_turbine/bundles/turbine-nox-1.0.0")


class Office:
    """The part of a cloud that hears lives, with a store of its own."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.store = Store(folder)
        registry = Registry(self.store)
        registry.add(BUNDLE)
        boards = Boards(self.store.folder, registry)
        self._publisher = Publisher(lambda _: True, Jobs(self.store), registry, boards=boards)
        self.router = Router(scene.cloud.role(), leaves=["life"], handlers={"life": self._hear})
        self.router.open()
        # What is sent before the broker knows who listens reaches nobody.
        events = (self.router.transport.receive(0.1) for _ in range(int(PATIENCE_S / 0.1)))
        assert any(isinstance(event, Connected) for event in events)
        self.errors: list[WireError] = []

    def _hear(self, address: Address, payload: bytes) -> None:
        try:
            self._publisher.handle(address, payload)
        except WireError as error:
            self.errors.append(error)

    def until_kept(self, device: str) -> list[DeviceTimes]:
        for _ in range(int(PATIENCE_S / 0.1)):
            self.router.step(0.1)
            told = list(read_times(self.store.folder))
            if device in {one.device for one in told}:
                return told
        raise TimeoutError(f"nothing of {device} was kept")

    def close(self) -> None:
        self.router.close()
        self.store.close()


@pytest.fixture
def office(scene: Scene, tmp_path: Path) -> Iterator[Office]:
    office = Office(scene, tmp_path / "store")
    yield office
    office.close()


def life_of(device: str, engine_us: float) -> bytes:
    sha256 = hashlib.sha256(BUNDLE.files["model_int8.tflite"]).hexdigest()
    files = (FileTime(sha256, "litert", engine_us),)
    times = BoardTimes(BUNDLE.digest, "raspberry-pi-4", "0123456789ab", "Cortex-A72", 1, files)
    base = {"main": BUNDLE.digest}
    return encode(Life(device, 1, 7, True, base=base, board_times={"main": times}))


def test_a_device_cannot_answer_for_anothers_board(scene: Scene, office: Office) -> None:
    """On the other's topic the broker drops it, on its own the cloud refuses the name."""
    evil = scene.device("evil")

    evil.send("er/1/d/good/up/life", life_of("good", 1.0))
    evil.send("er/1/d/evil/up/life", life_of("good", 1.0))
    evil.send("er/1/d/evil/up/life", life_of("evil", 1.0))
    told = office.until_kept("evil")
    scene.device("good").send("er/1/d/good/up/life", life_of("good", 90.0))
    told = office.until_kept("good")

    took = {one.device: one.times.files[0].engine_us for one in told}
    assert took == {"evil": 1.0, "good": 90.0}
    assert len(office.errors) == 1
    assert "good" in str(office.errors[0])
