"""The refresh role: one signed set per boundary, for the base that is live."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_cloud.jobs import Jobs
from edge_cloud.labels import Label, Labels
from edge_cloud.refresh import RefreshConfig
from edge_cloud.refresher import Refresher, read_history
from edge_cloud.registry import Registry
from edge_cloud.signing import SigningKey, sign_base
from edge_cloud.store import Store
from edge_runtime.backends import open_pipeline, open_session
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.pipeline import Pipeline, estimates_table
from edge_runtime.spec import Layer
from edge_runtime.sync.frames import RowFrame
from edge_runtime.sync.messages import Job, JobReport, Life
from edge_runtime.types import Upload
from edge_runtime.update.trust import Trust, check_layer

from .conftest import HOUR_NS, T0_NS, windows_of

CONFIG = RefreshConfig("turbine", trailing_rows=96, judged_periods=3)


class Room:
    """A store, a device that sends a day at a time, and a refresher."""

    def __init__(self, store: Store, bundle: Bundle, release: SigningKey, key: SigningKey) -> None:
        self.store = store
        self.bundle = bundle
        self.key = key
        self.labels = Labels(store)
        self.registry = Registry(store)
        self.jobs = Jobs(store)
        self.statement = sign_base(release, bundle, [key.public], 1)
        self.trust = Trust([release.public])
        self.registry.add(bundle, self.statement)
        self.refresher = self.made()
        self.sent = 0
        self.life(bundle)

    def made(self) -> Refresher:
        return Refresher(
            self.store,
            labels=self.labels,
            registry=self.registry,
            jobs=self.jobs,
            key=self.key,
            configs=[CONFIG],
        )

    def life(self, bundle: Bundle) -> None:
        self.jobs.note_life(Life("pump-1", 1, 7, True, base={"main": bundle.digest}))

    def send(self, n: int = 24, upload: Upload = "windows") -> None:
        """Send rows whose label is the base's answer plus a constant, known a day later."""
        samples = np.random.default_rng(self.sent).normal(size=(n, 1, 2)).astype(np.float32)
        session = open_session(self.bundle)
        pipeline = Pipeline(self.bundle.spec, session, base=self.bundle.digest, upload=upload)
        estimates = pipeline.score_windows(windows_of(samples, self.sent))
        frame = RowFrame(
            "pump-1", "main", 1, 7, self.sent, n, "estimate", estimates_table(estimates)
        )
        self.store.ingest([frame])
        self.labels.add(
            Label("pump-1", "main", int(end), float(value) + 6.0, int(end) + 24 * HOUR_NS)
            for end, value in zip(estimates.end_ns, estimates.score[:, 0], strict=True)
        )
        self.sent += n

    def layers(self, job: Job) -> list[Layer]:
        statement = self.trust.verify_base(self.statement)
        return [self.trust.verify_layer(signed, statement) for signed in job.layers]


@pytest.fixture
def room(store: Store, bundle: Bundle, release_key: SigningKey, layer_key: SigningKey) -> Room:
    return Room(store, bundle, release_key, layer_key)


def newest(room: Room) -> Job:
    return room.jobs.all()[-1].job


def test_each_boundary_makes_one_job_that_the_device_accepts(room: Room) -> None:
    """A day of rows makes a set; its layers verify, keep the clamps, and count up."""
    seqs = []
    for day in range(6):
        room.send(23)
        assert room.refresher.step() == 0
        room.send(1)
        assert room.refresher.step() == 1
        assert room.refresher.step() == 0
        layers = room.layers(newest(room))
        now_ns = T0_NS + (24 * (day + 1) - 1) * HOUR_NS
        for layer in layers:
            check_layer(layer, room.bundle.spec, room.bundle.digest, now_ns)
            assert layer.scope == "device:pump-1"
            assert layer.made_ns <= now_ns
        seqs.append(next(layer.seq for layer in layers if layer.kind == "residual"))

    assert seqs == [1, 2, 3, 4, 5, 6]
    history = read_history(room.store)
    assert [row.outcome.chosen for row in history][:4] == ["none"] * 4
    assert history[-1].outcome.chosen != "none"
    assert history[-1].job == newest(room).id


def test_a_set_that_is_not_worth_it_changes_no_answer(room: Room) -> None:
    """When nothing ships, a neutral set takes the place of the old one, bit by bit edge-only."""
    room.send(24)
    room.refresher.step()
    pipeline = open_pipeline(room.bundle)
    windows = windows_of(np.random.default_rng(1).normal(size=(50, 1, 2)).astype("f4"), 24)

    before = pipeline.score_windows(windows)
    pipeline.activate(room.layers(newest(room)))
    after = pipeline.score_windows(windows)

    assert after.effective_id != before.effective_id
    assert after.value.tobytes() == before.value.tobytes()


