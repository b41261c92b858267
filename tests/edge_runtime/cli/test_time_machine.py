"""``run --record``, ``replay`` and ``explain`` on the command line."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.cli import main

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples/gas_turbine"
OTHER = EXAMPLE / "bundles/turbine-nox-2.0.0"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a device with ``--record``; its live results lie beside the recording."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "device.yaml").write_text(
        "device: turbine-1\nstate: state\nsinks: [{kind: jsonl, path: live.jsonl}]\n"
        "streams:\n  turbine:\n"
        f"    source: {{kind: csv, path: {EXAMPLE / 'gas_turbine_2011_2015.csv'}, last_row: 900,\n"
        "             time: {start: 2013-01-01T00:00:00Z, step_s: 3600}, block: 11}\n"
        f"    model: {{bundle: {EXAMPLE / 'bundles/turbine-nox-1.0.0'}}}\n"
    )
    assert main(["run", str(folder / "device.yaml"), "--record", str(folder / "rec")]) == 0
    return folder


def _replay(recorded: Path, *options: str) -> int:
    return main(["replay", str(recorded / "rec"), *options])


def _live(recorded: Path) -> bytes:
    return (recorded / "live.jsonl").read_bytes()


@pytest.mark.parametrize("speed", ["max", "1e9", "3e7"])
def test_every_speed_gives_the_same_bytes(recorded: Path, tmp_path: Path, speed: str) -> None:
    """Unpaced, or paced at any speed: the file that the device itself had written."""
    out = tmp_path / "again.jsonl"

    assert _replay(recorded, "--speed", speed, "-o", str(out)) == 0

    assert out.read_bytes() == _live(recorded)


def test_step_by_step_gives_the_same_bytes(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key for each window, one to the next decision, one to run on."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("   d r"))
    out = tmp_path / "again.jsonl"

    assert _replay(recorded, "--step", "-o", str(out)) == 0

    assert out.read_bytes() == _live(recorded)


def test_a_key_ends_a_replay_on_a_terminal(recorded: Path) -> None:
    """Keys count without enter, and the terminal is as it was before."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edge_runtime.cli", "replay", str(recorded / "rec"), "--step"]
    child = subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    first = child.stdout.readline()
    os.write(ours, b" ")
    second = child.stdout.readline()
    os.write(ours, b"q")
    rest, _ = child.communicate(timeout=90)
    os.close(ours)
    os.close(theirs)

    assert " now " in first and " now " in second and first != second
    assert rest.startswith("turbine: ")


@pytest.mark.parametrize("speed", ["max", "86400"])
def test_a_span_is_cut_out(recorded: Path, tmp_path: Path, speed: str) -> None:
    """Only windows that end in the span are shown; they are the device's own lines."""
    out = tmp_path / "day.jsonl"

    span = ["--from", "2013-01-05", "--to", "2013-01-06T00:00:00Z", "--speed", speed]
    code = _replay(recorded, *span, "-o", str(out))

    lines = out.read_bytes().splitlines()
    assert code == 0
    assert set(lines) <= set(_live(recorded).splitlines())
    assert sum(json.loads(line)["kind"] == "estimate" for line in lines) == 24


def test_what_cannot_be_drawn_is_refused_at_once(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page or a picture: another ending is refused before anything is done."""
    words = ["explain", "turbine-1/1/turbine/5", "--recording", str(recorded / "rec")]

    code = main([*words, "-o", str(tmp_path / "why.pdf")])

    told = capsys.readouterr().err
    assert code == 2
    assert ".html" in told and ".png" in told
    assert not list(tmp_path.iterdir())


def test_a_result_is_drawn_as_a_picture(recorded: Path, tmp_path: Path) -> None:
    """The ending chooses: what is written is a PNG."""
    pytest.importorskip("matplotlib")
    words = ["explain", "turbine-1/1/turbine/5", "--recording", str(recorded / "rec")]

    code = main([*words, "-o", str(tmp_path / "why.png")])

    assert code == 0
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_without_matplotlib_a_picture_says_what_to_install(
    recorded: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The install line and nothing written; the page needs nothing and is drawn."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    words = ["explain", "turbine-1/1/turbine/5", "--recording", str(recorded / "rec")]

    code = main([*words, "-o", str(tmp_path / "why.png")])
    told = capsys.readouterr().err
    code_of_page = main([*words, "-o", str(tmp_path / "why.html")])

    assert (code, code_of_page) == (1, 0)
    assert 'pip install "edge-runtime[demo]"' in told
    assert [one.name for one in tmp_path.iterdir()] == ["why.html"]


def test_a_page_that_cannot_be_written_is_told(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that is not there: where, why and what to do, and no traceback."""
    words = ["explain", "turbine-1/1/turbine/5", "--recording", str(recorded / "rec")]

    code = main([*words, "-o", str(tmp_path / "nowhere" / "why.html")])

    assert code == 1
    assert "cannot be written (No such file or directory)" in capsys.readouterr().err


def test_another_bundle_prints_what_differs(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it would have said is no failure; decisions of one side alone are listed."""
    code = _replay(recorded, "--bundle", str(OTHER), "--quiet")

    out = capsys.readouterr().out
    assert code == 0
    assert "differs from what the device made: 900 of 900 windows" in out
    assert "only the device made" in out


def test_a_replay_reports_in_json(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The proof in numbers."""
    code = _replay(recorded, "--json")

    (report,) = json.loads(capsys.readouterr().out).values()
    assert code == 0
    assert report["is_equal"] is True
    assert report["comparison"]["windows"] == report["windows"] == 900


def test_an_output_is_not_overwritten_by_chance(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is there stays, unless the flag says otherwise."""
    out = tmp_path / "x.jsonl"
    out.write_text("mine")

    assert _replay(recorded, "-o", str(out)) == 2
    assert out.read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err
    assert _replay(recorded, "-o", str(out), "--overwrite") == 0
    assert out.read_bytes() == _live(recorded)


@pytest.mark.parametrize("option", [["--from", "monday"], ["--stream", "x"], ["--bundle", "no"]])
def test_a_replay_that_cannot_be_says_why(
    recorded: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong time, stream or bundle ends with a message and a code."""
    assert _replay(recorded, *option) in (1, 2)

    assert capsys.readouterr().err.count("\n") >= 2


def test_a_result_is_explained_and_drawn(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name that the sink shows, in words, in JSON and as a page."""
    decision = next(
        row for row in map(json.loads, _live(recorded).splitlines()) if row["kind"] == "decision"
    )
    page = tmp_path / "why.html"
    words = ["explain", decision["result"], "--recording", str(recorded / "rec")]

    assert main([*words, "-o", str(page)]) == 0
    text = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    assert "Byte-equal" in text and decision["result"] in text
    assert told["is_equal"] is True
    assert told["decisions"][0]["value"] == decision["value"]
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("result", "code"), [("nonsense", 2), ("turbine-1/1/turbine/99999", 1), ("x/1/turbine/5", 1)]
)
def test_a_result_nobody_knows_is_refused(
    recorded: Path, result: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 for what is no name, 1 for what is not on the tape."""
    assert main(["explain", result, "--recording", str(recorded / "rec")]) == code

    assert result in capsys.readouterr().err
