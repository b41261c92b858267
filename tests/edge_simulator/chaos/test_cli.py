"""`edge-runtime simulate chaos`: a short run closes its books, and a bad one fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from edge_runtime.cli import main
from edge_simulator.chaos.books import Tally
from edge_simulator.chaos.run import Report

FIELDS = (
    "seed",
    "kills",
    "rows_made",
    "rows_stored",
    "rows_duplicated",
    "rows_evicted",
    "rows_in_gaps",
    "seconds",
)


@pytest.mark.slow
def test_a_short_run_closes_its_books(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kills happen, at steps and anywhere, and every row made is stored once or in a gap."""
    report = tmp_path / "chaos.json"
    words = ["--seed", "7", "--seconds", "15", "--report", str(report), "--json"]

    code = main(["simulate", "chaos", *words])

    told = json.loads(report.read_bytes())
    assert code == 0, told
    assert json.loads(capsys.readouterr().out) == told
    assert all(name in told for name in FIELDS)
    assert told["rows_made"] == told["rows_stored"] + told["rows_in_gaps"] > 1000
    assert (told["rows_duplicated"], told["rows_lost"], told["rows_waiting"]) == (0, 0, 0)
    assert told["kills_at_steps"] and told["kills_anywhere"]
    assert told["kills"] >= 10
    assert sorted(told["kills_of_ingests"]) == ["ingest-1", "ingest-2"]


def test_a_plan_is_printed_and_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    """With --plan nothing runs; the same seed prints the same lines."""
    printed = []

    for seed in ("7", "7", "8"):
        assert main(["simulate", "chaos", "--seed", seed, "--plan"]) == 0
        printed.append(capsys.readouterr().out)

    assert printed[0] == printed[1] != printed[2]
    assert "device-1, at its next" in printed[0] and "broker, wherever" in printed[0]


def _books(**change: object) -> Tally:
    sound = Tally("d", 9, 9, duplicated=0, dropped=0, in_gaps=0, waiting=0, lost=(), foreign=0)
    return msgspec.structs.replace(sound, **change)


@pytest.mark.parametrize(
    ("change", "is_balanced"),
    [
        ({}, True),
        ({"is_drained": False}, False),
        ({"devices": [_books(stored=8, lost=(5,))]}, False),
        ({"devices": [_books(duplicated=1)]}, False),
        ({"devices": [_books(stored=8, waiting=1)]}, False),
        ({"devices": [_books(foreign=1)]}, False),
        ({"devices": [_books(stored=8, in_gaps=1)]}, False),
        ({"devices": [_books(stored=8, in_gaps=1, dropped=1)]}, True),
        ({"devices": [_books(dropped=1)]}, True),
    ],
)
def test_books_that_do_not_close_fail_the_run(change: dict[str, object], is_balanced: bool) -> None:
    """A row lost, doubled, waiting or invented, or a drop that nobody was told of."""
    report = Report(
        seed=7,
        plan_sha256="",
        kills=0,
        kills_a_minute=0.0,
        kills_at_steps={},
        kills_anywhere={},
        kills_of_ingests={},
        ends_on_full_disk=0,
        fuses_left=0,
        rows_made=9,
        rows_stored=9,
        rows_duplicated=0,
        rows_evicted=0,
        rows_in_gaps=0,
        rows_waiting=0,
        rows_lost=0,
        lost=[],
        is_drained=True,
        seconds=1.0,
        drain_s=1.0,
        broker="iotcore",
        devices=[_books()],
        links={},
    )

    assert msgspec.structs.replace(report, **change).is_balanced is is_balanced


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    """SIGINT ends everything that was started, with code 130."""
    out = tmp_path / "out"
    command = ["-m", "edge_runtime.cli", "simulate", "chaos", "--seed", "7", "--out", str(out)]
    child = subprocess.Popen(
        [sys.executable, *command], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    deadline_s = time.monotonic() + 120
    while not (out / "device-3" / "state.db").exists():
        assert time.monotonic() < deadline_s and child.poll() is None
        threading.Event().wait(0.05)

    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=120)

    assert child.returncode == 130, told
    assert "nothing of it is left running" in told
    assert _running_in(out) == []


def _running_in(folder: Path) -> list[str]:
    """Return command lines of processes that name a folder, or have a file of it open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
            files = [os.readlink(link) for link in (process / "fd").iterdir()]  # noqa: PTH115
        except OSError:
            continue
        if any(str(folder) in text for text in (command, *files)):
            found.append(command)
    return found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--seconds", "0"], "from 1 to"),
        (["--devices", "99"], "from 1 to 50"),
        (["--ingests", "0"], "from 1 to 8"),
    ],
)
def test_wrong_usage_is_refused(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and what would have been right."""
    assert main(["simulate", "chaos", *words]) == 2
    assert says in capsys.readouterr().err
