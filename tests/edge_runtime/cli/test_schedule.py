"""``edge-runtime schedule``: what a file plans is done, and can be looked up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_runtime.cli import main
from edge_runtime.clock import SystemClock
from edge_runtime.modes.schedule import History

ROOT = Path(__file__).parents[3]
TURBINE = ROOT / "examples" / "gas_turbine"
BUNDLE = TURBINE / "bundles" / "turbine-nox-1.0.0"
PLAN = """\
history: schedule.db
jobs:
  score:
    when: {{every_s: 1}}
    run: [{run}]
schema: 1
"""
PATIENCE_S = 60.0


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A batch job every second, known for long enough to be due."""
    rows = (TURBINE / "gas_turbine_2011_2015.csv").read_text().splitlines(keepends=True)[:101]
    (tmp_path / "rows.csv").write_text("".join(rows))
    words = f"batch, {BUNDLE}, rows.csv, -o, 'scores-{{date}}.csv', --overwrite"
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.format(run=words))
    return path


class _Earlier(SystemClock):
    def now_ns(self) -> int:
        return super().now_ns() - 10**10


def _known(plan: Path) -> None:
    history = History(plan.parent / "schedule.db", _Earlier())
    history.known_since("score")
    history.close()


def test_what_is_due_is_done_and_told(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The day of the planned instant stands in the name of the output."""
    _known(plan)

    code = main(["schedule", str(plan), "--once", "--json"])

    (run,) = json.loads(capsys.readouterr().out)
    day = time.strftime("%Y-%m-%d", time.gmtime(run["planned_ns"] // 10**9))
    assert code == 0
    assert run["outcome"] == "ok"
    assert "100 rows read" in run["told"]
    assert (plan.parent / f"scores-{day}.csv").is_file()


def test_a_verb_that_there_is_not_is_found_before_its_time(
    plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the place in the file, and the verb that was meant."""
    plan.write_text(PLAN.format(run="bacth, rows.csv"))

    code = main(["schedule", str(plan), "--next"])

    told = capsys.readouterr().err
    assert code == 2
    assert "plan.yaml:4:5" in told
    assert "Did you mean 'batch'?" in told


def test_a_job_that_fails_is_told_with_its_reason(
    plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1; the history keeps what it said."""
    _known(plan)
    (plan.parent / "rows.csv").unlink()

    code = main(["schedule", str(plan), "--once"])
    capsys.readouterr()
    main(["schedule", str(plan), "--history", "--json"])

    told = json.loads(capsys.readouterr().out)
    assert code == 1
    assert [run["outcome"] for run in told if run["outcome"] != "skipped"] == ["failed"]
    assert any("rows.csv" in run["told"] for run in told)


def test_it_works_until_it_is_asked_to_end(plan: Path) -> None:
    """SIGINT ends it with code 0, after the job that runs."""
    child = subprocess.Popen([sys.executable, "-m", "edge_runtime.cli", "schedule", str(plan)])
    until = time.monotonic() + PATIENCE_S
    while not list(plan.parent.glob("scores-*.csv")) and time.monotonic() < until:
        os.sched_yield()

    child.send_signal(signal.SIGINT)

    assert child.wait(PATIENCE_S) == 0
    assert list(plan.parent.glob("scores-*.csv"))


def test_what_comes_next_can_be_asked(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name, as JSON or for people."""
    assert main(["schedule", str(plan), "--next", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["score"]
    assert main(["schedule", str(plan), "--next"]) == 0
    assert "score" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAN.format(run="batch, 'x-{dat}.csv'"), "{date}"),
        (PLAN.format(run="batch, 'x-{.csv'"), "{date}"),
        (PLAN.format(run=""), "jobs.score.run"),
        (PLAN.format(run="batch").replace("every_s: 1", "every_s: 0.5"), "every_s"),
        (PLAN.format(run="batch").replace("score", "Score!"), "job"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    """With the place in the file; nothing is run."""
    (tmp_path / "plan.yaml").write_text(text)

    assert main(["schedule", str(tmp_path / "plan.yaml"), "--once"]) == 2
    assert message in capsys.readouterr().err
