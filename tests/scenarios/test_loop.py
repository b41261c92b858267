"""The whole loop in one process: a device, a cloud, and a broker that can be cut."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from edge_cloud.config import CloudConfig, KeysConfig
from edge_cloud.labels import Label
from edge_cloud.refresh import RefreshConfig
from edge_cloud.service import CloudService
from edge_cloud.signing import SigningKey, sign_base, sign_layer
from edge_runtime.bundle import load_bundle
from edge_runtime.config import DeviceConfig, OutboxConfig, StreamConfig, SyncConfig, TrustConfig
from edge_runtime.config.device import ModelConfig
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.spec import Layer, ResidualLayer
from edge_runtime.sync.transport import MemoryBroker
from edge_runtime.update.slots import signed_path, write_signed

ROOT = Path(__file__).resolve().parents[2]
TURBINE = ROOT / "examples/gas_turbine"
FIRST_ROW = 15039
DAY = 24
DAY_NS = 86_400 * 10**9
START_NS = 1_356_998_400 * 10**9
DEVICE = "turbine-1"
LIMIT_S = 30.0


class Gate:
    """A pace that lets samples through as the test releases them."""

    def __init__(self) -> None:
        self._upto = 0
        self._moved = threading.Condition()

    def release(self, upto: int) -> None:
        with self._moved:
            self._upto = upto
            self._moved.notify_all()

    def wait(self, index: int, time_ns: int, timeout_s: float) -> int:
        with self._moved:
            self._moved.wait_for(lambda: self._upto > index, timeout_s)
            return max(0, self._upto - index)


class Loop:
    """One device and one cloud on an in-memory broker; days are released by the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self.events: list[tuple[str, Mapping[str, object]]] = []
        self._told = threading.Condition()
        self.release_key, self.layer_key = SigningKey.generate(), SigningKey.generate()
        self.layer_key.save(folder / "layer.key")
        (folder / "release.pub").write_text(self.release_key.public.hex())
        self.base = self._signed_copy("turbine-nox-1.0.0", seq=1)
        self._nox = [
            float(line.rsplit(",", 1)[1])
            for line in (TURBINE / "gas_turbine_2011_2015.csv").read_text().splitlines()[1:]
        ]
        self.cloud = self._cloud()
        self.cloud.start()
        self.gate = Gate()
        self.device: EdgeDevice | None = None

    def start_device(self) -> None:
        self.device = EdgeDevice(
            self._device_config(),
            paces={"turbine": self.gate},
            on_event=self._note,
            connect=lambda _sync, client_id, _clock: self.broker.transport(client_id),
        )
        self._thread = threading.Thread(target=lambda: self.device.run(stays=True))
        self._thread.start()

    def stop_device(self) -> None:
        if self.device is not None:
            self.device.stop()
            self._thread.join(LIMIT_S)
            self.device = None

    def close(self) -> None:
        self.stop_device()
        self.cloud.stop()

    def release_days(self, days: int) -> None:
        """Hand over the labels known by then, then let the rows of the first ``days`` come."""
        known = range(FIRST_ROW, FIRST_ROW + (days - 1) * DAY)
        self.cloud.labels.add(
            Label(DEVICE, "turbine", _time_ns(row), self._nox[row], _time_ns(row) + DAY_NS)
            for row in known
        )
        self.gate.release(FIRST_ROW + days * DAY)

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        with self._told:
            while not condition():
                assert time.monotonic() < deadline, f"{what} did not happen; {self.events[-5:]}"
                self._told.wait(0.02)

    def stored_rows(self) -> list[int]:
        table = self.cloud.store.rows("turbine", device=DEVICE)
        return table.columns["index"].tolist() if len(table) else []

    def named(self, name: str) -> list[Mapping[str, object]]:
        return [facts for event, facts in self.events if event == name]

    def _note(self, name: str, facts: Mapping[str, object]) -> None:
        with self._told:
            self.events.append((name, dict(facts)))
            self._told.notify_all()

    def _signed_copy(self, name: str, *, seq: int) -> Path:
        """A committed bundle is used where it lies; its statement goes into the test's folder."""
        path = self.folder / name
        path.symlink_to(TURBINE / "bundles" / name)
        bundle = load_bundle(path)
        signed = sign_base(self.release_key, bundle, [self.layer_key.public], seq)
        write_signed(signed_path(path), signed)
        return path

    def publish(self, name: str, *, seq: int) -> str:
        bundle = load_bundle(TURBINE / "bundles" / name)
        signed = sign_base(self.release_key, bundle, [self.layer_key.public], seq)
        self.cloud.registry.add(bundle, signed)
        self.cloud.jobs.publish(self.cloud.registry, bundle.digest)
        return bundle.digest

    def _cloud(self) -> CloudService:
        config = CloudConfig(
            store=self.folder / "store",
            keys=KeysConfig(layer=self.folder / "layer.key"),
            bundles=(TURBINE / "bundles/turbine-nox-1.0.0",),
            refresh=(RefreshConfig(line="turbine-nox"),),
        )
        return CloudService(config, self.broker.transport)

    def _device_config(self) -> DeviceConfig:
        source = {
            "kind": "csv",
            "path": str(TURBINE / "gas_turbine_2011_2015.csv"),
            "first_row": FIRST_ROW,
            "time": {"start": "2013-01-01T00:00:00Z", "step_s": 3600.0},
        }
        return DeviceConfig(
            device=DEVICE,
            state=self.folder / "state",
            streams={
                "turbine": StreamConfig(source, ModelConfig(self.base), upload="windows"),
            },
            sync=SyncConfig(),
            outbox=OutboxConfig(commit_s=0.001),
            trust=TrustConfig((self.folder / "release.pub",)),
        )


