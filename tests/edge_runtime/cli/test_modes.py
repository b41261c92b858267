"""``edge-runtime modes``: every mode is really run, and the table says what came of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime.cli import main
from edge_runtime.modes.compare import MODES

ROOT = Path(__file__).parents[3]
TURBINE = ROOT / "examples" / "gas_turbine"
BUNDLE = str(TURBINE / "bundles" / "turbine-nox-1.0.0")


def test_all_five_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Latencies are ordered, something is done every second, and batch has no latency."""
    code = main(["modes", BUNDLE, str(TURBINE / "gas_turbine_2011_2015.csv"), "--json"])

    rows = {row["mode"]: row for row in json.loads(capsys.readouterr().out)}
    batch = rows.pop("batch")
    assert code == 0
    assert [*rows, "batch"] == [name for name in MODES if name != "batch"] + ["batch"]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in rows.values())
    assert all(row["rate"] > 0 and row["network"] and row["purpose"] for row in rows.values())
    assert (batch["p50_ms"], batch["unit"]) == (None, "rows/s")


def test_few_rows_are_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seven rows are enough to measure with, and a value that is missing stops nothing."""
    lines = (TURBINE / "gas_turbine_2011_2015.csv").read_text().splitlines()[:8]
    lines[3] = "," * lines[0].count(",")
    (tmp_path / "few.csv").write_text("\n".join(lines) + "\n")

    code = main(["modes", BUNDLE, str(tmp_path / "few.csv")])

    assert code == 0
    assert "real-time" in capsys.readouterr().out
