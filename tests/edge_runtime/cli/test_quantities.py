"""Numbers on the command line are checked where they are read, and refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.cli import main

BUNDLE = str(Path(__file__).parents[3] / "examples/gas_turbine/bundles/turbine-nox-1.0.0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["parity", BUNDLE, "--kills", "-1"], "argument --kills: '-1'; expected a whole number, 0"),
        (["parity", BUNDLE, "--limit", "0"], "argument --limit: '0'; expected a whole number, 1"),
        (["parity", BUNDLE, "--seed", "x"], "argument --seed: 'x'; expected a whole number, 0"),
        (["modes", BUNDLE, "--limit", "-5"], "argument --limit: '-5'; expected"),
        (["batch", BUNDLE, "x.csv", "-o", "y.csv", "--block", "1.5"], "argument --block: '1.5'"),
        (["check", "--model", "x.onnx", "--limit-s", "inf"], "expected seconds above 0"),
        (["check", "--model", "x.onnx", "--limit-s", "nan"], "expected seconds above 0"),
        (
            ["stream", BUNDLE, "--source", "csv", "--key", "k", "--live", "0"],
            "argument --live: '0'",
        ),
    ],
)
def test_a_number_that_makes_no_sense_is_a_usage_error(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the option, what was given, what was expected."""
    with pytest.raises(SystemExit) as ended:
        main(words)

    assert ended.value.code == 2
    assert message in capsys.readouterr().err
