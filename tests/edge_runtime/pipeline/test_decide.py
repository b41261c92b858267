"""Smoothing and hysteresis, against a loop over single values."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ModelError
from edge_runtime.pipeline.decide import Decider, DeciderState
from edge_runtime.pipeline.gate import Mark
from edge_runtime.spec import Limit, ModelSpec, Reject, Smoothing
from edge_runtime.types import Decision

LIMITS = (Limit("a", 0.7, 0.3), Limit("b", 0.5, 0.5))
SECOND_NS = 1_000_000_000
VALUES = st.lists(
    st.tuples(*[st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.1 + 0.2, 1.0, np.nan])] * 3),
    min_size=1,
    max_size=60,
)
STEPS = st.lists(st.integers(1, 3 * SECOND_NS), min_size=60, max_size=60)
SMOOTHINGS = st.one_of(
    st.builds(Smoothing, st.integers(1, 5), st.sampled_from(["mean", "median"])),
    st.just(Smoothing(kind="exponential", alpha=0.4)),
    st.just(Smoothing(kind="exponential", half_life_s=1.5)),
)


def limit_of(label: str) -> st.SearchStrategy[Limit]:
    """Draw a limit with or without more than on and off."""
    return st.builds(
        Limit,
        st.just(label),
        st.sampled_from([0.5, 0.7]),
        st.sampled_from([0.3, 0.5]),
        st.sampled_from([(1, 1), (2, 2), (2, 3), (3, 5)]),
        st.sampled_from([0.0, 1.0, 4.0]),
        st.sampled_from([None, Reject(0.2, 0.8), Reject(0.4, 0.6)]),
    )


SOME_LIMITS = st.one_of(st.just(LIMITS), st.tuples(*map(limit_of, "abc")), st.tuples(limit_of("b")))


@pytest.fixture(scope="session")
def decider_of(spec_of: Callable[..., ModelSpec]) -> Callable[..., Decider]:
    """Make a decider for the labels a, b, c; a number is a mean of so many windows."""

    def make(smoothing: Smoothing | int = 1) -> Decider:
        if isinstance(smoothing, int):
            smoothing = Smoothing(smoothing)
        return Decider(spec_of(labels=("a", "b", "c"), smoothing=smoothing), "main")

    return make


def decide(
    decider: Decider,
    values: object,
    *,
    first: int = 0,
    limits: tuple[Limit, ...] = LIMITS,
    times: Sequence[int] | None = None,
) -> list[Decision]:
    """Decide windows that are numbered from ``first``."""
    rows = np.array(values, np.float64)
    index = np.arange(first, first + len(rows))
    end_ns = index * 10 if times is None else np.array(times, np.int64)
    return list(decider.decide(rows, index, end_ns, limits, "id"))


def told(decisions: list[Decision]) -> list[tuple[int, str, str]]:
    """Shorten decisions to index, label and edge."""
    return [(decision.index, decision.label, decision.edge) for decision in decisions]


def smoothed_by_value(
    values: list[tuple[float, ...]], times: list[int], smoothing: Smoothing
) -> list[list[float] | None]:
    """Smooth one value after the other; None where there are not enough yet."""
    found: list[list[float] | None] = []
    level, before = [np.nan] * 3, times[0]
    for row, (value, time_ns) in enumerate(zip(values, times, strict=True)):
        if smoothing.kind == "exponential":
            half_life_ns = (smoothing.half_life_s or 0.0) * 1e9
            share = smoothing.alpha or 1.0 - math.exp2((time_ns - before) / -half_life_ns)
            before = time_ns
            for column, x in enumerate(value):
                if not np.isnan(x):
                    y = level[column]
                    level[column] = x if np.isnan(y) else y + share * (x - y)
            found.append([np.nan if np.isnan(x) else y for x, y in zip(value, level, strict=True)])
            continue
        recent = values[max(0, row - smoothing.windows + 1) : row + 1]
        if len(recent) < smoothing.windows:
            found.append(None)
        elif smoothing.kind == "mean":
            totals = [
                functools.reduce(operator.add, column) for column in zip(*recent, strict=True)
            ]
            found.append([total / smoothing.windows for total in totals])
        else:
            found.append(np.median(np.array(recent), axis=0).tolist())
    return found


def decided_by_value(
    values: list[tuple[float, ...]],
    times: list[int],
    smoothing: Smoothing,
    limits: tuple[Limit, ...],
) -> tuple[list[tuple[int, str, str]], dict[str, int], list[tuple[int, str]]]:
    """Do the same with one value after the other: decisions, withheld, uncertain."""
    found, withheld, uncertain = [], dict.fromkeys("abc", 0), []
    started: dict[str, bool] = {}
    ended: dict[str, int] = {}
    hits: dict[str, list[int]] = {label: [] for label in "abc"}
    for row, smooth in enumerate(smoothed_by_value(values, times, smoothing)):
        for limit in limits if smooth is not None else ():
            value, label = smooth["abc".index(limit.label)], limit.label
            is_held = limit.reject is not None and limit.reject.low <= value < limit.reject.high
            if is_held:
                uncertain.append((row, label))
            has_started = started.get(label, False)
            if not (value < limit.off if has_started else value >= limit.on):
                continue
            if is_held:
                withheld[label] += 1
                continue
            if not has_started:
                hits[label].append(row)
                recent = [hit for hit in hits[label] if hit > row - limit.k_of_n[1]]
                quiet_ns = times[row] - ended.get(label, -(10**18))
                if len(recent) < limit.k_of_n[0] or quiet_ns < limit.refractory_s * 1e9:
                    continue
            else:
                ended[label] = times[row]
            hits[label].clear()
            started[label] = not has_started
            found.append((row, label, "end" if has_started else "start"))
    return found, {label: n for label, n in withheld.items() if n}, uncertain


def uncertain_in(decider: Decider, first: int) -> list[tuple[int, str]]:
    """Return which labels were uncertain in the windows that were last decided."""
    mask = decider.uncertain
    rows = () if mask is None else np.argwhere(mask).tolist()
    return [(first + row, "abc"[column]) for row, column in rows]


@given(values=VALUES, steps=STEPS, smoothing=SMOOTHINGS, limits=SOME_LIMITS)
def test_decisions_are_those_of_a_loop_over_single_values(
    decider_of: Callable[..., Decider],
    values: list[tuple[float, ...]],
    steps: list[int],
    smoothing: Smoothing,
    limits: tuple[Limit, ...],
) -> None:
    """Jumping through the rows finds every start and end, in the order of windows and labels."""
    times = np.cumsum(steps)[: len(values)].tolist()
    decider = decider_of(smoothing)

    found = decide(decider, values, times=times, limits=limits)

    expected, withheld, uncertain = decided_by_value(values, times, smoothing, limits)
    assert told(found) == expected
    assert decider.withheld == withheld
    assert uncertain_in(decider, 0) == uncertain


@given(
    values=VALUES,
    steps=STEPS,
    smoothing=SMOOTHINGS,
    limits=SOME_LIMITS,
    sizes=st.lists(st.integers(1, 9), min_size=1),
)
def test_decisions_do_not_depend_on_how_values_come_in(
    decider_of: Callable[..., Decider],
    values: list[tuple[float, ...]],
    steps: list[int],
    smoothing: Smoothing,
    limits: tuple[Limit, ...],
    sizes: list[int],
) -> None:
    """Any chunking, with a restore at every seam, gives the same decisions to the last bit."""
    times = np.cumsum(steps)[: len(values)].tolist()
    whole = decider_of(smoothing)
    expected = decide(whole, values, times=times, limits=limits)
    decider, first, found, uncertain = decider_of(smoothing), 0, [], []

    for size in sizes * 60:
        if first >= len(values):
            break
        rows = slice(first, first + size)
        found += decide(decider, values[rows], first=first, times=times[rows], limits=limits)
        uncertain += uncertain_in(decider, first)
        first += size
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(decider.state()), type=DeciderState)
        decider = decider_of(smoothing)
        decider.restore(state)

    assert repr(found) == repr(expected)
    assert decider.state() == whole.state()
    assert uncertain == uncertain_in(whole, 0)


def test_nothing_is_decided_before_there_are_enough_values(
    decider_of: Callable[..., Decider],
) -> None:
    """A mean of three values needs three values."""
    decider = decider_of(3)

    assert decide(decider, [[1.0, 0.0, 0.0]] * 2) == []
    assert told(decide(decider, [[1.0, 0.0, 0.0]], first=2)) == [(2, "a", "start")]


def test_a_decision_tells_when_and_why(decider_of: Callable[..., Decider]) -> None:
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


def test_a_started_label_ends_by_the_new_limits(decider_of: Callable[..., Decider]) -> None:
    """New limits between two windows keep a label open until it falls below the new off."""
    decider = decider_of(1)
    decide(decider, [[0.8, 0.0, 0.0]])
    stricter = (Limit("a", 0.95, 0.75), LIMITS[1])

    assert decide(decider, [[0.8, 0.0, 0.0]], first=1, limits=stricter) == []
    assert told(decide(decider, [[0.7, 0.0, 0.0]], first=2, limits=stricter)) == [(2, "a", "end")]


@pytest.mark.parametrize("windows", [1, 2])
def test_a_started_label_without_a_limit_ends_at_once(
    decider_of: Callable[..., Decider], windows: int
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
        DeciderState(b"", (), marks={"z": Mark(withheld=1)}),
    ],
    ids=str,
)
def test_a_state_that_does_not_fit_is_refused(
    decider_of: Callable[..., Decider], state: DeciderState
) -> None:
    """Other labels or another smoothing cannot go on from it."""
    with pytest.raises(ModelError, match="the snapshot has"):
        decider_of(3).restore(state)


def test_the_next_base_keeps_labels_open(
    decider_of: Callable[..., Decider], spec_of: Callable[..., ModelSpec]
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


def test_a_refractory_time_keeps_a_label_silent_in_event_time(
    decider_of: Callable[..., Decider],
) -> None:
    """Counted from its last end; a value that is still over the limit then starts it."""
    decider = decider_of()
    times = [0, 1 * SECOND_NS, 2 * SECOND_NS, 3 * SECOND_NS, 4 * SECOND_NS]
    limits = (Limit("a", 0.7, 0.3, refractory_s=2.5),)
    values = [[value, 0.0, 0.0] for value in (0.9, 0.1, 0.9, 0.9, 0.9)]

    found = decide(decider, values, times=times, limits=limits)

    assert told(found) == [(0, "a", "start"), (1, "a", "end"), (4, "a", "start")]


def test_k_of_n_counts_anew_after_an_end(decider_of: Callable[..., Decider]) -> None:
    """Two of the last three must reach the limit, and none of them from before the end."""
    values = [[value, 0.0, 0.0] for value in (0.9, 0.0, 0.0, 0.9, 0.5, 0.9, 0.9, 0.1, 0.9, 0.9)]
    limits = (Limit("a", 0.7, 0.3, k_of_n=(2, 3)),)

    found = decide(decider_of(), values, limits=limits)

    assert told(found) == [(5, "a", "start"), (7, "a", "end"), (9, "a", "start")]


def test_an_uncertain_window_decides_nothing_and_is_counted(
    decider_of: Callable[..., Decider],
) -> None:
    """In the band neither a start nor an end; each that would have been is counted."""
    decider = decider_of()
    values = [[value, 0.0, 0.0] for value in (0.75, 0.6, 0.9, 0.25, 0.1)]
    limits = (Limit("a", 0.7, 0.3, reject=Reject(0.2, 0.8)), LIMITS[1])

    found = decide(decider, values, limits=limits)

    assert told(found) == [(2, "a", "start"), (4, "a", "end")]
    assert decider.withheld == {"a": 2}
    assert uncertain_in(decider, 0) == [(0, "a"), (1, "a"), (3, "a")]


def test_a_plain_state_is_written_as_before(decider_of: Callable[..., Decider]) -> None:
    """An older runtime goes on from it, and its snapshots are read here."""
    decider = decider_of(3)
    decide(decider, [[0.9, 0.0, 0.0]] * 3)

    written = msgspec.msgpack.decode(msgspec.msgpack.encode(decider.state()))

    assert written == {"history": np.array([[0.9, 0.0, 0.0]] * 2).tobytes(), "started": ["a"]}


def test_the_next_base_keeps_a_label_silent(
    decider_of: Callable[..., Decider], spec_of: Callable[..., ModelSpec]
) -> None:
    """A refractory time outlives the base; hits of another smoothing do not."""
    old = decider_of(1)
    limits = (Limit("a", 0.7, 0.3, k_of_n=(2, 3), refractory_s=5.0),)
    values = [[value, 0.0, 0.0] for value in (0.9, 0.9, 0.1, 0.9)]
    decide(old, values, limits=limits, times=[0, 1, 2, 3])
    new = Decider(spec_of(labels=("a", "b", "c"), smoothing=Smoothing(2)), "main")

    new.take_over(old)

    assert old.state().marks == {"a": Mark((1,), 2)}
    assert new.state().marks == {"a": Mark((), 2)}
