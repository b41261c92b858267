"""Faults around a whole device: a broker that comes late, a cloud and a device that are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edge_cloud.signing import SigningKey, sign_base
from edge_cloud.store import Store
from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import Golden, load_bundle, save_bundle, write_arrays, write_golden
from edge_runtime.config import load_device
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.spec import ArtefactSpec, ChannelSpec, ModelSpec, StreamSpec, WindowSpec
from edge_runtime.types import Frame
from edge_runtime.update.slots import signed_path, write_signed
from edge_simulator.broker import Broker, BrokerKind, free_port

ROWS, LENGTH = 400, 8
DEVICE = "bench-1"
LIMIT_S = 90.0
BROKERS = ["iotcore", pytest.param("mosquitto", marks=pytest.mark.mosquitto)]


@pytest.fixture(params=BROKERS)
def kind(request: pytest.FixtureRequest) -> BrokerKind:
    """Each broker in turn."""
    return request.param  # type: ignore[no-any-return]


def _samples() -> np.ndarray:
    return np.random.default_rng(5).normal(0, 1, (ROWS, 2)).round(3)


def _bundle(folder: Path, version: str, weight: float) -> Path:
    """A dense layer that adds up a window, times ``weight``."""
    spec = ModelSpec(
        name="sum",
        version=version,
        kind="regressor",
        stream=StreamSpec((ChannelSpec("a"), ChannelSpec("b")), rate_hz=1.0),
        window=WindowSpec(length=LENGTH, hop=1),
        artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
        labels=("total",),
    )
    weights = np.full((2 * LENGTH, 1), weight, np.float32)
    model = write_arrays({"w0": weights, "b0": np.zeros(1, np.float32)})
    inputs = _samples()[: 4 * LENGTH].reshape(4, LENGTH, 2)
    outputs = weight * inputs.astype(np.float32).sum(axis=(1, 2), dtype=np.float64)[:, None]
    golden = write_golden(Golden(inputs, outputs))
    save_bundle(folder / f"sum-{version}", spec, {"model.npz": model, "golden.npz": golden})
    return folder / f"sum-{version}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Keys, a signed base, a recording, and YAML files of a device and a cloud on one port."""
    release, layer = SigningKey.generate(), SigningKey.generate()
    release.save(tmp_path / "release.key")
    layer.save(tmp_path / "layer.key")
    (tmp_path / "release.pub").write_text(release.public.hex())
    base = _bundle(tmp_path, "1", 1.0)
    write_signed(signed_path(base), sign_base(release, load_bundle(base), [layer.public], 1))
    rows = "\n".join(f"{i},{a},{b}" for i, (a, b) in enumerate(_samples().tolist()))
    (tmp_path / "recording.csv").write_text(f"t,a,b\n{rows}\n")
    port = free_port()
    (tmp_path / "device.yaml").write_text(
        f"""\
device: {DEVICE}
state: state
outbox: {{commit_s: 0.001}}
sync: {{port: {port}}}
trust: {{release_keys: [release.pub]}}
streams:
  main:
    source: {{kind: csv, path: recording.csv, block: 5, time: {{column: t, format: unix_s}}}}
    model: {{bundle: sum-1}}
    upload: windows
"""
    )
    (tmp_path / "cloud.yaml").write_text(
        f"store: store\nbroker: {{port: {port}}}\nbundles: [sum-1]\n"
    )
    return tmp_path


@contextmanager
def _broker(place: Path, kind: BrokerKind) -> Iterator[None]:
    """Run a broker and point both configurations at it."""
    with Broker(kind, place / "broker") as broker:
        for name in ("device.yaml", "cloud.yaml"):
            path = place / name
            path.write_text(re.sub(r"port: \d+", f"port: {broker.port}", path.read_text()))
        yield


