"""Smoothing and hysteresis, against a loop over single values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ModelError
from edge_runtime.pipeline.decide import Decider, DeciderState
from edge_runtime.spec import Limit, ModelSpec, Smoothing
from edge_runtime.types import Decision

LIMITS = (Limit("a", 0.7, 0.3), Limit("b", 0.5, 0.5))
VALUES = st.lists(
    st.tuples(*[st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.1 + 0.2, 1.0, np.nan])] * 3),
    min_size=1,
    max_size=60,
)


@pytest.fixture(scope="session")
def decider_of(spec_of: Callable[..., ModelSpec]) -> Callable[[int], Decider]:
    """Make a decider for the labels a, b, c that averages over ``windows``."""

    def make(windows: int = 1) -> Decider:
        return Decider(spec_of(labels=("a", "b", "c"), smoothing=Smoothing(windows)), "main")

    return make


def decide(
    decider: Decider, values: object, *, first: int = 0, limits: tuple[Limit, ...] = LIMITS
) -> list[Decision]:
    """Decide windows that are numbered from ``first``."""
    rows = np.array(values, np.float64)
    index = np.arange(first, first + len(rows))
    return list(decider.decide(rows, index, index * 10, limits, "id"))


def told(decisions: list[Decision]) -> list[tuple[int, str, str]]:
    """Shorten decisions to index, label and edge."""
    return [(decision.index, decision.label, decision.edge) for decision in decisions]


def decided_by_value(values: list[tuple[float, ...]], windows: int) -> list[tuple[int, str, str]]:
    """Do the same with one value after the other."""
    started: dict[str, bool] = {}
    found = []
    for row in range(windows - 1, len(values)):
        for column, limit in enumerate(LIMITS):
            recent = [values[row - windows + 1 + late][column] for late in range(windows)]
            total = recent[0]
            for value in recent[1:]:
                total += value
            value = total / windows
            has_started = started.get(limit.label, False)
            if value < limit.off if has_started else value >= limit.on:
                started[limit.label] = not has_started
                found.append((row, limit.label, "end" if has_started else "start"))
    return found


@given(values=VALUES, windows=st.integers(1, 5))
def test_decisions_are_those_of_a_loop_over_single_values(
    decider_of: Callable[[int], Decider], values: list[tuple[float, ...]], windows: int
) -> None:
    """Jumping through the rows finds every start and end, in the order of windows and labels."""
    assert told(decide(decider_of(windows), values)) == decided_by_value(values, windows)


@given(values=VALUES, windows=st.integers(1, 5), sizes=st.lists(st.integers(1, 9), min_size=1))
def test_decisions_do_not_depend_on_how_values_come_in(
    decider_of: Callable[[int], Decider],
    values: list[tuple[float, ...]],
    windows: int,
    sizes: list[int],
) -> None:
    """Any chunking, with a restore at every seam, gives the same decisions to the last bit."""
    expected = decide(decider_of(windows), values)
    decider, first, found = decider_of(windows), 0, []

    for size in sizes * 60:
        if first >= len(values):
            break
        found += decide(decider, values[first : first + size], first=first)
        first += size
        state = decider.state()
        decider = decider_of(windows)
        decider.restore(state)

    assert repr(found) == repr(expected)


def test_nothing_is_decided_before_there_are_enough_values(
    decider_of: Callable[[int], Decider],
) -> None:
    """A mean of three values needs three values."""
    decider = decider_of(3)

    assert decide(decider, [[1.0, 0.0, 0.0]] * 2) == []
    assert told(decide(decider, [[1.0, 0.0, 0.0]], first=2)) == [(2, "a", "start")]


def test_a_decision_tells_when_and_why(decider_of: Callable[[int], Decider]) -> None:
    """Index and time are the window's, the value is the smoothed one."""
    (decision,) = decide(decider_of(2), [[0.6, 0.0, 0.0], [1.0, 0.0, 0.0]])

    assert decision == Decision(
        stream="main",
        index=1,
        time_ns=10,
        model="toy",
        label="a",
        edge="start",
        value=0.8,
        effective_id="id",
    )


def test_a_started_label_ends_by_the_new_limits(decider_of: Callable[[int], Decider]) -> None:
    """New limits between two windows keep a label open until it falls below the new off."""
    decider = decider_of(1)
    decide(decider, [[0.8, 0.0, 0.0]])
    stricter = (Limit("a", 0.95, 0.75), LIMITS[1])

    assert decide(decider, [[0.8, 0.0, 0.0]], first=1, limits=stricter) == []
    assert told(decide(decider, [[0.7, 0.0, 0.0]], first=2, limits=stricter)) == [(2, "a", "end")]


@pytest.mark.parametrize("windows", [1, 2])
def test_a_started_label_without_a_limit_ends_at_once(
    decider_of: Callable[[int], Decider], windows: int
) -> None:
    """No label stays open for ever because the limits it started by are gone."""
    decider = decider_of(windows)
    decide(decider, [[0.8, 0.0, 0.0]] * windows)
    state = decider.state()

    found = decide(decider, [[0.8, 0.0, 0.0]] * 3, first=windows, limits=())

    assert told(found) == [(windows, "a", "end")]
    restored = decider_of(windows)
    restored.restore(state)
    assert decide(restored, [[0.8, 0.0, 0.0]] * 3, first=windows, limits=()) == found


@pytest.mark.parametrize(
    "state",
    [
        DeciderState(b"\0" * 7, ()),
        DeciderState(b"\0" * 24 * 3, ()),
        DeciderState(b"", ("z",)),
    ],
    ids=str,
)
def test_a_state_that_does_not_fit_is_refused(
    decider_of: Callable[[int], Decider], state: DeciderState
) -> None:
    """Other labels or another smoothing cannot go on from it."""
    with pytest.raises(ModelError, match="the snapshot has"):
        decider_of(3).restore(state)


def test_the_next_base_keeps_labels_open(
    decider_of: Callable[[int], Decider], spec_of: Callable[..., ModelSpec]
) -> None:
    """A label that both bases know ends under the new one; history needs equal smoothing."""
    old = decider_of(2)
    decide(old, [[0.9, 0.9, 0.0]] * 2)
    other = Decider(spec_of(labels=("b", "x")), "main")
    same = decider_of(2)

    other.take_over(old)
    same.take_over(old)

    assert old.started == ("a", "b")
    assert other.started == ("b",)
    assert same.state() == old.state()
