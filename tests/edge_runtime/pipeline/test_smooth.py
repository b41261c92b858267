"""Smoothing, against loops over single values, to the last bit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, ModelError
from edge_runtime.pipeline.smooth import Smoother, smoother_of
from edge_runtime.spec import Smoothing

SECOND_NS = 1_000_000_000
NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 0.1, 0.3, 0.1 + 0.2, 1.0, 1e300, -1e300, np.inf, np.nan]),
    st.floats(-1.0, 1.0),
)
VALUES = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=40)
STEPS = st.lists(st.integers(1, 5 * SECOND_NS), min_size=40, max_size=40)
KINDS = [
    Smoothing(3),
    Smoothing(4),
    Smoothing(2, "median"),
    Smoothing(3, "median"),
    Smoothing(4, "median"),
    Smoothing(kind="exponential", alpha=0.3),
    Smoothing(kind="exponential", half_life_s=2.0),
]


def made(smoothing: Smoothing) -> Smoother:
    """Make what smooths two labels."""
    smoother = smoother_of(smoothing, 2)
    assert smoother is not None
    return smoother


def smoothed(smoother: Smoother, values: Sequence[object], times: Sequence[int]) -> np.ndarray:
    """Smooth rows at once."""
    rows = np.array(values, np.float64).reshape(-1, 2)
    smooth, first = smoother.smooth(rows, np.array(times, np.int64))
    assert first == len(rows) - len(smooth)
    return smooth


@pytest.mark.parametrize("smoothing", KINDS, ids=str)
@given(values=VALUES, steps=STEPS, sizes=st.lists(st.integers(1, 9), min_size=1))
def test_chunks_and_restarts_change_no_bit(
    smoothing: Smoothing, values: list[tuple[float, float]], steps: list[int], sizes: list[int]
) -> None:
    """One by one, in any chunks with a restart at every seam, and at once: the same bytes."""
    times = np.cumsum(steps)[: len(values)].tolist()
    smoother, first, parts = made(smoothing), 0, []

    for size in sizes * len(values):
        rows = slice(first, first + size)
        if first < len(values):
            parts.append(smoothed(smoother, values[rows], times[rows]))
        first += size
        state = smoother.state()
        smoother = made(smoothing)
        smoother.restore(*state)

    with np.errstate(all="ignore"):
        at_once = smoothed(made(smoothing), values, times)
    assert np.concatenate(parts).tobytes() == at_once.tobytes()


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=40), windows=st.integers(2, 5))
def test_a_median_is_that_of_the_last_values(values: list[float], windows: int) -> None:
    """The middle one, or the mean of the two in the middle."""
    pairs = [(value, -value) for value in values]

    found = smoothed(made(Smoothing(windows, "median")), pairs, range(len(values)))

    ends = range(windows, len(values) + 1)
    expected = [statistics.median(values[end - windows : end]) for end in ends]
    assert found[:, 0].tolist() == expected


def test_alpha_is_the_share_of_a_new_value() -> None:
    """The first value counts fully, each later one by alpha."""
    smoother = made(Smoothing(kind="exponential", alpha=0.25))

    found = smoothed(smoother, [(0.0, 4.0), (1.0, 4.0), (1.0, 4.0)], [0, 1, 2])

    assert found.tolist() == [[0.0, 4.0], [0.25, 4.0], [0.4375, 4.0]]


def test_a_half_life_goes_by_event_time() -> None:
    """After one half-life half of the way is left, after a long gap nothing is."""
    smoother = made(Smoothing(kind="exponential", half_life_s=2.0))
    times = [0, 2 * SECOND_NS, 3 * SECOND_NS, 4 * SECOND_NS, 4000 * SECOND_NS]

    found = smoothed(smoother, [(0.0, 0.0)] + [(1.0, 0.0)] * 3 + [(5.0, 0.0)], times)[:, 0]

    assert found.tolist() == pytest.approx([0.0, 0.5, 1 - 0.5 / math.sqrt(2), 0.75, 5.0])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_value_that_is_no_number_moves_nothing(wrong: float) -> None:
    """The level after it is what it would be without it."""
    smoother = made(Smoothing(kind="exponential", alpha=0.5))

    found = smoothed(smoother, [(0.0, 0.0), (wrong, 1.0), (1.0, 1.0)], [0, 1, 2])

    assert math.isnan(found[1, 0])
    assert found[2].tolist() == [0.5, 0.75]


def test_one_window_needs_no_smoothing() -> None:
    """The mean and the median of one value are that value."""
    assert smoother_of(Smoothing(), 2) is None
    assert smoother_of(Smoothing(1, "median"), 2) is None


@pytest.mark.parametrize(
    ("smoothing", "history", "time_ns"),
    [
        (Smoothing(3), b"\0" * 7, None),
        (Smoothing(3, "median"), b"\0" * 48, None),
        (KINDS[-1], b"\0" * 32, 1),
        (KINDS[-1], b"\0" * 16, None),
        (KINDS[-1], b"", 1),
    ],
    ids=str,
)
def test_a_state_that_does_not_fit_is_refused(
    smoothing: Smoothing, history: bytes, time_ns: int | None
) -> None:
    """Bytes of other labels, or of another smoothing."""
    with pytest.raises(ModelError, match="bytes of history"):
        made(smoothing).restore(history, time_ns)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "exponential"},
        {"kind": "exponential", "alpha": 0.5, "half_life_s": 1.0},
        {"kind": "exponential", "alpha": 0.5, "windows": 3},
        {"kind": "median", "alpha": 0.5},
        {"half_life_s": 1.0},
    ],
    ids=str,
)
def test_a_smoothing_says_one_thing(wrong: dict[str, object]) -> None:
    """A mean has windows, an exponential one pace."""
    with pytest.raises(ConfigError, match="smoothing has windows"):
        Smoothing(**wrong)  # type: ignore[arg-type]
