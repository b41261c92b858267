"""The command line: every verb helps, is documented, and fails with the right code."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
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


def test_the_stages_of_a_cascade_are_listed(
    cascade_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By check, bundle show and tune, each with what it asks the next about."""
    bundle = cascade_bundle()
    config = _cascaded(bundle, tmp_path)
    lines = (
        "gate (its features alone) asks the next for level from 0.8",
        "small (small.npz) asks the next for the largest value below 0.75",
    )

    codes, told = [], []
    for words in (
        ["check", str(config)],
        ["tune", str(bundle), "--seconds", "0.1", "--dry-run"],
        ["bundle", "show", str(bundle)],
    ):
        codes.append(main(words))
        told.append(capsys.readouterr().out)

    assert codes == [0, 0, 0]
    assert all(line in text for line in lines for text in told[:2])
    assert "'name': 'gate', 'ask_next': {'at_least': 0.8, 'label': 'level'}" in told[2]


def test_a_stage_that_does_not_fit_its_tensor_is_found_by_check(
    cascade_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any hardware is touched."""
    bundle = cascade_bundle()
    manifest = bundle / "bundle.yaml"
    manifest.write_text(manifest.read_text().replace("- std\n", "- std\n    - max\n"))
    config = _cascaded(bundle, tmp_path)

    code = main(["check", str(config)])

    assert code != 0
    assert "features have shape (6,), 6 numbers" in capsys.readouterr().err


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


def _cascaded(bundle: Path, folder: Path) -> Path:
    rows, config = folder / "rows.csv", folder / "device.yaml"
    rows.write_text("t,a,b\n0,1,2\n")
    config.write_text(
        f"""\
device: bench-1
state: state
streams:
  main:
    source: {{kind: csv, path: {rows}, time: {{column: t, format: unix_s}}}}
    model: {{bundle: {bundle}}}
"""
    )
    return config


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


def test_a_warning_shows_the_facts_that_came_with_it(tmp_path: Path) -> None:
    """A device whose sensor is absent says which node is missing and what to do, and goes on."""
    config = tmp_path / "fan-1.yaml"
    config.write_text(
        f"""\
device: fan-1
state: state
streams:
  main:
    source: {{kind: serial, port: {tmp_path}/no-port, format: {{kind: json}}}}
    model: {{bundle: {ROOT}/examples/fan_vibration/bundles/fan-unbalance-1.0.0}}
"""
    )
    command = [sys.executable, "-m", "edge_runtime.cli", "run", "--no-supervisor", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as device:
        assert device.stderr is not None
        line = device.stderr.readline()
        device.terminate()

    assert "source.failed stream=main why=" in line
    assert "no-port" in line
    assert device.returncode == 0