def _time_ns(row: int) -> int:
    return START_NS + (row - FIRST_ROW) * 3600 * 10**9


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_layers_come_back_and_a_cut_link_loses_nothing(loop: Loop) -> None:
    """Labelled rows come back as live layers, and rows made while cut off arrive once each."""
    loop.start_device()
    loop.release_days(6)
    loop.wait_for("a layer", lambda: bool(loop.named("layers.activated")))

    loop.broker.cut(DEVICE)
    loop.release_days(20)
    last = FIRST_ROW + 20 * DAY
    loop.wait_for(
        "deciding offline",
        lambda: any(facts["position"] == last for facts in loop.named("rows.committed")),
    )
    stored_while_cut = len(loop.stored_rows())
    loop.broker.mend(DEVICE)
    loop.wait_for("an empty outbox", lambda: loop.device.status().backlog_rows == 0)

    assert stored_while_cut < 20 * DAY
    assert sorted(loop.stored_rows()) == list(range(FIRST_ROW, last))


def test_a_new_base_goes_live_without_losing_a_window(loop: Loop) -> None:
    """A published base is fetched, admitted and swapped in, and every row has one estimate."""
    loop.start_device()
    loop.release_days(5)
    loop.wait_for("rows stored", lambda: len(loop.stored_rows()) == 5 * DAY)

    digest = loop.publish("turbine-nox-2.0.0", seq=2)
    loop.release_days(6)
    loop.wait_for("the new base", lambda: bool(loop.named("base.activated")))
    loop.release_days(7)
    loop.wait_for("all rows stored", lambda: len(loop.stored_rows()) >= 7 * DAY)

    assert loop.named("base.activated")[0]["base"] == digest
    assert loop.stored_rows() == list(range(FIRST_ROW, FIRST_ROW + 7 * DAY))
    loop.stop_device()
    loop.start_device()
    loop.wait_for("the restart", lambda: loop.device.status().streams["turbine"].base == digest)


def test_a_layer_beyond_its_clamps_is_refused_and_the_old_keeps_serving(loop: Loop) -> None:
    """A stolen layer key cannot move an answer further than the base allows."""
    loop.start_device()
    loop.release_days(6)
    loop.wait_for("a layer", lambda: bool(loop.named("layers.activated")))
    loop.wait_for("rows stored", lambda: len(loop.stored_rows()) == 6 * DAY)
    before = loop.device.status().streams["turbine"].effective_id
    digest = load_bundle(loop.base).digest
    body = ResidualLayer(intercept=5000.0, weights=(0.0,) * 9)
    layer = Layer(body, requires=digest, seq=10**6, made_ns=_time_ns(FIRST_ROW + 6 * DAY))

    loop.cloud.jobs.offer(
        device=DEVICE,
        stream="turbine",
        model="turbine-nox",
        layers=(sign_layer(loop.layer_key, layer),),
        requires=digest,
    )
    loop.wait_for("the refusal", lambda: bool(loop.named("update.refused")))

    assert "clamp" in str(loop.named("update.refused")[0]["reason"])
    assert loop.device.status().streams["turbine"].effective_id == before


def test_a_tampered_base_is_refused_and_the_old_keeps_serving(loop: Loop) -> None:
    """An archive that is not what was signed never gets past its first wrong chunk."""
    loop.start_device()
    loop.release_days(3)
    loop.wait_for("rows stored", lambda: len(loop.stored_rows()) == 3 * DAY)
    bundle = load_bundle(TURBINE / "bundles/turbine-nox-2.0.0")
    signed = sign_base(loop.release_key, bundle, [loop.layer_key.public], 2)
    loop.cloud.registry.add(bundle, signed)
    archive = loop.cloud.registry.archive(bundle.digest)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.chmod(0o644)
    archive.write_bytes(content)
    before = loop.device.status().streams["turbine"].base

    loop.cloud.jobs.offer(
        device=DEVICE,
        stream="turbine",
        model="turbine-nox",
        base=signed,
        requires=bundle.digest,
        state="ready",
    )
    loop.wait_for("the refusal", lambda: bool(loop.named("update.refused")))

    assert loop.device.status().streams["turbine"].base == before


def test_a_statement_by_a_stranger_is_refused(loop: Loop) -> None:
    """A base signed with a key that the device does not trust is refused before any download."""
    loop.start_device()
    loop.release_days(2)
    loop.wait_for("rows stored", lambda: len(loop.stored_rows()) == 2 * DAY)
    bundle = load_bundle(TURBINE / "bundles/turbine-nox-2.0.0")
    forged = sign_base(SigningKey.generate(), bundle, [loop.layer_key.public], 2)

    loop.cloud.jobs.offer(
        device=DEVICE, stream="turbine", model="turbine-nox", base=forged, requires=bundle.digest
    )
    loop.wait_for("the refusal", lambda: bool(loop.named("update.refused")))

    assert msgspec.structs.asdict(loop.device.status())["is_connected"] is True
