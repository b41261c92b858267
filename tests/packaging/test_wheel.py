"""The built wheel does without the clone what the clone does."""

from __future__ import annotations

import json
import os
import subprocess
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import Golden, save_bundle, write_arrays, write_golden
from edge_runtime.spec import ArtefactSpec, ChannelSpec, ModelSpec, StreamSpec, WindowSpec

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 420
PLUGINS = ["plugins", "--json"]
DEVICE = """\
device: bench-1
state: state
sync: {port: 9}
streams:
  main:
    source: {kind: csv, path: recording.csv, time: {start: "2013-01-01T00:00:00Z", step_s: 1}}
    model: {bundle: bundle, backend: reference}
    upload: windows
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it as a release would."""
    folder = tmp_path_factory.mktemp("wheel")
    # The environment of the tests may come from uv, and then has no pip.
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv/bin/python"
    _run([python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT], folder)
    (built,) = folder.glob("*.whl")
    return built


def _run(command: list[object], folder: Path) -> str:
    """Run in ``folder``, away from the clone; return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_holds_code_licences_and_the_demos_data_and_nothing_else(wheel: Path) -> None:
    """Four packages and the demo's data with their origin; no tests, no GPL data, small."""
    names = zipfile.ZipFile(wheel).namelist()

    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"edge_runtime", "edge_cloud", "edge_simulator", "edge_converters"}
    assert [name for name in names if "skab" in name.lower() or "/tests/" in name] == []
    data = "edge_simulator/demo/data"
    assert {f"{data}/gas_turbine/DATA.md", f"{data}/fan_vibration/DATA.md"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {f"{package}/py.typed" for package in tops} <= set(names)
    assert wheel.stat().st_size < 4_000_000


@pytest.fixture(scope="module")
def device_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and nothing it does not need."""
    return _environment(tmp_path_factory.mktemp("device"), str(wheel))


def test_a_device_install_brings_four_packages_and_no_more(
    device_python: Path, tmp_path: Path
) -> None:
    """The base install imports, lists its plug-ins, and stays small."""
    _run([device_python, "-c", "import edge_runtime"], tmp_path)

    plugins = json.loads(_run([device_python.with_name("edge-runtime"), *PLUGINS], tmp_path))
    installed = json.loads(_run([device_python, "-m", "pip", "list", "--format", "json"], tmp_path))

    assert "csv" in plugins["sources"]
    assert "reference" in plugins["backends"]
    names = {entry["name"].lower().replace("_", "-") for entry in installed}
    assert names - {"pip", "setuptools", "wheel"} == {
        "edge-runtime",
        "msgspec",
        "numpy",
        "paho-mqtt",
        "pyyaml",
    }


def test_a_device_install_runs_a_model_without_any_extra(
    device_python: Path, tmp_path: Path
) -> None:
    """`edge-runtime run` decides on a recording with the reference backend, and keeps the rows."""
    _write_device(tmp_path)

    run = [device_python.with_name("edge-runtime"), "run", "device.yaml", "--drain-s", 0, "--json"]
    status = json.loads(_run(run, tmp_path))

    assert status["streams"]["main"]["estimates"] == status["backlog_rows"] == 20


def test_the_demo_runs_without_a_clone(wheel: Path, tmp_path: Path) -> None:
    """``pip install WHEEL[demo]`` and ``edge-runtime demo`` lose no row."""
    python = _environment(tmp_path, f"{wheel}[demo]")
    command = [python.with_name("edge-runtime"), "demo", "--headless", "--days", 8]
    command += ["--human-seconds", 1, "--broker", "iotcore", "--json", "result.json"]

    _run(command, tmp_path)

    result = json.loads((tmp_path / "result.json").read_text())
    assert result["rows_stored"] == result["source_rows"] == 8 * 24
    assert result["rows_lost"] == result["rows_duplicated"] == 0
    assert (tmp_path / "demo/report.html").stat().st_size > 100_000


def _environment(folder: Path, requirement: str) -> Path:
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv/bin/python"
    _run([python, "-m", "pip", "install", "--quiet", requirement], folder)
    return python


def _write_device(folder: Path) -> None:
    spec = ModelSpec(
        name="sum",
        version="1",
        kind="regressor",
        stream=StreamSpec((ChannelSpec("a"), ChannelSpec("b")), rate_hz=1.0),
        window=WindowSpec(length=1, hop=1),
        artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
        labels=("total",),
    )
    model = write_arrays({"w0": np.ones((2, 1), np.float32), "b0": np.zeros(1, np.float32)})
    golden = write_golden(Golden(np.ones((1, 1, 2)), np.full((1, 1), 2.0)))
    save_bundle(folder / "bundle", spec, {"model.npz": model, "golden.npz": golden})
    (folder / "recording.csv").write_text("a,b\n" + "1,2\n" * 20)
    (folder / "device.yaml").write_text(DEVICE)
