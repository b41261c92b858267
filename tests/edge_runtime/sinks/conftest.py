"""One block of results."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.types import Decision, Estimates, Output


@pytest.fixture
def output() -> Output:
    value = np.array([[0.1 + 0.2, 0.7], [np.nan, 1 / 3]])
    estimates = Estimates(
        index=np.array([3, 7]),
        start_ns=np.array([0, 4], np.int64) * 10**9,
        end_ns=np.array([3, 7], np.int64) * 10**9,
        score=value / 2,
        value=value,
        inputs=None,
        effective_id="0123456789abcdef",
    )
    start = Decision("pump", 7, 7 * 10**9, "bearing", "worn", "start", 0.912345, "0123456789abcdef")
    return Output("pump", estimates, (start,))
