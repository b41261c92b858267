"""What is shipped, by the times that count."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_converters.contracts import Candidate, Latency, Request
from edge_converters.latency import TargetLatency
from edge_converters.latency.target import How
from edge_converters.stages.choose import choose
from edge_converters.targets import target_of
from edge_converters.verdict import Verdict

_PI = "raspberry-pi-4"
_VERDICT = Verdict(
    outcome="pass",
    metric="auc",
    float_value=0.9,
    value=0.9,
    loss=0.0,
    low=-0.001,
    high=0.001,
    max_drop=0.005,
    windows=900,
)


def _candidate(precision: str, here_us: float, there_us: float, how: How) -> Candidate:
    return Candidate(
        format="tflite",
        precision=precision,
        file=Path(f"{precision}.tflite"),
        size_bytes=100,
        latency=Latency(here_us, here_us),
        target=TargetLatency(board=_PI, how=how, p50_us=there_us),
        verdict=None if precision == "float32" else _VERDICT,
    )


@pytest.mark.parametrize(
    ("how", "chosen"), [("measured", "int8"), ("scaled", "int8"), ("estimate", "float32")]
)
def test_the_board_decides_once_it_has_answered(how: How, chosen: str) -> None:
    """int8 is slower here and quicker there: an estimate changes nothing, an answer does."""
    files = [_candidate("float32", 10.0, 90.0, "measured"), _candidate("int8", 20.0, 30.0, how)]
    request = Request(
        model="m.tflite",
        output=Path("out"),
        calib=Path("c"),
        eval=Path("e"),
        metric="auc",
        prefer="latency",
        target=_PI,
    )

    choice = choose(files, request, "tflite", target_of(_PI))

    assert choice.precision == chosen
