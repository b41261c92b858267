"""The whole cloud in one process, with a device on an in-memory broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_cloud.config import CloudConfig, KeysConfig, load_cloud
from edge_cloud.labels import Label
from edge_cloud.refresh import RefreshConfig
from edge_cloud.service import CloudService
from edge_cloud.signing import SigningKey, sign_base
from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle
from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError, TrustError
from edge_runtime.modes.schedule import History, When
from edge_runtime.pipeline import Pipeline, estimates_table
from edge_runtime.ports import Message
from edge_runtime.sync.frames import RowFrame, encode_frame
from edge_runtime.sync.messages import (
    Ack,
    BlobChunk,
    BlobRequest,
    Job,
    JobReport,
    Life,
    decode,
    encode,
)
from edge_runtime.sync.topics import Topics
from edge_runtime.testing.transport import MemoryBroker
from edge_runtime.types import Windows

from .conftest import HOUR_NS, T0_NS, windows_of

TOPICS = Topics()
PATIENCE_S = 90.0


class Device:
    """Speaks a device's part by hand."""

    def __init__(self, broker: MemoryBroker, bundle: Bundle) -> None:
        self.link = broker.transport("pump-1")
        self.link.open([TOPICS.dn("pump-1", "#")], None)
        self.bundle = bundle
        session = open_session(bundle)
        self.pipeline = Pipeline(bundle.spec, session, base=bundle.digest, upload="windows")
        self.seq = 0

    def say(self, leaf: str, message: object) -> None:
        self.link.publish(Message(TOPICS.up("pump-1", leaf), encode(message)))  # type: ignore[arg-type]

    def hello(self, base: str) -> None:
        self.say("life", Life("pump-1", 1, 7, True, base={"main": base}))

    def windows(self, n: int) -> Windows:
        samples = np.random.default_rng(self.seq).normal(size=(n, 1, 2)).astype(np.float32)
        return windows_of(samples, self.seq)

    def send(self, n: int = 24) -> None:
        table = estimates_table(self.pipeline.score_windows(self.windows(n)))
        frame = RowFrame("pump-1", "main", 1, 7, self.seq, n, "estimate", table)
        self.link.publish(Message(TOPICS.tel("pump-1", "main"), encode_frame(frame)))
        self.seq += n

    def hear(self, leaf: str) -> Message:
        """Wait for the next message of one kind; others are passed over."""
        while True:
            event = self.link.receive(PATIENCE_S)
            assert event is not None, f"no {leaf} came"
            if isinstance(event, Message) and event.topic.endswith(f"/dn/{leaf}"):
                return event

    def job(self) -> Job:
        return decode(self.hear("job").payload, Job)


class Town:
    """A running cloud and its device."""

    def __init__(self, folder: Path, bundle: Bundle, bundle_path: Path) -> None:
        self.broker = MemoryBroker()
        SigningKey.generate().save(folder / "layer.key")
        self.config = CloudConfig(
            store=folder / "store",
            keys=KeysConfig(folder / "layer.key"),
            bundles=(bundle_path,),
            refresh=(RefreshConfig("turbine", trailing_rows=96, judged_periods=3),),
        )
        self.service = CloudService(self.config, self.broker.transport)
        self.service.start()
        self.device = Device(self.broker, bundle)


@pytest.fixture
def town(tmp_path: Path, bundle: Bundle) -> Iterator[Town]:
    town = Town(tmp_path, bundle, tmp_path / "turbine-1")
    yield town
    town.service.stop()


def eventually(fact: Callable[[], bool]) -> None:
    """Wait for something that another thread brings about."""
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.01)):
        if fact():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come about")


def test_a_day_of_rows_comes_back_as_signed_layers(town: Town) -> None:
    """Frame in, ack and job out, report in, all ends counted."""
    town.device.hello(town.device.bundle.digest)
    town.device.send()

    ack = decode(town.device.hear("ack").payload, Ack)
    job = town.device.job()
    town.device.say(f"job/{job.id}", JobReport(job.id, "pump-1", "main", "committed"))

    assert ack.upto == 24
    assert job.requires == town.device.bundle.digest
    assert len(job.layers) == 1
    eventually(lambda: town.service.status().jobs == {"layers/committed": 1})
    status = town.service.status()
    assert status.store.rows == 24
    assert status.refreshes == {"none": 1}


def test_labels_that_come_late_count_at_the_next_boundary(town: Town) -> None:
    """Labels dropped into the inbox reach the device as layers, and only so."""
    device, labels = town.device, town.service.labels
    device.hello(device.bundle.digest)
    jobs = []
    for day in range(6):
        first = device.seq
        device.send()
        jobs.append(device.job())
        device.say(f"job/{jobs[-1].id}", JobReport(jobs[-1].id, "pump-1", "main", "committed"))
        scores = town.service.store.latest("pump-1", "main", 24, columns=["score"])
        text = "".join(
            f"pump-1,main,{T0_NS + (first + i) * HOUR_NS},{float(score) + 5},"
            f"{T0_NS + (first + i + 24) * HOUR_NS}\n"
            for i, score in enumerate(scores.columns["score"][:, 0])
        )
        part = labels.inbox / f"{day}.part"
        part.write_text("device,stream,time_ns,value,known_at_ns\n" + text)
        part.rename(labels.inbox / f"{day}.csv")

    assert [row.outcome.chosen for row in town.service.history()][:4] == ["none"] * 4
    assert town.service.history()[-1].outcome.chosen != "none"


