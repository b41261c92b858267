"""Streams of one model: loaded once, and asked about together where that was measured to pay."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import load_bundle
from edge_runtime.clock import SystemClock
from edge_runtime.config import OutboxConfig, load_device
from edge_runtime.modes import failures, gathering
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.modes.models import SharedModels, TimedSession
from edge_runtime.ports import Choice
from edge_runtime.profiles import Machine, Measured, Profile, write_profile
from edge_runtime.sync.frames import decode_table
from edge_runtime.sync.outbox import Outbox

from .conftest import LENGTH, ROWS, Backlog, replayed  # isort: skip

STREAMS = ("s0", "s1", "s2", "s3")
FRAMES = -(-ROWS // 7)


@pytest.fixture
def run(device_yaml: Callable[..., Path], bundle: Path) -> Callable[[str, int | None], EdgeDevice]:
    """Run four streams of one model over one recording, tuned so that blocks pay, or not."""

    def make(state: str, micro_batch: int | None) -> EdgeDevice:
        path = device_yaml()
        # With a broker, though nobody is there, records are kept.
        sync = f"sync: {{host: 127.0.0.1, port: 9}}\nstate: {state}"
        text = path.read_text().replace("state: state", sync)
        head, _, stream = text.partition("  main:\n")
        path.write_text(head + "".join(f"  {name}:\n{stream}" for name in STREAMS))
        loaded = load_bundle(bundle)
        measured = Measured(Choice("reference", micro_batch=micro_batch), "float32", 1.0, 1.0)
        profile = Profile(loaded.digest, loaded.ref, Machine.here(), "latency", (measured,), 1)
        write_profile(profile, path.parent / state / "profiles")
        device = EdgeDevice(load_device(path))
        device.run(drain_s=0.0)
        return device

    return make


def kept(folder: Path) -> dict[str, dict[str, bytes]]:
    """Return what is in an outbox, by stream and column."""
    outbox = Outbox.open(
        folder / "outbox.db",
        epoch=10**6,
        incarnation=1,
        config=OutboxConfig(),
        clock=SystemClock(),
    )
    with closing(outbox):
        blocks = outbox.pending(limit_bytes=10**9)
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for block in blocks:
        if block.kind in ("estimate", "decision"):
            for name, column in decode_table(block.body).columns.items():
                found.setdefault(block.stream, {}).setdefault(name, []).append(column)
    return {
        stream: {name: np.concatenate(parts).tobytes() for name, parts in columns.items()}
        for stream, columns in found.items()
    }


def calls(device: EdgeDevice) -> int:
    """Return how often the model was called."""
    session = device._streams["s0"].serving.pipeline.scorer.session
    assert isinstance(session, TimedSession)
    return sum(session.answers.counts)


def test_streams_asked_together_keep_the_same_records(
    run: Callable[[str, int | None], EdgeDevice], tmp_path: Path
) -> None:
    """With fewer calls of the model every stream has the bytes that it has alone."""
    alone, together = run("alone", None), run("together", 2)

    expected, found = kept(tmp_path / "alone"), kept(tmp_path / "together")
    assert set(expected) == {*STREAMS, *(f"{name}-decisions" for name in STREAMS)}
    assert found == expected
    assert calls(together) < calls(alone) / 4


@pytest.mark.parametrize("extra", ["", "record: {}"])
def test_frames_that_are_answered_at_once_keep_the_same_records(
    device_yaml: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    """A device that is behind answers many frames in fewer calls, and no byte is another."""
    sync = f"sync: {{host: 127.0.0.1, port: 9}}\n{extra}"
    path = device_yaml(sync)
    with monkeypatch.context() as patch:
        patch.setattr(gathering, "_MOST", 1)
        EdgeDevice(load_device(path)).run(drain_s=0.0)
    expected = kept(tmp_path / "state")
    path.write_text(path.read_text().replace("state: state", "state: behind"))
    backlog = Backlog(monkeypatch)

    backlog.run(path)

    assert kept(tmp_path / "behind") == expected
    assert set(expected) == {"main", "main-decisions"}
    assert backlog.pushes < FRAMES / 4
    if extra:
        assert replayed(load_device(path).recording)["main"].is_equal


def test_a_stream_with_large_snapshots_goes_frame_by_frame(
    device_yaml: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is taken before frames are answered at once; after the first that is large, no more."""
    monkeypatch.setattr(failures, "_SMALL_SNAPSHOT_BYTES", 10)
    backlog = Backlog(monkeypatch)

    values = backlog.run(device_yaml())

    # Eight waited then, and as many were in hand.
    assert FRAMES - 16 <= backlog.pushes < FRAMES
    assert len(values) == ROWS - LENGTH + 1


def test_a_model_is_loaded_once_for_all_its_streams(bundle: Path) -> None:
    """Streams share a stateless session; one that failed is loaded again for who asks for it."""
    models, loaded = SharedModels(), load_bundle(bundle)

    first, second = (models.open(loaded, Choice()) for _ in range(2))
    again = models.open(loaded, Choice(), is_new=True)
    third = models.open(loaded, Choice())

    assert second is first
    assert again is not first
    assert third is again


def test_streams_of_a_model_that_remembers_have_state_of_their_own() -> None:
    """Each gets a fork of the one loaded model, and all note into one histogram."""
    models = SharedModels()
    loaded = load_bundle(
        Path(__file__).parents[3] / "examples/gas_turbine/bundles/turbine-nox-1.0.0"
    )
    root = models.open(loaded, Choice())
    root.state_kind = "variables"

    fork = models.open(loaded, Choice())

    assert fork is not root
    assert fork.answers is root.answers
