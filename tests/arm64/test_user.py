"""The device in the emulated system, started as a user starts it, from our built wheel."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest

from edge_runtime.cli import main

from .conftest import TOOLS  # isort: skip

pytestmark = pytest.mark.arm64

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = "examples/gas_turbine/bundles/turbine-nox-1.0.0"
LIMIT_S = 240


def _inside(arm64: Path, *command: str) -> str:
    """Run a command there and return what it printed."""
    done = subprocess.run(
        ["sh", str(TOOLS / "enter.sh"), str(arm64), "python3.11", *command],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_doctor_finds_both_runtimes_at_work(arm64: Path) -> None:
    """Each has run the tiny model, on aarch64."""
    found = json.loads(_inside(arm64, "-m", "edge_runtime.cli", "doctor", "--json"))

    assert found["architecture"] == "aarch64"
    states = {one["backend"]: one["state"] for one in found["backends"]}
    assert (states["litert"], states["onnx"]) == ("works", "works")
    assert not any(one["state"] == "problem" for one in found["findings"])


@pytest.mark.parametrize("backend", ["litert", "onnx"])
def test_scores_are_those_of_this_machine(arm64: Path, backend: str) -> None:
    """Across architectures answers agree within the bundle's tolerance, not to the byte."""
    lines = (ROOT / "examples/gas_turbine/gas_turbine_2011_2015.csv").read_text().splitlines()
    rows, here, there = (
        arm64 / "root/check" / f"{backend}-{what}.csv" for what in ("rows", "here", "there")
    )
    rows.write_text("\n".join(lines[:201]) + "\n")
    options = ["--backend", backend, "--workers", "1", "--overwrite"]
    assert main(["batch", str(ROOT / BUNDLE), str(rows), "-o", str(here), *options]) == 0

    batch = ["-m", "edge_runtime.cli", "batch", f"/src/{BUNDLE}", f"/check/{rows.name}"]
    _inside(arm64, *batch, "-o", f"/check/{there.name}", *options)

    ours, theirs = _answers(here), _answers(there)
    assert len(ours) == len(theirs) == 200
    assert theirs == pytest.approx(ours, abs=0.5)


def _answers(path: Path) -> list[float]:
    return [float(row["value"]) for row in csv.DictReader(path.read_text().splitlines())]
