"""The command shows its paths and its health, and says in JSON why it said no."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_converters.workers.environments import ENVIRONMENTS
from edge_runtime.cli import main

MODELS = Path(__file__).parents[1] / "data" / "models"
FLOAT = str(MODELS / "hello_world_float.tflite")
ONNX = str(MODELS / "ic_resnet8_float.onnx")


@pytest.fixture(autouse=True)
def _no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed on this machine must not decide a test."""
    monkeypatch.setenv("EDGE_RUNTIME_WORKERS", str(tmp_path / "workers"))


def test_paths_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """What works, and why the rest does not."""
    assert main(["convert", "paths"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("sklearn" in line and "works" in line for line in lines)
    assert any("torch-weights" in line and "refused" in line for line in lines)
    cells = [line for line in lines if line.startswith("cell with explicit state")]
    assert [("int8" in line, "refused" in line) for line in cells] == [(True, False), (False, True)]

    assert main(["convert", "paths", "--json"]) == 0
    assert {one["state"] for one in json.loads(capsys.readouterr().out)} == {"works", "refused"}


def test_health_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Packages, environments, and how workers are shut in."""
    assert main(["convert", "doctor", "--json"]) == 0

    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert {f"worker {name}" for name in ENVIRONMENTS} <= found.keys()
    assert found["worker keras"]["found"] == "edge-runtime convert env sync keras"
    assert "network" in found["isolation"]["found"]


def test_environments_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """What would be installed can be read before it is."""
    assert main(["convert", "env", "list"]) == 0
    assert all(name in capsys.readouterr().out for name in ["sklearn"])

    assert main(["convert", "env", "show", "sklearn", "--json"]) == 0
    assert "scikit-learn" in json.loads(capsys.readouterr().out)["packages"]


def test_a_conversion_writes_a_bundle_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report lies beside the bundle, and is what ``--json`` prints."""
    output = tmp_path / "sine"

    assert main(["convert", FLOAT, "-o", str(output), "--json", "--quiet"]) == 0

    printed = json.loads(capsys.readouterr().out)
    report = json.loads((tmp_path / "sine-report" / "report.json").read_text())
    assert report == printed
    assert report["outcome"] == "uncalibrated"
    assert {"report.md", "report.html"} <= {
        one.name for one in (tmp_path / "sine-report").iterdir()
    }
    assert str(tmp_path) not in json.dumps(report)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["model.onnx", "-o", "x"], 2, "no such model"),
        ([FLOAT], 2, "without -o"),
        ([FLOAT, FLOAT, "-o", "x"], 2, "expected convert MODEL"),
        ([FLOAT, "-o", "x", "--to", "caffe"], 2, "caffe"),
        ([FLOAT, "-o", "x", "--precision", "int3"], 2, "int3"),
        ([FLOAT, "-o", "x", "--shape", "a,b"], 2, "whole numbers"),
        ([FLOAT, "-o", "x", "--constant", "a"], 2, "NAME=NUMBER"),
        ([FLOAT, "-o", "x", "--replay", FLOAT], 2, "no recipe"),
        ([ONNX, "-o", "x", "--to", "tflite"], 1, "refused"),
        ([ONNX, "-o", "x", "--stream", "1"], 1, "no LSTM, GRU or RNN"),
        (["env", "sync", "caffe"], 2, "caffe"),
        (["env", "dance"], 2, "env sync NAME"),
    ],
)
def test_what_cannot_be_done_is_said_twice(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In words on standard error, in JSON on standard output, with one exit code."""
    assert main(["convert", *words, "--json"]) == code

    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["exit_code"] == code
    assert said in printed.err
    assert told["error"]["what"] in printed.err
    assert told["error"]["expected"]


def test_a_pickle_needs_its_worker_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing heavy is installed by itself."""
    (tmp_path / "m.pkl").write_bytes(b"\x80\x04N.")

    assert main(["convert", str(tmp_path / "m.pkl"), "-o", str(tmp_path / "b")]) == 1

    assert "convert env sync sklearn" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
