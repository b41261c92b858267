"""`edge-runtime simulate`: shipped scenarios hold, tables and exit codes tell the truth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime.cli import main
from edge_simulator.fleet.shipped import scenario_names

# It plays a month, sample by sample.
_LONG = {"slow-drift": pytest.mark.slow}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=_LONG.get(name, ())) for name in scenario_names()]
)
def test_a_shipped_scenario_holds(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything it expects is so."""
    code = main(["simulate", name, "--check", "--headless"])

    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "FAILED" not in printed and "ok " in printed


@pytest.fixture
def fleet_file(workshop: Path) -> Path:
    """Return a fleet that expects more than it can hold."""
    path = workshop / "short.yaml"
    path.write_text(
        """\
duration: 20s
devices:
  - name: pump
    device:
      streams:
        main:
          source: {kind: csv, path: rows.csv, time: {start: "2013-01-01T00:00:00Z", step_s: 1}}
          model: {bundle: sum-1}
          upload: windows
expect:
  - {what: rows_lost, equals: 0}
  - {what: rows_made, at_least: 1000}
  - {what: decision, label: high, within: 1s}
"""
    )
    return path


def test_what_does_not_hold_fails_a_check_and_is_shown(
    fleet_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, and the table says what was expected, what was found, and where it stands."""
    code = main(["simulate", str(fleet_file), "--check"])

    printed = capsys.readouterr().out
    assert code == 1
    assert "FAILED  rows made             at least 1000" in printed
    assert f"{fleet_file}:12:5: rows made is 17." in printed
    assert "none by pump-1" in printed


def test_without_check_an_expectation_is_only_shown(fleet_file: Path) -> None:
    """Who only looks gets exit code 0."""
    assert main(["simulate", str(fleet_file), "--headless"]) == 0


def test_the_result_is_kept_where_it_is_asked_for(
    fleet_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--out` keeps the JSON lines, whose last is what `--json` prints, and never overwrites."""
    out = tmp_path / "out"

    assert main(["simulate", str(fleet_file), "--out", str(out), "--json", "--seed", "8"]) == 0

    printed = json.loads(capsys.readouterr().out)
    last = json.loads((out / "result.jsonl").read_text().splitlines()[-1])
    assert printed.pop("expectations")[0]["holds"] is True
    assert printed == last
    assert last["seed"] == 8
    assert main(["simulate", str(fleet_file), "--out", str(out)]) == 2
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["no-such-fleet"], "there is no such file"),
        (["broker-gon"], "Did you mean 'broker-gone'?"),
        (["growing-unbalance", "--speed", "fast"], "--speed is 'fast'"),
        (["bad-update", "--mode", "processes", "--speed", "max"], "mode processes"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A message with what is there and what to do, and no run."""
    assert main(["simulate", *arguments]) == 2

    assert what in capsys.readouterr().err