@contextmanager
def _cloud(place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``edge-runtime cloud up`` as a process; killed at the end if it still runs."""
    command = [sys.executable, "-m", "edge_runtime.cli", "cloud", "up", str(place / "cloud.yaml")]
    with (place / "cloud.log").open("ab") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait(LIMIT_S)


def _run(place: Path, *, drain_s: float) -> EdgeDevice:
    device = EdgeDevice(load_device(place / "device.yaml"))
    device.run(drain_s=drain_s)
    return device


def _stored(place: Path) -> dict[str, np.ndarray]:
    store = Store(place / "store")
    try:
        return store.rows("main", device=DEVICE).columns
    finally:
        store.close()


def _expected() -> list[int]:
    return list(range(LENGTH - 1, ROWS))


def _wait_for(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        threading.Event().wait(0.02)


def test_rows_made_without_a_broker_arrive_when_one_appears(place: Path, kind: BrokerKind) -> None:
    """No broker, no cloud: everything is decided and kept, and delivered once to both later."""
    alone = _run(place, drain_s=0.0)

    with _broker(place, kind), _cloud(place):
        later = _run(place, drain_s=LIMIT_S)

    assert alone.status().backlog_rows == len(_expected())
    assert later.status().backlog_rows == 0
    assert _stored(place)["index"].tolist() == _expected()


def test_a_cloud_killed_while_rows_flow_stores_each_once(place: Path) -> None:
    """SIGKILL of the whole cloud, twice, costs no row and doubles none."""
    config = place / "device.yaml"
    config.write_text(config.read_text().replace("block: 5", "block: 5, speed: 150"))

    with _broker(place, "iotcore"):
        device = EdgeDevice(load_device(config))
        thread = threading.Thread(target=lambda: device.run(drain_s=LIMIT_S))
        thread.start()
        for _ in range(2):
            before = device.status().counters.get("rows_acked_total", 0)
            with _cloud(place) as cloud:
                # On a slow machine the first cloud may have stored all before it dies.
                _wait_for(
                    "an acknowledgement",
                    lambda: (
                        device.status().counters.get("rows_acked_total", 0) > before  # noqa: B023
                        or not thread.is_alive()
                    ),
                )
                os.kill(cloud.pid, signal.SIGKILL)
                cloud.wait(LIMIT_S)
        with _cloud(place):
            thread.join(2 * LIMIT_S)

    assert device.status().backlog_rows == 0
    assert _stored(place)["index"].tolist() == _expected()


KILL_AT_SWAP = """
import os, signal, sys
from pathlib import Path
from edge_runtime.config import load_device
from edge_runtime.modes.edge import EdgeDevice

def tell(name, facts):
    print(name, flush=True)
    if name == "base.activated":
        os.kill(os.getpid(), signal.SIGKILL)

EdgeDevice(load_device(Path(sys.argv[1])), on_event=tell).run(stays=True)
"""


def test_a_device_killed_at_the_swap_loses_no_window(place: Path) -> None:
    """Killed when the new base goes live, it comes back and answers every window once."""
    config = place / "device.yaml"
    second = _bundle(place, "2", 2.0)

    with _broker(place, "iotcore"), _cloud(place):
        unpaced = config.read_text()
        # Rows flow for half a minute, so that the update comes among them on a slow machine.
        config.write_text(unpaced.replace("block: 5", "block: 5, speed: 12"))
        child = subprocess.Popen(
            [sys.executable, "-c", KILL_AT_SWAP, str(config)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        # A base is offered to the devices that the cloud has heard of.
        _wait_for("the first rows at the cloud", lambda: len(_stored(place).get("index", ())) > 0)
        key = str(place / "release.key")
        done = _cli("cloud", "publish", str(place / "cloud.yaml"), str(second), "--key", key)
        child.wait(LIMIT_S)
        child.stdout.close()
        config.write_text(unpaced)
        device = _run(place, drain_s=LIMIT_S)

    assert done.returncode == 0, done.stderr
    assert child.returncode == -signal.SIGKILL
    stored = _stored(place)
    bases = {effective: i for i, effective in enumerate(dict.fromkeys(stored["effective_id"]))}
    assert stored["index"].tolist() == _expected()
    assert len(bases) == 2
    assert device.status().streams["main"].base == load_bundle(second).digest
    assert _answers_of_both(place, second, stored)


def _answers_of_both(place: Path, second: Path, stored: dict[str, np.ndarray]) -> bool:
    """Whether every stored answer is that of the base it names, on whole windows."""
    frame = Frame("main", 0, np.arange(ROWS, dtype=np.int64) * 10**9, _samples())
    for bundle in (place / "sum-1", second):
        pipeline = open_pipeline(load_bundle(bundle))
        answers = pipeline.push(frame).estimates.value
        mine = stored["effective_id"] == pipeline.effective_id
        if not mine.any() or answers[mine].tobytes() != stored["value"][mine].tobytes():
            return False
    return True


def _cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_runtime.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_a_damaged_outbox_is_set_aside_and_the_device_goes_on(place: Path) -> None:
    """A corrupt outbox costs what was in it, says so, and never stops the device."""
    _run(place, drain_s=0.0)
    outbox = place / "state/outbox.db"
    outbox.write_bytes(b"\xff" * outbox.stat().st_size)
    for other in (outbox.with_name("outbox.db-wal"), outbox.with_name("outbox.db-shm")):
        other.unlink(missing_ok=True)
    events: list[str] = []

    device = EdgeDevice(
        load_device(place / "device.yaml"), on_event=lambda name, _facts: events.append(name)
    )
    device.run(drain_s=0.0)

    assert "outbox.set_aside" in events
    assert list((place / "state").glob("outbox.db.corrupt-*"))
    assert device.status().backlog_rows == len(_expected())


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (("block: 5", "blok: 5"), 2, "block"),
        (("block: 5", "block: many"), 2, "device.yaml:8:"),
        (("block: 5", "rate_hz: 3200"), 2, "needs 1 Hz"),
        (("block: 5", "columns: {a: a}"), 2, "channels"),
        (("bundle: sum-1", "bundle: nowhere"), 2, "nowhere"),
        (("path: recording.csv", "path: missing.csv"), 1, "missing.csv"),
    ],
)
def test_a_wrong_configuration_says_where_and_what(
    place: Path, change: tuple[str, str], code: int, says: str
) -> None:
    """Each mistake ends with its exit code, names its place, and leaves no outbox behind."""
    config = place / "device.yaml"
    config.write_text(config.read_text().replace(*change))

    done = _cli("run", str(config), "--drain-s", "0", "--json")

    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "" or json.loads(done.stdout)
