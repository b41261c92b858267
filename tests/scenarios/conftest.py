"""Real devices and clouds for stories: on an in-memory broker, or on a real one on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_cloud.config import CloudConfig, KeysConfig
from edge_cloud.labels import Label
from edge_cloud.refresh import RefreshConfig
from edge_cloud.service import CloudService
from edge_cloud.signing import SigningKey, sign_base
from edge_cloud.store import Store
from edge_runtime.bundle import Bundle, Golden, load_bundle, save_bundle, write_arrays, write_golden
from edge_runtime.config import (
    DeviceConfig,
    OutboxConfig,
    StreamConfig,
    SyncConfig,
    TrustConfig,
    load_device,
)
from edge_runtime.config.device import ModelConfig
from edge_runtime.errors import MissingExtra
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.spec import ArtefactSpec, ChannelSpec, ModelSpec, StreamSpec, WindowSpec
from edge_runtime.sync.transport import MemoryBroker
from edge_runtime.update.slots import signed_path, write_signed
from edge_simulator.broker import BrokerKind, choose_broker, free_port, mosquitto_config

ROOT = Path(__file__).resolve().parents[2]
TURBINE = ROOT / "examples/gas_turbine"
FIRST_ROW = 15039
DAY = 24
DAY_NS = 86_400 * 10**9
START_NS = 1_356_998_400 * 10**9
DEVICE = "turbine-1"
LIMIT_S = 120.0


class Events:
    """What devices tell, and bounded waits for what should come of it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, object]]] = []
        self._changed = threading.Condition()

    def note(self, name: str, facts: Mapping[str, object]) -> None:
        with self._changed:
            self.told.append((name, dict(facts)))
            self._changed.notify_all()

    def named(self, name: str) -> list[dict[str, object]]:
        return [facts for event, facts in self.told if event == name]

    def wait_for(self, what: str, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        deadline = time.monotonic() + limit_s
        with self._changed:
            while not condition():
                assert time.monotonic() < deadline, f"{what} did not happen; {self.told[-5:]}"
                self._changed.wait(0.02)


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

    def __init__(self, folder: Path, *, is_refreshing: bool = True) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self._events = Events()
        self.named, self.wait_for = self._events.named, self._events.wait_for
        self.release_key, self.layer_key = SigningKey.generate(), SigningKey.generate()
        self.layer_key.save(folder / "layer.key")
        (folder / "release.pub").write_text(self.release_key.public.hex())
        self.base = self._signed_copy("turbine-nox-1.0.0", seq=1)
        self._nox = [
            float(line.rsplit(",", 1)[1])
            for line in (TURBINE / "gas_turbine_2011_2015.csv").read_text().splitlines()[1:]
        ]
        self.cloud = self._cloud(is_refreshing)
        self.cloud.start()
        self.gate = Gate()
        self.device: EdgeDevice | None = None

    def start_device(self) -> None:
        self.device = EdgeDevice(
            self._device_config(),
            paces={"turbine": self.gate},
            on_event=self._events.note,
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
            Label(DEVICE, "turbine", hour_ns(row), self._nox[row], hour_ns(row) + DAY_NS)
            for row in known
        )
        self.gate.release(FIRST_ROW + days * DAY)

    def stored_rows(self) -> list[int]:
        table = self.cloud.store.rows("turbine", device=DEVICE)
        return table.columns["index"].tolist() if len(table) else []

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

    def _cloud(self, is_refreshing: bool) -> CloudService:
        config = CloudConfig(
            store=self.folder / "store",
            keys=KeysConfig(layer=self.folder / "layer.key"),
            bundles=(TURBINE / "bundles/turbine-nox-1.0.0",),
            refresh=(RefreshConfig(line="turbine-nox"),) if is_refreshing else (),
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


def hour_ns(row: int) -> int:
    """Event time of a row of the turbine's file; its first row has the start time."""
    return START_NS + row * 3600 * 10**9


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path)
    try:
        yield made
    finally:
        made.close()


# --- a small device that anything may happen to ------------------------------------

LENGTH, HOP = 5, 1
BENCH = "bench-1"


class Bench:
    """A device on a recording, with a model of one dense layer, and a cloud for it.

    Device and cloud can end and begin again, in this process or as processes of
    their own, on an in-memory broker or on a port of this machine.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rows: int = 600,
        port: int | None = None,
        state: Path | None = None,
        store: Path | None = None,
    ) -> None:
        self.folder = folder
        self.rows = rows
        self.store = store or folder / "store"
        self.state = state or folder / "state"
        self.broker = MemoryBroker()
        self._port = port
        self._events = Events()
        self.named, self.wait_for = self._events.named, self._events.wait_for
        self.release_key = SigningKey.generate()
        (folder / "release.pub").write_text(self.release_key.public.hex())
        self.factory = make_bundle(folder / "sum-1", version="1", factor=1.0)
        write_recording(folder / "recording.csv", rows)
        self.yaml = folder / "device.yaml"
        self.declare()
        self.cloud: CloudService | None = None
        self.device: EdgeDevice | None = None

    @property
    def windows(self) -> list[int]:
        """Index of the last sample of every window in the recording."""
        return list(range(LENGTH - 1, self.rows))

    def declare(self, *, source: str = "", commit_s: float = 0.01) -> None:
        """Write the device's YAML; ``source`` is added to the options of its source."""
        port = 9 if self._port is None else self._port
        self.yaml.write_text(
            f"""\
schema: 1
device: {BENCH}
state: {self.state}
outbox: {{commit_s: {commit_s}}}
streams:
  main:
    source:
      {{kind: csv, path: recording.csv, block: 16, time: {{column: t, format: unix_s}}{source}}}
    model: {{bundle: sum-1}}
    upload: windows
sync: {{host: 127.0.0.1, port: {port}, protocol: "3.1.1"}}
trust: {{release_keys: [release.pub]}}
"""
        )

    def start_device(self, gate: Gate | None = None) -> EdgeDevice:
        options: dict[str, Any] = {} if gate is None else {"paces": {"main": gate}}
        if self._port is None:
            options["connect"] = lambda _sync, name, _clock: self.broker.transport(name)
        self.device = EdgeDevice(load_device(self.yaml), on_event=self._events.note, **options)
        self._thread = threading.Thread(target=self.device.run, kwargs={"stays": True})
        self._thread.start()
        return self.device

    def stop_device(self) -> None:
        if self.device is not None:
            self.device.stop()
            self._thread.join(LIMIT_S)
            assert not self._thread.is_alive()
            self.device = None

    def start_cloud(self) -> CloudService:
        broker = SyncConfig(port=self._port or 9, protocol="3.1.1")
        config = CloudConfig(store=self.store, broker=broker, bundles=(self.folder / "sum-1",))
        self.cloud = CloudService(config, self.broker.transport if self._port is None else None)
        self.cloud.start()
        return self.cloud

    def stop_cloud(self) -> None:
        if self.cloud is not None:
            self.cloud.stop()
            self.cloud = None

    def close(self) -> None:
        try:
            self.stop_device()
        finally:
            self.stop_cloud()

    def drained(self) -> None:
        """Wait until the whole recording is decided and the cloud has acknowledged it."""
        device = self.device
        assert device is not None
        self.wait_for("the end of the recording", lambda: self.position == self.rows)
        self.wait_for("the last commit", lambda: self.committed == self.rows)
        self.wait_for("an empty outbox", lambda: device.status().backlog_rows == 0, 2 * LIMIT_S)

    @property
    def position(self) -> int:
        assert self.device is not None
        return self.device.status().streams["main"].position

    def stored(self) -> list[int]:
        """Return the row index of every estimate in the store, as often as it is there."""
        return sorted(self.stored_columns("index")["index"].tolist())

    def stored_columns(self, *names: str) -> dict[str, np.ndarray]:
        is_running = self.cloud is not None
        store = self.cloud.store if self.cloud is not None else Store(self.store)
        try:
            table = store.rows("main", device=BENCH)
            return {name: table.columns.get(name, np.empty(0)) for name in names}
        finally:
            if not is_running:
                store.close()

    def stored_or_lost(self) -> int:
        """Return how many rows the store has, and how many it knows to be lost."""
        assert self.cloud is not None
        return len(self.stored()) + sum(gap.n for gap in self.cloud.store.gaps())

    @property
    def committed(self) -> int:
        """How far the recording is decided and on disk."""
        commits = self.named("rows.committed")
        return max((int(str(facts["position"])) for facts in commits), default=0)


def make_bundle(path: Path, *, version: str, factor: float) -> Bundle:
    """Make a model that answers ``factor`` times the sum of a window's samples."""
    spec = ModelSpec(
        name="sum",
        version=version,
        kind="regressor",
        stream=StreamSpec((ChannelSpec("a"), ChannelSpec("b")), rate_hz=1.0),
        window=WindowSpec(length=LENGTH, hop=HOP),
        artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
        labels=("total",),
    )
    weights = np.full((2 * LENGTH, 1), factor, np.float32)
    model = write_arrays({"w0": weights, "b0": np.zeros(1, np.float32)})
    inputs = recording(4 * LENGTH).reshape(4, LENGTH, 2)
    sums = inputs.astype(np.float32).reshape(4, -1) @ weights
    golden = write_golden(Golden(inputs, sums.astype(np.float64)))
    save_bundle(path, spec, {"model.npz": model, "golden.npz": golden})
    return load_bundle(path)


def recording(rows: int) -> np.ndarray:
    """Two channels, decimal like a sensor's."""
    return np.random.default_rng(7).normal(0, 1, (rows, 2)).round(3)


def recorded_lines(rows: int) -> list[str]:
    return [f"{i},{a},{b}" for i, (a, b) in enumerate(recording(rows).tolist())]


def write_recording(path: Path, rows: int, lines: Sequence[str] | None = None) -> None:
    path.write_text("t,a,b\n" + "\n".join(recorded_lines(rows) if lines is None else lines) + "\n")


class PortBroker:
    """A broker on a port that is known before it is there."""

    def __init__(self, kind: BrokerKind, port: int, folder: Path) -> None:
        self._kind = kind
        self.port = port
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command(), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + LIMIT_S
        while not self._is_listening():
            assert time.monotonic() < deadline, "the broker does not listen"

    def stop(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.kill()
            self._process.wait()

    def _command(self) -> list[str]:
        if self._kind == "iotcore":
            return [sys.executable, "-m", "edge_simulator.broker", "127.0.0.1", str(self.port)]
        config = self._folder / "mosquitto.conf"
        config.write_text(mosquitto_config("127.0.0.1", self.port))
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        return [program, "-c", str(config)]

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.05)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture(params=["iotcore", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def port_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PortBroker]:
    """A real broker that is not there yet; its port is ``port_broker.port``."""
    try:
        kind = choose_broker(request.param)
    except MissingExtra as error:
        pytest.skip(str(error))
    broker = PortBroker(kind, free_port(), tmp_path)
    yield broker
    broker.stop()


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Make a device and a cloud, neither of them started."""
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A device and a cloud on an in-memory broker, neither of them started."""
    return make_bench()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if not made or made.returncode:
        pytest.skip("may not mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
