"""The command line: every verb helps, is documented, and fails with the right code."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime import registry
from edge_runtime.cli import main

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = (ROOT / "docs/reference/cli.md").read_text()
BUNDLE = ROOT / "examples/gas_turbine/bundles/turbine-nox-1.0.0"


@pytest.mark.parametrize("name", registry.names("commands"))
def test_every_command_helps_with_an_example_and_is_documented(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--help`` shows an example, and the reference has an entry."""
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])

    out = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "example:\n  edge-runtime " in out
    assert f"`edge-runtime {name}" in REFERENCE


def _leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    nested = [
        leaf
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for sub in action.choices.values()
        for leaf in _leaves(sub)
    ]
    return nested or [parser]


@pytest.mark.parametrize("name", registry.names("commands"))
def test_every_verb_speaks_json(name: str) -> None:
    """Each verb, and each verb below it, takes ``--json``."""
    parser = argparse.ArgumentParser(name)
    registry.find("commands", name)().configure(parser)

    without = [
        leaf.prog
        for leaf in _leaves(parser)
        if not any("--json" in action.option_strings for action in leaf._actions)
    ]

    assert without == []


def test_check_prints_the_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A device that fits is drawn from source to sinks, with shapes and units."""
    config = tmp_path / "device.yaml"
    config.write_text(_device(BUNDLE))

    code = main(["check", str(config)])

    out = capsys.readouterr().out
    assert code == 0
    assert "at 0.000277778 Hz" in out
    assert "int8[1, 9]" in out


def test_check_names_the_line_of_an_unknown_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown key ends with code 2, its place in the file and a suggestion."""
    config = tmp_path / "device.yaml"
    config.write_text(_device(BUNDLE).replace("upload:", "uplaod:"))

    code = main(["check", str(config)])

    err = capsys.readouterr().err
    assert code == 2
    assert "device.yaml:10:" in err
    assert "upload" in err


def test_a_bare_model_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    """`check --model` prints tensors, state and quantisation, as text and as JSON."""
    model = str(ROOT / "tests/data/models/hello_world_int8.tflite")

    assert main(["check", "--model", model]) == 0
    shown = capsys.readouterr().out
    assert main(["check", "--model", model, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert re.search(r"precision +int8", shown) and re.search(r"state +none", shown)
    assert (found["precision"], found["state_kind"], found["batch"]) == (
        "int8",
        "stateless",
        "equal",
    )
    assert found["inputs"][0]["scale"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--model", "{folder}/cut.tflite"], 1, "cut.tflite: load: "),
        (["--model", "{folder}/none.onnx"], 1, "none.onnx: bundle: "),
        (["--model", "{folder}/cut.tflite", "--shape", "wide"], 2, "--shape 576"),
        (["--model", "{folder}/cut.tflite", "--constant", "sr"], 2, "--constant sr=16000"),
        ([], 2, "DEVICE.yaml, or --model FILE"),
        (["device.yaml", "--model", "x.tflite"], 2, "DEVICE.yaml, or --model FILE"),
    ],
)
def test_a_bare_model_that_cannot_be_judged_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    """A bad file ends with 1, bad options with 2, and both with what to do."""
    whole = (ROOT / "tests/data/models/hello_world_int8.tflite").read_bytes()
    (tmp_path / "cut.tflite").write_bytes(whole[:1000])

    ended = main(["check", *(one.format(folder=tmp_path) for one in arguments)])

    message = capsys.readouterr().err
    assert ended == code
    assert says in message
    assert "expected" in message and "\n  " in message


def test_a_verb_imports_only_what_it_needs() -> None:
    """`run` parses its arguments without numpy: the supervisor pays for nothing else."""
    script = (
        "import sys\n"
        "from edge_runtime.cli import parser\n"
        "parser(['run']).parse_args(['run', 'device.yaml'])\n"
        "print([name for name in ('numpy', 'yaml', 'paho') if name in sys.modules])\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_a_damaged_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A truncated model file fails admission with code 1, and the process lives."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in BUNDLE.iterdir():
        content = file.read_bytes()
        (folder / file.name).write_bytes(content[:500] if file.suffix == ".tflite" else content)

    code = main(["bundle", "admit", str(folder)])

    assert code == 1
    assert "Do not use this bundle" in capsys.readouterr().err


def test_a_good_bundle_is_admitted(capsys: pytest.CaptureFixture[str]) -> None:
    """The committed base reproduces its golden vectors on this machine."""
    code = main(["bundle", "admit", str(BUNDLE), "--json"])

    assert code == 0
    assert json.loads(capsys.readouterr().out)["is_admitted"] is True


def _device(bundle: Path) -> str:
    return f"""\
device: turbine-1
state: state
streams:
  turbine:
    source:
      kind: csv
      path: {ROOT}/examples/gas_turbine/gas_turbine_2011_2015.csv
      time: {{start: "2013-01-01T00:00:00Z", step_s: 3600}}
    model: {{bundle: {bundle}}}
    upload: windows
"""
