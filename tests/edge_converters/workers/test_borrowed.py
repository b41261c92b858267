"""An interpreter of somebody's own stands in for an environment, if it has what is needed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edge_converters.workers import borrowed as module
from edge_converters.workers.ask import Answer
from edge_converters.workers.borrowed import Borrowed, borrow, borrowed, find_worker, give_back
from edge_converters.workers.environments import ENVIRONMENTS, Environment
from edge_runtime.cli import main
from edge_runtime.errors import ConfigError, ModelError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's own environments are touched."""
    monkeypatch.setenv("EDGE_RUNTIME_WORKERS", str(tmp_path / "workers"))
    return tmp_path / "workers"


@pytest.fixture
def modest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker need no more than this interpreter has."""
    one = Environment("torch", "stands in", 1, needs={"numpy": "1.26", "msgspec": "0.18"})
    monkeypatch.setitem(ENVIRONMENTS, "torch", one)


def test_a_worker_that_is_not_here_says_how_to_get_it() -> None:
    """Nothing heavy is ever installed by itself."""
    with pytest.raises(ModelError, match="convert env sync keras") as raised:
        find_worker("keras", "model.keras")

    assert raised.value.where == "model.keras"
    assert "env use" not in raised.value.remedy


def test_a_worker_that_others_may_have_says_so() -> None:
    """Most people who have a program of PyTorch have PyTorch."""
    with pytest.raises(ModelError, match="convert env use torch PYTHON"):
        find_worker("torch", "model.pt2")


@pytest.mark.usefixtures("modest")
def test_what_was_named_is_taken_until_it_is_given_back() -> None:
    """With the versions it had, and as it was named: a link may be the environment."""
    named = borrow("torch", sys.executable)

    assert find_worker("torch", "model.pt2").python == Path(sys.executable)
    assert borrowed("torch") == named
    assert {"python", "numpy", "msgspec"} == named.versions.keys()
    give_back("torch")
    assert borrowed("torch") is None


@pytest.mark.usefixtures("modest")
def test_an_interpreter_that_is_gone_says_so(cache: Path) -> None:
    """Rather than that a file is missing."""
    borrow("torch", sys.executable)
    record = cache / "torch.json"
    record.write_text(json.dumps({"python": "/nowhere/python", "versions": {}}))

    with pytest.raises(ModelError, match=r"is gone.*expected /nowhere/python"):
        find_worker("torch", "model.pt2")


def test_what_is_missing_is_named_with_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed into an interpreter of somebody's own."""
    monkeypatch.setattr(module, "ask", _without_torch)

    with pytest.raises(ModelError, match=r"torch is missing, onnx 1\.16\.0") as raised:
        borrow("torch", sys.executable)

    assert "-m pip install onnx==" in raised.value.remedy
    assert borrowed("torch") is None


def _without_torch(*_: object, **__: object) -> object:
    found = {"torch": None, "onnx": "1.16.0", "onnxscript": "0.7.2"}
    return Answer({"python": "3.11.7", "packages": found}, "none", 1.0, 0.1)


@pytest.mark.parametrize(
    ("name", "python", "said"),
    [
        ("keras", sys.executable, "of its lock file alone"),
        ("torch", "/nowhere/python", "no such interpreter"),
        ("caffe", sys.executable, "no environment 'caffe'"),
    ],
)
def test_what_cannot_stand_in_is_refused(name: str, python: str, said: str) -> None:
    """An error of the caller."""
    with pytest.raises(ConfigError, match=said):
        borrow(name, python)


def test_a_damaged_record_says_how_to_write_it_again(cache: Path) -> None:
    """It is a file, and files break."""
    cache.mkdir()
    (cache / "torch.json").write_text("{")

    with pytest.raises(ConfigError, match="convert env use torch PYTHON"):
        find_worker("torch", "model.pt2")


@pytest.mark.usefixtures("modest")
def test_the_command_names_it_and_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    """In words, and as JSON."""
    assert main(["convert", "env", "use", "torch", sys.executable]) == 0
    assert "numpy" in capsys.readouterr().out

    assert main(["convert", "env", "list", "--json"]) == 0
    listed = {one["name"]: one["state"] for one in json.loads(capsys.readouterr().out)}
    assert listed["torch"] == sys.executable


def test_versions_are_told_in_a_line() -> None:
    """For provenance."""
    named = Borrowed(Path("/opt/python"), {"python": "3.12.1", "torch": "2.13.0"})

    assert str(named) == "/opt/python: python 3.12.1, torch 2.13.0"
