"""What a model in a child process costs per window, over the same model in this process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
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
        rounds: Rounds of a hundred calls of each variant; 20 are enough.
    """
    here, there = _timing(MODELS / FILES["kws"], rounds)
    tiny_here, tiny_there = _timing(MODELS / FILES["hello"], rounds)
    peers = {
        "in this process us": here,
        "in a child us": there,
        "tiny model, added us": tiny_there - tiny_here,
    }
    return [Row.of("isolation_process_us", there - here, "us", bar=BAR_US, peers=peers)]


def _timing(path: Path, rounds: int) -> tuple[float, float]:
    """Return the time of a call here and in a child, µs."""
    model = path.read_bytes()
    here = load_session(None, "tflite", model)
    there = open_in_process(model, Setting(None, "tflite", SessionOptions(), 30.0, 1024))
    row = np.zeros(here.inputs[0].shape, here.inputs[0].dtype)
    taken_ns: dict[str, list[int]] = {"here": [], "there": []}
    try:
        for _ in range(rounds):
            taken_ns["here"] += _calls(lambda: here.run(row))
            taken_ns["there"] += _calls(lambda: there.run(row))
    finally:
        there.close()
    return _quiet_us(taken_ns["here"]), _quiet_us(taken_ns["there"])


def _calls(call: Callable[[], object]) -> list[int]:
    taken_ns = []
    for _ in range(100):
        start_ns = time.perf_counter_ns()
        call()
        taken_ns.append(time.perf_counter_ns() - start_ns)
    return taken_ns


def _quiet_us(taken_ns: list[int]) -> float:
    """Return the fastest twentieth: whatever takes the processor from the child is not its cost.

    The parent cannot see such an interruption, so that no sample can be left out for it.
    """
    return statistics.quantiles(taken_ns, n=20)[0] / 1e3
