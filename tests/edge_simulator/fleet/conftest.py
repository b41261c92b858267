"""A small recording, a model that adds it up, and fleets on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import Golden, save_bundle, write_arrays, write_golden
from edge_runtime.spec import ArtefactSpec, ChannelSpec, Limit, ModelSpec, StreamSpec, WindowSpec
from edge_simulator.fleet.load import Fleet, load_fleet

ROWS, LENGTH = 400, 5

HEAD = """\
schema: 1
seed: 5
duration: 2min
devices:
  - name: pump
    count: 2
    device:
      streams:
        main:
          source: {kind: csv, path: rows.csv, time: {start: "2013-01-01T00:00:00Z", step_s: 1}}
          model: {bundle: sum-1}
          upload: windows
    spread: {main: {first_row: 10}}
"""


def samples() -> np.ndarray:
    """Two channels around zero, decimal like a sensor's."""
    drawn: np.ndarray = np.random.default_rng(7).normal(0, 1, (ROWS, 2)).round(3)
    return drawn


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``rows.csv`` and two bundles of one line, ``sum-1`` and ``sum-2``."""
    folder = tmp_path_factory.mktemp("fleet")
    write_recording(folder / "rows.csv")
    write_bundle(folder / "sum-1", rate_hz=1.0, label="high")
    write_bundle(folder / "sum-2", rate_hz=1.0, label="high", version="2", factor=1.5)
    return folder


def write_recording(path: Path) -> None:
    """Write both channels as CSV."""
    lines = [f"{a},{b}" for a, b in samples().tolist()]
    path.write_text("a,b\n" + "\n".join(lines) + "\n")


def write_bundle(
    path: Path, *, rate_hz: float, label: str, version: str = "1", factor: float = 1.0
) -> None:
    """Write a model that answers the sum of a window's samples, times a factor."""
    weights = np.full((2 * LENGTH, 1), factor, np.float32)
    inputs = samples()[: 4 * LENGTH].reshape(4, LENGTH, 2)
    outputs = inputs.astype(np.float32).reshape(4, -1) @ weights
    spec = ModelSpec(
        name="sum",
        version=version,
        kind="regressor",
        stream=StreamSpec((ChannelSpec("a"), ChannelSpec("b")), rate_hz=rate_hz),
        window=WindowSpec(length=LENGTH, hop=1),
        artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
        labels=(label,),
        limits=(Limit(label, on=4.0, off=2.0),),
    )
    files = {
        "model.npz": write_arrays({"w0": weights, "b0": np.zeros(1, np.float32)}),
        "golden.npz": write_golden(Golden(inputs, outputs.astype(np.float64))),
    }
    save_bundle(path, spec, files)


@pytest.fixture
def cellar(tmp_path: Path) -> Path:
    """Return a folder with the recording and the bundle that the how-to page talks about."""
    write_recording(tmp_path / "bearing.csv")
    write_bundle(tmp_path / "bundles" / "pump-bearing", rate_hz=1 / 60, label="wear")
    return tmp_path


@pytest.fixture
def make_fleet(workshop: Path, tmp_path: Path) -> Callable[..., Fleet]:
    """Read a fleet made of the usual head and what a test adds."""

    def make(more: str = "", *, edit: tuple[str, str] = ("", "")) -> Fleet:
        path = tmp_path / "fleet.yaml"
        assert edit[0] in HEAD
        path.write_text((HEAD.replace(*edit) if edit[0] else HEAD) + more)
        return load_fleet(path, folder=workshop)

    return make
