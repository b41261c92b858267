"""``edge-runtime cloud``: every verb, its JSON and its exit codes."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_cloud.cli import Cloud
from edge_cloud.jobs import Jobs
from edge_cloud.signing import SigningKey
from edge_cloud.store import Store
from edge_runtime.bundle import Bundle
from edge_runtime.cli import main
from edge_runtime.sync.messages import Life

from .conftest import frame_of

YAML = """\
store: store
keys: {layer: layer.key}
bundles: [turbine-1]
refresh: [{line: turbine}]
"""


class Shell:
    """Runs verbs in a folder with a cloud."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.config = str(folder / "cloud.yaml")

    def run(self, *words: str) -> tuple[int, Any]:
        code = main(["cloud", *words, "--json"])
        out = self.capsys.readouterr().out
        return code, msgspec.json.decode(out) if out else None


@pytest.fixture
def shell(tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> Shell:
    (tmp_path / "cloud.yaml").write_text(YAML)
    for name in ("layer.key", "release.key"):
        SigningKey.generate().save(tmp_path / name)
    store = Store(tmp_path / "store")
    frame = frame_of(0, 30)
    frame.table.columns["inputs"] = np.zeros((30, 1, 2), np.float32)
    store.ingest([frame])
    Jobs(store).note_life(Life("pump-1", 1, 7, True, base={"main": bundle.digest}))
    store.close()
    return Shell(tmp_path, capsys)


def parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found += parsers(child)
    return found


def test_every_verb_has_help_an_example_and_json() -> None:
    """A person who types --help sees a line to copy."""
    parser = argparse.ArgumentParser()
    Cloud().configure(parser)
    leaves = [each for each in parsers(parser) if "verb" in each._defaults]

    assert len(leaves) == 11
    for leaf in leaves:
        assert leaf.description
        assert "example:\n  edge-runtime cloud" in (leaf.epilog or "")
        assert "--json" in leaf.format_help()


def test_status_counts_what_is_there(shell: Shell) -> None:
    """Rows, devices and jobs in one place."""
    code, status = shell.run("status", shell.config)

    assert code == 0
    assert status["store"]["rows"] == 30
    assert status["devices"][0]["device"] == "pump-1"


def test_publish_signs_keeps_and_offers(shell: Shell, newer_bundle: Bundle, tmp_path: Path) -> None:
    """One verb from a folder to a job; the next base gets the next sequence number."""
    words = ("publish", shell.config, str(tmp_path / "turbine-2"), "--key")
    code, first = shell.run(*words, str(tmp_path / "release.key"), "--alias", "live")
    _, second = shell.run(*words, str(tmp_path / "release.key"))

    assert code == 0
    assert first["digest"] == newer_bundle.digest
    assert len(first["jobs"]) == 1
    assert (first["seq"], second["seq"]) == (1, 2)


def test_rescore_reports_what_it_did_and_resumes(
    shell: Shell, newer_bundle: Bundle, tmp_path: Path
) -> None:
    """Asked twice, it does the work once."""
    key = str(tmp_path / "release.key")
    shell.run("publish", shell.config, str(tmp_path / "turbine-2"), "--key", key)

    runs = [shell.run("rescore", shell.config, "turbine@2")[1] for _ in range(2)]

    assert [(run["rows"], run["resumed"]) for run in runs] == [(30, 0), (0, 1)]


def test_labels_are_imported_and_those_without_a_row_are_said(shell: Shell) -> None:
    """A label for a row that never came is kept and reported."""
    path = shell.folder / "labels.csv"
    path.write_text("device,stream,time_ns,value,known_at_ns\npump-1,main,5,1.5,6\n")

    code, result = shell.run("labels", "import", shell.config, str(path))

    assert code == 0
    assert result == {"added": 1, "labels_without_row": {"pump-1/main": 1}}


def test_refresh_once_does_what_is_due(shell: Shell) -> None:
    """For cron and for tests: one pass, then the end."""
    assert shell.run("refresh", shell.config, "--once") == (0, {"jobs": 1})
    assert shell.run("refresh", shell.config, "--once") == (0, {"jobs": 0})


def test_compact_and_delete(shell: Shell) -> None:
    """Deleting needs a yes; without it nothing is touched and the exit code is 2."""
    assert shell.run("compact", shell.config) == (0, {"files_merged_away": 0})
    assert shell.run("devices", "delete", shell.config, "pump-1")[0] == 2
    assert shell.run("devices", "delete", shell.config, "pump-1", "--yes") == (0, {"rows": 30})


def test_keys_are_made_private(shell: Shell) -> None:
    """A new key is 0600; an existing one is kept."""
    path = shell.folder / "new.key"

    assert shell.run("keys", "new", str(path))[0] == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert shell.run("keys", "new", str(path))[0] == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("status", "missing.yaml"), 2),
        (("rescore", "CONFIG", "nobody@1"), 2),
        (("publish", "CONFIG", "missing", "--key", "release.key"), 1),
        (("labels", "import", "CONFIG", "missing.csv"), 2),
    ],
)
def test_mistakes_have_their_exit_codes(shell: Shell, words: tuple[str, ...], code: int) -> None:
    """Usage is 2, a bundle that cannot be read is 1."""
    assert main(["cloud", *(w.replace("CONFIG", shell.config) for w in words)]) == code


def test_up_ends_cleanly_on_a_signal(shell: Shell) -> None:
    """Without a broker it waits for one; a signal ends it with exit code 0."""
    (shell.folder / "cloud.yaml").write_text(YAML + "broker: {port: 9}\n")
    child = subprocess.Popen(
        [sys.executable, "-m", "edge_runtime.cli", "cloud", "up", shell.config],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    assert "running" in child.stderr.readline()

    child.send_signal(signal.SIGTERM)

    assert child.wait(timeout=30) == 0
