"""What counting costs a window: two durations, each noted in a histogram."""

from __future__ import annotations

import time

import numpy as np
from measure import interleaved
from results import Row

from edge_runtime.metrics import Histogram
from edge_runtime.modes.models import TimedSession
from edge_runtime.types import StateKind, TensorSpec

__all__ = ["rows"]

BAR_US = 1.0
CALLS = 200


class _Nothing:
    """A session that answers at once."""

    inputs = (TensorSpec("x", (1, 1), "float32"),)
    outputs = (TensorSpec("y", (1, 1), "float32"),)
    state_kind: StateKind = "stateless"

    def run(self, batch: np.ndarray) -> np.ndarray:
        return batch


def rows(*, rounds: int) -> list[Row]:
    """Measure the row.

    Args:
        rounds: Samples of each variant.
    """
    row = np.zeros((1, 1), np.float32)
    bare = _Nothing()
    timed = TimedSession(bare, Histogram())  # type: ignore[arg-type]
    pushes = Histogram()

    def nothing() -> None:
        pass

    def noted() -> None:
        # What `Serving.push` does around a push.
        start_ns = time.perf_counter_ns()
        pushes.note(time.perf_counter_ns() - start_ns)

    timing = interleaved(
        {
            "bare": lambda: bare.run(row),
            "timed": lambda: timed.run(row),
            "nothing": nothing,
            "noted": noted,
        },
        rounds=rounds,
        calls=CALLS,
    )
    call_us = timing["timed"].median_us - timing["bare"].median_us
    push_us = timing["noted"].median_us - timing["nothing"].median_us
    peers = {"call of the model us": call_us, "push us": push_us}
    return [Row.of("metrics_us", call_us + push_us, "us", bar=BAR_US, peers=peers)]
