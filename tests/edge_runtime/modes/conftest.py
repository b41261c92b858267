"""A device on a recording of 600 rows, with a model of one dense layer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle import Golden, save_bundle, write_arrays, write_golden
from edge_runtime.clock import SystemClock
from edge_runtime.config import load_device
from edge_runtime.modes import gathering
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.modes.gathering import Gatherer
from edge_runtime.modes.player import Player, Span, StreamReport
from edge_runtime.modes.replay import Bundles
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Limit,
    ModelSpec,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.tape import open_tapes

ROWS = 600
LENGTH, HOP = 5, 1


def recording() -> np.ndarray:
    """Two channels, decimal like a sensor's."""
    return np.random.default_rng(7).normal(0, 1, (ROWS, 2)).round(3)


def replayed(folder: Path) -> dict[str, StreamReport]:
    """Replay tapes and return what came of every stream."""
    with closing(Player(open_tapes(folder), Bundles(), Span())) as player:
        for _ in player.play(None, SystemClock()):
            pass
        return player.report()


class Backlog:
    """Holds the pipeline at every answer until frames wait, so that they go at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stream: str = "main") -> None:
        self._stream = stream
        # However long the first frame took.
        monkeypatch.setattr(Gatherer, "note", lambda gatherer, *_: setattr(gatherer, "_most", 64))
        self._values: dict[int, list[float]] = {}
        self._device: EdgeDevice | None = None
        self.pushes = 0

    def _note(self, name: str, facts: Mapping[str, Any]) -> None:
        if name != "estimates.made" or facts["stream"] != self._stream:
            return
        self._values |= dict(zip(facts["index"], facts["value"], strict=True))
        assert self._device is not None
        source = self._device._sources[self._stream]
        while len(self._device._inbox) < 8 and not source.is_exhausted:
            threading.Event().wait(0.005)

    def run(self, yaml: Path) -> dict[int, list[float]]:
        """Run a device; return the stream's values by index."""
        self._device = EdgeDevice(load_device(yaml), on_event=self._note)
        self._device.run(drain_s=0.0)
        self.pushes = sum(self._device._streams[self._stream].serving.pushes.counts)
        return self._values


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer every frame by itself, however many wait."""
    monkeypatch.setattr(gathering, "_MOST", 1)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The sum of a window's samples; the label ``high`` starts above 3."""
    spec = ModelSpec(
        name="sum",
        version="1",
        kind="regressor",
        stream=StreamSpec((ChannelSpec("a"), ChannelSpec("b")), rate_hz=1.0),
        window=WindowSpec(length=LENGTH, hop=HOP),
        artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
        labels=("high",),
        limits=(Limit("high", on=3.0, off=1.0),),
    )
    model = write_arrays(
        {"w0": np.ones((2 * LENGTH, 1), np.float32), "b0": np.zeros(1, np.float32)}
    )
    inputs = recording()[: 4 * LENGTH].reshape(4, LENGTH, 2)
    outputs = inputs.astype(np.float32).sum(axis=(1, 2), keepdims=True)[:, :, 0].astype(np.float64)
    golden = write_golden(Golden(inputs, outputs))
    save_bundle(tmp_path / "bundle", spec, {"model.npz": model, "golden.npz": golden})
    return tmp_path / "bundle"


@pytest.fixture
def device_yaml(tmp_path: Path, bundle: Path) -> Callable[..., Path]:
    """Write a recording and a device on it; ``extra`` lines go to the end of the YAML."""

    def write(extra: str = "", *, rows: list[str] | None = None) -> Path:
        if rows is None:
            rows = [f"{i},{a},{b}" for i, (a, b) in enumerate(recording().tolist())]
        (tmp_path / "recording.csv").write_text("t,a,b\n" + "\n".join(rows) + "\n")
        path = tmp_path / "device.yaml"
        path.write_text(
            f"""\
schema: 1
device: bench-1
state: state
outbox: {{commit_s: 0.001}}
streams:
  main:
    source:
      kind: csv
      path: recording.csv
      block: 7
      time: {{column: t, format: unix_s}}
    model: {{bundle: {bundle.name}}}
    upload: windows
{extra}
"""
        )
        return path

    return write
