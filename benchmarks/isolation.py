"""What a model in a child process costs per window, over the same model in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from measure import interleaved
from results import Row

from edge_runtime.backends import load_session
from edge_runtime.backends.process import open_in_process
from edge_runtime.backends.shared import Setting
from edge_runtime.ports import SessionOptions

__all__ = ["rows"]

MODELS = Path(__file__).parents[1] / "tests" / "data" / "models"
# A tiny model shows the hand-over alone, the keyword model what it is beside real work.
FILES = {"hello": "hello_world_int8.tflite", "kws": "kws_dscnn_int8.tflite"}
BAR_US = 40.0


def rows(*, rounds: int) -> list[Row]:
    """Measure the time that ``isolation: process`` adds to a window.

    Args:
        rounds: Samples of each variant; 200 give steady medians.
    """
    timing = {name: _timing(MODELS / file, rounds) for name, file in FILES.items()}
    here, there = timing["kws"]
    peers = {"in this process us": here, "in a child us": there}
    peers |= {"tiny model, added us": timing["hello"][1] - timing["hello"][0]}
    return [Row.of("isolation_process_us", there - here, "us", bar=BAR_US, peers=peers)]


def _timing(path: Path, rounds: int) -> tuple[float, float]:
    """Return the time of a call here and in a child, µs."""
    model = path.read_bytes()
    here = load_session(None, "tflite", model)
    there = open_in_process(model, Setting(None, "tflite", SessionOptions(), 30.0, 1024))
    row = np.zeros(here.inputs[0].shape, here.inputs[0].dtype)
    try:
        taken = interleaved(
            {"here": lambda: here.run(row), "there": lambda: there.run(row)},
            rounds=rounds,
            calls=20,
        )
    finally:
        there.close()
    return taken["here"].median_us, taken["there"].median_us
