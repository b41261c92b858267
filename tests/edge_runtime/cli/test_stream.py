"""``edge-runtime stream``: one line from any source to any sink, and on from the last snapshot."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_runtime.cli import main

TURBINE = Path(__file__).parents[3] / "examples" / "gas_turbine"
BUNDLE = TURBINE / "bundles" / "turbine-nox-1.0.0"
ROWS = 2000
SOURCE = (
    f"csv:path={TURBINE / 'gas_turbine_2011_2015.csv'},last_row={ROWS},block=8,"
    "time={start: 2011-01-01T00:00:00Z,step_s: 3600}"
)
PATIENCE_S = 60.0


def _words(*more: str, source: str = SOURCE) -> list[str]:
    return ["stream", str(BUNDLE), "--source", source, *more]


def _streamed(folder: Path, *more: str) -> list[str]:
    """Stream all rows without a break."""
    assert main(_words("--sink", f"jsonl:path={folder / 'whole.jsonl'}", *more)) == 0
    return _by_kind(folder / "whole.jsonl")


def _by_kind(path: Path) -> list[str]:
    """Return decisions, then estimates: a block of samples has all its estimates first.

    What a result is called counts the starts, which differ where a run was killed.
    """
    text = re.sub(r'("result":"[^/"]+)/[0-9]+/', r"\1/EPOCH/", path.read_text())
    lines = text.splitlines()
    return sorted(lines, key=lambda line: str(json.loads(line)["kind"]))


def test_every_row_is_answered_and_what_became_of_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Estimates and decisions go to the sink, the status to the standard output as JSON."""
    lines = _streamed(tmp_path, "--json", "--name", "stack", "--device", "plant-1")

    status = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in lines]
    assert status["streams"]["stack"]["position"] == ROWS
    assert sum(row["kind"] == "estimate" for row in rows) == ROWS
    assert {(row["device"], row["stream"]) for row in rows} == {("plant-1", "stack")}


@pytest.mark.slow
def test_killed_and_resumed_the_file_is_that_of_a_run_without_a_break(tmp_path: Path) -> None:
    """SIGKILL five times: no line is lost, none is there twice."""
    expected = _streamed(tmp_path)
    out, kills = tmp_path / "out.jsonl", 0
    state = ("--state", str(tmp_path / "state"), "--snapshot-s", "0.01")
    words = _words("--sink", f"jsonl:path={out}", *state, source=f"{SOURCE},speed=3600000")

    while True:
        child = subprocess.Popen([sys.executable, "-m", "edge_runtime.cli", *words])
        if kills < 5 and _has_grown(out, child):
            child.kill()
        kills += child.wait(PATIENCE_S) == -signal.SIGKILL
        if child.returncode == 0:
            break

    assert kills == 5
    assert _by_kind(out) == expected


def test_without_a_state_folder_it_begins_at_the_beginning(tmp_path: Path) -> None:
    """Nothing is left behind that would make a second run go on."""
    assert len(_streamed(tmp_path)) < len(_streamed(tmp_path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("csv:path", "expected KIND or KIND:KEY=VALUE"),
        (":path=x.csv", "expected KIND or KIND:KEY=VALUE"),
        ("cvs:path=x.csv", "csv"),
        ("csv:path=x.csv,sped=max", "the command line: unknown key '--source.sped'"),
        ("csv:path=x.csv", "the command line: key '--source.time' is missing"),
        ("csv:path=x.csv,columns={a: [}", "--source columns"),
        ("csv:path=nowhere.csv,time={start: 2011-01-01T00:00:00Z,step_s: 3600}", "nowhere.csv"),
    ],
)
def test_what_is_wrong_with_a_source_is_said(
    source: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each mistake has its sentence, and no traceback."""
    code = main(_words(source=source))

    assert code in (1, 2)
    assert message in capsys.readouterr().err


def _has_grown(path: Path, child: subprocess.Popen[bytes]) -> bool:
    """Wait until a child has written something; False if it ended first."""
    before = path.stat().st_size if path.exists() else 0
    until = time.monotonic() + PATIENCE_S
    while child.poll() is None and time.monotonic() < until:
        if path.exists() and path.stat().st_size > before + 2000:
            return True
    return False
