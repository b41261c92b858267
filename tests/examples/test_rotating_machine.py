"""The scripts of the rotating machine run and help."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "rotating_machine"


def _main(script: str) -> Callable[[list[str]], int]:
    main: Callable[[list[str]], int] = runpy.run_path(str(FOLDER / script))["main"]
    return main


def test_the_fault_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A PNG is written where it was asked for, whatever the machine."""
    pytest.importorskip("matplotlib")
    out = tmp_path / "fault.png"

    code = _main("plot_fault.py")(["--out", str(out), "--days", "0.5", "--dpi", "30"])

    assert code == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{out}\n"


def test_the_speed_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each machine, with what was made in how long."""
    assert _main("measure_speed.py")(["--hours", "0.002"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["healthy", "gear and broken bearing"]
    assert all("230,400 values" in line for line in lines)


@pytest.mark.parametrize("script", ["plot_fault.py", "measure_speed.py"])
def test_every_script_has_help(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Options tell what they mean."""
    with pytest.raises(SystemExit) as ended:
        _main(script)(["--help"])

    assert ended.value.code == 0
    assert "show this help message" in capsys.readouterr().out
