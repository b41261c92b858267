"""``tune`` shows and stores, ``check`` and ``run`` use it, ``doctor`` has exit codes."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import msgspec
import pytest

from edge_runtime.cli import main
from edge_runtime.config import load_device
from edge_runtime.doctor import Health, Report
from edge_runtime.modes.edge import EdgeDevice

pytest.importorskip("ai_edge_litert")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).resolve().parents[3]
BUNDLE = ROOT / "examples/gas_turbine/bundles/turbine-nox-1.0.0"
QUICK = ["tune", str(BUNDLE), "--seconds", "0.2"]


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device on 200 rows of the turbine."""
    path = tmp_path / "device.yaml"
    path.write_text(f"""\
device: turbine-1
state: state
streams:
  turbine:
    source:
      kind: csv
      path: {ROOT}/examples/gas_turbine/gas_turbine_2011_2015.csv
      time: {{start: "2013-01-01T00:00:00Z", step_s: 3600}}
      last_row: 200
    model: {{bundle: {BUNDLE}}}
""")
    return path


def test_the_table_marks_what_was_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One row is marked, the precision is commented, and the profile's place is told."""
    code = main([*QUICK, "--profiles", str(tmp_path), "--backend", "litert"])

    out = capsys.readouterr().out
    (path,) = tmp_path.glob("*.json")
    assert code == 0
    assert sum(line.startswith("*") for line in out.splitlines()) == 1
    assert "The bundle has int8 models alone" in out
    assert f"Stored in {path}." in out


def test_a_dry_run_stores_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The measurement is printed, as JSON where asked for, and forgotten."""
    code = main([*QUICK, "--profiles", str(tmp_path), "--dry-run", "--json", "--backend", "litert"])

    facts = json.loads(capsys.readouterr().out)
    assert code == 0
    assert facts["profile"] is None
    assert facts["choice"] == {
        **facts["choice"],
        "backend": facts["rows"][facts["chosen"]]["candidate"]["backend"],
    }
    assert list(tmp_path.iterdir()) == []


def test_nothing_admissible_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no candidate can be measured, code 1, the reason, and no profile."""
    code = main([*QUICK, "--profiles", str(tmp_path), "--backend", "tflite-runtime"])

    out = capsys.readouterr().out
    if "left out" in out:
        assert code == 1
        assert "Nothing to choose" in out
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [["--accelerator", "cudda"], ["--backend", "onxx"]])
def test_a_name_that_nothing_knows_is_a_usage_error(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Code 2 and a suggestion."""
    code = main([*QUICK, *wrong])

    assert code == 2
    assert "Did you mean" in capsys.readouterr().err


def test_check_and_run_use_the_choice(
    device: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """What was stored for the device is what it runs; both say where it comes from."""
    profiles = device.parent / "state" / "profiles"
    main([*QUICK, "--profiles", str(profiles), "--backend", "onnx"])
    capsys.readouterr()

    main(["check", str(device)])
    with caplog.at_level(logging.INFO, "edge_runtime.modes.boot"):
        EdgeDevice(load_device(device)).run(drain_s=0.0)

    drawn = capsys.readouterr().out
    assert re.search(r"runs     onnx, \d threads?: tuned for latency", drawn)
    assert "(model_int8.onnx)" in drawn
    (record,) = [one for one in caplog.records if one.message == "model.chosen"]
    assert vars(record)["backend"] == "onnx"
    assert vars(record)["why"].startswith("tuned for latency")


def test_the_configuration_wins_over_the_choice(
    device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backend that a person wrote stands, and the line says so."""
    profiles = device.parent / "state" / "profiles"
    main([*QUICK, "--profiles", str(profiles), "--backend", "onnx"])
    device.write_text(device.read_text().replace(f"{BUNDLE}}}", f"{BUNDLE}, backend: litert}}"))
    capsys.readouterr()

    main(["check", str(device)])

    assert "runs     litert, 1 thread: as configured" in capsys.readouterr().out


def test_an_absent_accelerator_ends_run_with_its_remedy(
    device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``run --accelerator`` never falls back: code 1 and what to install."""
    code = main(["run", str(device), "--accelerator", "vx"])

    err = capsys.readouterr().err
    assert code == 1
    assert "libvx_delegate.so, which is not on this machine" in err
    assert "board's Linux image" in err


def _report(*states: str) -> Report:
    backends = tuple(Health(f"b{i}", state=state) for i, state in enumerate(states))  # type: ignore[arg-type]
    return Report("0", "3", "Linux", "x", "", "cpu", (), 1, 1024, backends, (), ())


@pytest.mark.parametrize(("states", "code"), [(("works", "broken"), 0), (("absent", "broken"), 1)])
def test_the_doctor_fails_where_nothing_runs(
    states: tuple[str, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One runtime that works is enough; without any, code 1 and the remedy."""
    monkeypatch.setattr("edge_runtime.cli.doctor.examine", lambda **_: _report(*states))

    assert main(["doctor"]) == code
    assert ("pip install" in capsys.readouterr().out) == bool(code)


def test_the_doctor_speaks_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report can be read back."""
    monkeypatch.setattr("edge_runtime.cli.doctor.examine", lambda **_: _report("works"))

    main(["doctor", "--json"])

    assert msgspec.json.decode(capsys.readouterr().out, type=Report) == _report("works")
