"""``edge-runtime batch``: what it prints, and the code it ends with."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.cli import main
from edge_runtime.modes.batch.display import Display

ROOT = Path(__file__).resolve().parents[3]
BUNDLE = str(ROOT / "examples/gas_turbine/bundles/turbine-nox-1.0.0")
TURBINE = ROOT / "examples/gas_turbine/gas_turbine_2011_2015.csv"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """The first thousand hours of the gas turbine."""
    path = tmp_path / "hours.csv"
    path.write_text("".join(TURBINE.read_text().splitlines(keepends=True)[:1001]))
    return path


def test_a_file_is_scored_and_the_report_is_json(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command scores a CSV file; the report says how many, how fast and with what."""
    output = tmp_path / "scores.csv"

    code = main(["batch", BUNDLE, str(rows), "-o", str(output), "--keep", "year,NOX", "--json"])

    report = json.loads(capsys.readouterr().out)
    header, *lines = csv.reader(output.read_text().splitlines())
    assert code == 0
    assert header == ["index", "value", "year", "NOX"]
    assert [line[0] for line in lines] == [str(row) for row in range(1000)]
    assert lines[0][2:] == ["2011", "81.952"]
    assert report["bundle"] == "turbine-nox@1.0.0"
    assert (report["rows"], report["windows"], report["is_complete"]) == (1000, 1000, True)
    assert report["outputs"] == [str(output)] and report["rows_per_s"] > 0


@pytest.mark.parametrize(
    ("timing", "message"),
    [
        ("delay_s=2", "has no grid"),
        ("delay=2", "delay_s"),
        ("delay_s=-1", "delay_s"),
        ("2", "KEY=VALUE"),
    ],
)
def test_timing_that_does_not_fit_is_explained(
    timing: str, message: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle without a grid, a slip of the pen, a value out of range, no pair."""
    words = ["batch", BUNDLE, str(rows), "-o", str(tmp_path / "x.csv"), "--timing", timing]

    code = main(words)

    assert code == 2
    assert message in capsys.readouterr().err


def test_discards_are_counted(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows with empty or infinite cells are left out and said to be."""
    lines = rows.read_text().splitlines()
    lines[7] = lines[7].replace("2011,", "2011,inf,", 1).rpartition(",")[0]
    lines[9] = "2011" + "," * 11
    rows.write_text("\n".join(lines) + "\n")
    output = tmp_path / "scores.csv"

    code = main(["batch", BUNDLE, str(rows), "-o", str(output)])

    assert code == 0
    assert "1000 rows read, 998 windows scored, 2 not_finite" in capsys.readouterr().out
    assert len(output.read_text().splitlines()) == 999


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "scores.csv", "--map", "AT"], 2, "--map is 'AT'"),
        (["-o", "scores.csv", "--map", "AT=nothing"], 2, "no column 'nothing'"),
        (["-o", "scores.xls"], 2, "suffix is '.xls'"),
        (["-o", "hours.csv", "--overwrite"], 2, "the output is the input"),
        (["-o", "scores.csv", "--backend", "nothing"], 1, "'nothing'"),
    ],
)
def test_mistakes_end_with_their_code(
    arguments: list[str],
    code: int,
    message: str,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each message names what is wrong, and standard output stays empty."""
    monkeypatch.chdir(tmp_path)

    found = main(["batch", BUNDLE, rows.name, *arguments])

    captured = capsys.readouterr()
    assert found == code
    assert message in captured.err and captured.out == ""


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SIGINT finishes the shard at hand, says how to go on, and nothing is lost."""
    output = tmp_path / "scores.csv"
    command = ["batch", BUNDLE, str(rows), "-o", str(output), "--shard-rows", "100", "--json"]
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Display, "show", lambda *_: signal.raise_signal(signal.SIGINT))
        first_code = main(command)
    stopped = capsys.readouterr()

    second_code = main(command)

    first, second = json.loads(stopped.out), json.loads(capsys.readouterr().out)
    assert (first_code, second_code) == (130, 0)
    assert "give the same command again" in stopped.err
    assert (first["is_complete"], first["rows"], first["outputs"]) == (False, 100, [])
    assert (second["resumed_from"], second["rows"]) == (100, 1000)
    assert signal.getsignal(signal.SIGINT) is before
    assert [line.split(",")[0] for line in output.read_text().splitlines()[1:]] == [
        str(row) for row in range(1000)
    ]


@pytest.mark.parametrize(
    ("suffix", "most_bytes"),
    [(".csv", 16500), (".parquet", 9000), (".sqlite", 16500), (".duckdb", 16500)],
)
def test_a_file_that_may_not_grow_is_said_so(
    suffix: str, most_bytes: int, rows: Path, tmp_path: Path
) -> None:
    """A real limit of the system on a file's size, met while the output grows."""
    output = tmp_path / f"scores{suffix}"
    script = (
        "import resource, signal, sys\n"
        "from edge_runtime.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, {most_bytes}))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, "batch", BUNDLE, str(rows), "-o", str(output), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1 and done.stdout == ""
    assert "cannot write" in done.stderr and "goes on where it stopped" in done.stderr
    assert not output.exists()
