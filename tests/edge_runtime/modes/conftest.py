"""A device on a recording of 600 rows, with a model of one dense layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import Golden, save_bundle, write_arrays, write_golden
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Limit,
    ModelSpec,
    StreamSpec,
    WindowSpec,
)

ROWS = 600
LENGTH, HOP = 5, 1


def recording() -> np.ndarray:
    """Two channels, decimal like a sensor's."""
    return np.random.default_rng(7).normal(0, 1, (ROWS, 2)).round(3)


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
