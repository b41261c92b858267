"""Starts, events and false alarms, against a loop over single starts."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.spec import Limit
from edge_runtime.thresholds.outcome import Outcome, outcome_of, track_of
from edge_runtime.thresholds.truth import Event

SECOND_NS = 1_000_000_000
LIMIT = Limit("a", 0.5, 0.5)


def events_of(pairs: list[tuple[int, int]]) -> list[Event]:
    """Make events of pairs of seconds."""
    return [Event(first * SECOND_NS, last * SECOND_NS, "a") for first, last in pairs]


def counted(values: list[float], pairs: list[tuple[int, int]], tolerance_s: int) -> Outcome:
    """Do the same start by start."""
    hits: dict[int, list[int]] = {}
    alarms = repeats = 0
    before = 0.0
    for row, value in enumerate(values):
        if value >= 0.5 > before:
            begun = [number for number, pair in enumerate(pairs) if pair[0] <= row]
            number = begun[-1] if begun else -1
            if number < 0 or row > pairs[number][1] + tolerance_s:
                alarms += 1
            else:
                hits.setdefault(number, []).append(row)
                repeats += len(hits[number]) > 1
        before = value
    delays = [float(rows[0] - pairs[number][0]) for number, rows in hits.items()]
    delay_s = statistics.median(delays) if delays else None
    return Outcome(len(hits), len(pairs) - len(hits), alarms, repeats, delay_s)


@given(
    values=st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60),
    edges=st.lists(st.integers(0, 60), max_size=8, unique=True),
    tolerance_s=st.integers(0, 5),
)
def test_an_outcome_is_that_of_a_loop(
    values: list[float], edges: list[int], tolerance_s: int
) -> None:
    """Found once, missed, repeated, false, and how late."""
    edges = sorted(edges)[: len(edges) // 2 * 2]
    pairs = list(zip(edges[::2], edges[1::2], strict=True))
    times = np.arange(len(values), dtype=np.int64) * SECOND_NS

    track = track_of(
        np.array(values), times, events_of(pairs), tolerance_s=tolerance_s, window_s=1.0
    )

    assert outcome_of(LIMIT, [track]) == counted(values, pairs, tolerance_s)


def test_a_label_that_never_ends_finds_nothing_more() -> None:
    """Always on is no way to miss nothing: only a start counts."""
    times = np.arange(10, dtype=np.int64) * SECOND_NS
    track = track_of(np.ones(10), times, events_of([(3, 5), (7, 8)]), tolerance_s=0, window_s=1.0)

    assert outcome_of(LIMIT, [track]) == Outcome(0, 2, 1, 0, None)


def test_time_without_an_event_is_what_no_start_could_count_in() -> None:
    """Windows outside of events and their tolerance, times the hop."""
    times = np.arange(10, dtype=np.int64) * SECOND_NS
    track = track_of(np.zeros(10), times, events_of([(3, 4)]), tolerance_s=2, window_s=1.0)

    assert track.quiet_hours == pytest.approx(6 / 3600)