def test_a_base_published_by_another_process_is_sent_and_served(
    town: Town, newer_bundle: Bundle
) -> None:
    """A second service on the same store adds a job; the running one notices and sends it."""
    device = town.device
    device.hello(device.bundle.digest)
    device.send()
    device.job()
    release = SigningKey.generate()
    other = CloudService(town.config, roles=())
    signed = sign_base(release, newer_bundle, [], 2)
    entry = other.registry.add(newer_bundle, signed)

    eventually(lambda: other.jobs.life("pump-1") is not None)
    other.jobs.publish(other.registry, entry.digest)
    job = device.job()
    device.say("blob", BlobRequest("pump-1", entry.archive_sha256, 0, 1))
    chunk = decode(device.hear("blob").payload, BlobChunk)

    assert job.base == signed
    assert chunk.data == other.registry.archive(entry.digest).read_bytes()
    other.stop()


def test_roles_run_alone(tmp_path: Path, bundle: Bundle) -> None:
    """Ingest, refresh and registry as three services on one store do the same together."""
    broker = MemoryBroker()
    SigningKey.generate().save(tmp_path / "layer.key")
    config = CloudConfig(
        store=tmp_path / "store",
        keys=KeysConfig(tmp_path / "layer.key"),
        bundles=(tmp_path / "turbine-1",),
        refresh=(RefreshConfig("turbine"),),
    )
    services = [
        CloudService(config, broker.transport, roles=(role,))
        for role in ("ingest", "registry", "refresh")
    ]
    for service in services:
        service.start()
    device = Device(broker, bundle)
    device.hello(bundle.digest)
    device.send()

    job = device.job()

    assert job.requires == bundle.digest
    for service in services:
        service.stop()


def test_a_role_that_fails_ends_the_service_loudly(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What kills one role is raised by stop, not swallowed."""

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(town.service.labels, "scan_inbox", fail)
    town.service.wake()

    assert town.service.wait(PATIENCE_S)
    with pytest.raises(RuntimeError, match="a bug"):
        town.service.stop()


def test_rows_are_rescored_by_the_clock(town: Town) -> None:
    """What is due is done once, and stands in the history with what came of it."""
    town.device.hello(town.device.bundle.digest)
    town.device.send()
    town.device.hear("ack")
    config = msgspec.structs.replace(town.config, rescore=When(every_s=1))
    service = CloudService(config, lambda _: town.broker.transport("clerk"), roles=("rescore",))
    service.start()

    history = History(config.store / "schedule.db", SystemClock())
    with closing(history):
        until = time.monotonic() + PATIENCE_S
        while not (done := [run for run in history.runs() if run.outcome == "ok"]):
            assert time.monotonic() < until
        service.stop()

    assert done[-1].told == "24 rows scored"


def test_stop_is_clean_and_may_come_twice(town: Town) -> None:
    """No thread stays behind, and the store can be opened again."""
    town.service.stop()
    town.service.stop()

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cloud-")]
    CloudService(town.config, roles=()).stop()


YAML = """\
schema: 1
store: store
broker: {port: 18830}
keys: {layer: layer.key}
bundles: [turbine-1]
refresh:
  - {line: turbine, every_s: 3600}
"""


def test_paths_in_the_yaml_are_relative_to_it(tmp_path: Path) -> None:
    """One file declares a cloud; a clone of it elsewhere works as well."""
    (tmp_path / "cloud.yaml").write_text(YAML)

    config = load_cloud(tmp_path / "cloud.yaml")

    assert config.store == tmp_path / "store"
    assert config.bundles == (tmp_path / "turbine-1",)
    assert config.refresh[0].every_ns == HOUR_NS


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("every_s", "evry_s", "every_s"),
        ("every_s: 3600", "every_s: 0", "every_s"),
        ("keys: {layer: layer.key}\n", "", "layer key"),
        ("line: turbine", "line: Turbine One", "model line"),
        ("store: store", "store: store\nrescore_s: 60", "rescore: {every_s"),
    ],
)
def test_a_wrong_yaml_says_what_is_wrong(tmp_path: Path, old: str, new: str, why: str) -> None:
    """Unknown keys get a suggestion, values their bounds, parts that do not fit a remedy."""
    (tmp_path / "cloud.yaml").write_text(YAML.replace(old, new))

    with pytest.raises(ConfigError, match=why):
        load_cloud(tmp_path / "cloud.yaml")


def test_a_layer_key_that_others_may_read_stops_the_start(tmp_path: Path, bundle: Bundle) -> None:
    """A cloud does not sign with a key that may be known to others."""
    (tmp_path / "cloud.yaml").write_text(YAML)
    SigningKey.generate().save(tmp_path / "layer.key")
    (tmp_path / "layer.key").chmod(0o640)

    with pytest.raises(TrustError, match="chmod 600"):
        CloudService(load_cloud(tmp_path / "cloud.yaml"))


def test_a_label_may_be_added_while_roles_run(town: Town) -> None:
    """The store is shared: other threads write to it at the same time."""
    town.device.hello(town.device.bundle.digest)
    town.device.send()
    town.service.labels.add([Label("pump-1", "main", T0_NS, 1.0, T0_NS)])

    assert decode(town.device.hear("ack").payload, Ack).upto == 24
    assert town.service.status().labels == 1