def test_after_a_cut_only_the_newest_boundary_is_worked_out(room: Room) -> None:
    """A backlog of days makes one set, for the last of them."""
    room.send(24)
    room.refresher.step()
    for _ in range(6):
        room.send(24)

    assert room.refresher.step() == 1

    boundaries = [row.outcome.boundary_ns for row in read_history(room.store)]
    assert boundaries == [T0_NS + 24 * HOUR_NS, T0_NS + 7 * 24 * HOUR_NS]


def test_a_restart_and_a_compaction_change_no_outcome(room: Room) -> None:
    """What was decided follows from the store alone: no memory of the process matters."""
    for _ in range(5):
        room.send(24)
        room.refresher.step()
    room.send(24)
    room.store.compact(by="month")
    rest = {name: getattr(room, name) for name in ("store", "labels", "registry", "jobs")}
    fresh = Refresher(**rest, key=room.key, configs=[CONFIG])
    config = CONFIG
    boundary_ns = T0_NS + 6 * 24 * HOUR_NS

    outcomes = [
        refresher._decide("pump-1", "main", room.bundle, config, boundary_ns)
        for refresher in (room.refresher, fresh)
    ]

    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0].chosen != "none"


def test_no_layers_are_made_while_a_base_is_on_its_way(
    room: Room, newer_bundle: Bundle, release_key: SigningKey
) -> None:
    """The new base gets its first layers in the same job; then refreshes are for it."""
    for _ in range(6):
        room.send(24)
        room.refresher.step()
    signed = sign_base(release_key, newer_bundle, [room.key.public], 2)
    room.registry.add(newer_bundle, signed)

    (job,) = room.jobs.publish(room.registry, newer_bundle.digest)
    room.refresher.step()
    row = room.jobs.get(job)
    assert row is not None
    layers = [Layer.decode(each.payload) for each in row.job.layers]
    room.send(24)
    assert room.refresher.step() == 0
    room.jobs.note_report(JobReport(job, "pump-1", "main", "committed"))
    assert room.refresher.step() == 1

    assert row.state == "ready"
    assert {layer.requires for layer in layers} == {newer_bundle.digest}
    assert layers
    # The newer base answers 2 more, so there is that much less to add.
    residual = next(layer.body for layer in layers if layer.kind == "residual")
    assert residual.intercept == pytest.approx(4.0, abs=1.0)  # type: ignore[union-attr]
    assert newest(room).requires == newer_bundle.digest


@pytest.mark.parametrize("upload", ["features", "decisions"])
def test_features_serve_as_well_as_windows_and_nothing_serves_not(
    room: Room, upload: Upload
) -> None:
    """Layers can be fitted to uploaded features; without inputs nothing is fitted."""
    for _ in range(6):
        room.send(24, upload)
        room.refresher.step()

    rows = read_history(room.store)[-1].outcome.rows
    assert (rows > 48) == (upload == "features")


def test_an_unknown_base_makes_nothing_and_is_said_once(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """A device on a base that the registry lacks is left alone, with one line in the log."""
    room.jobs.note_life(Life("pump-1", 2, 7, True, base={"main": "0" * 64}))
    room.send(24)

    assert [room.refresher.step() for _ in range(3)] == [0, 0, 0]
    assert [record.message for record in caplog.records] == ["refresh.base_unknown"]


def test_a_job_and_its_grounds_are_stored_together_or_not_at_all(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the process dies before the commit, the boundary is simply done again."""
    room.send(24)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(room.refresher, "_note", die)
        with pytest.raises(KeyboardInterrupt):
            room.refresher.step()
    assert room.jobs.all() == []

    assert room.made().step() == 1
    assert len(room.jobs.all()) == len(read_history(room.store)) == 1


def test_a_cascade_gets_no_layers(
    room: Room,
    cascade_bundle: Callable[..., Path],
    release_key: SigningKey,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its rows are answers of several models; that is said once, live or on its way."""
    bundle = load_bundle(cascade_bundle("turbine"))
    room.registry.add(bundle, sign_base(release_key, bundle, [room.key.public], 2))
    room.send(24)
    room.jobs.publish(room.registry, bundle.digest)
    room.refresher.step()
    room.life(bundle)
    room.send(24)

    made = [room.refresher.step() for _ in range(2)]

    assert made == [0, 0]
    assert [one.message for one in caplog.records].count("refresh.base_has_cascade") == 1
    assert all(row.base != bundle.digest for row in read_history(room.store))
