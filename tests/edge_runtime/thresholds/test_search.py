"""The search keeps its promise, and what it measures is what a device would do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.pipeline.decide import Decider
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Limit,
    ModelSpec,
    Smoothing,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.thresholds.outcome import Outcome
from edge_runtime.thresholds.recordings import Recording
from edge_runtime.thresholds.search import Choices, Found, Target, search
from edge_runtime.thresholds.truth import Event

SECOND_NS = 1_000_000_000
SPEC = ModelSpec(
    name="pump",
    version="1",
    kind="classifier",
    stream=StreamSpec((ChannelSpec("c"),), 1.0),
    window=WindowSpec(1, 1),
    artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
    labels=("ok", "worn"),
    limits=(Limit("worn", 0.8, 0.6),),
)
PLAIN = Choices((Smoothing(),))


def recording_of(
    seed: int, count: int = 2000, events: int = 8, *, lift: float = 0.8, noise: float = 0.1
) -> Recording:
    """Draw scores of one a second; events of ten seconds lift those of "worn"."""
    random = np.random.default_rng(seed)
    worn = np.abs(random.normal(0, noise, count))
    starts = (np.arange(events) + 0.5) * count // max(1, events)
    for start in starts.astype(int):
        worn[start : start + 10] += lift
    end_ns = np.arange(count, dtype=np.int64) * SECOND_NS
    score = np.stack([1 - worn, worn], axis=1)
    found = tuple(
        Event(int(s) * SECOND_NS, int(s + 9) * SECOND_NS, "worn") for s in starts.astype(int)
    )
    return Recording(f"r{seed}", score, end_ns, found, 1.0)


def searched(
    recordings: Sequence[Recording], alarms_per_hour: float, choices: Choices = PLAIN
) -> tuple[Smoothing, Found]:
    """Search the label "worn"."""
    target = Target(alarms_per_hour, tolerance_s=0.0)
    smoothing, (found,) = search(SPEC, recordings, ["worn"], target, choices)
    return smoothing, found


def outcome_on_a_device(
    limit: Limit, smoothing: Smoothing, recordings: Sequence[Recording]
) -> Outcome:
    """Let the decider of a pipeline decide window by window, and count its starts."""
    spec = msgspec.structs.replace(SPEC, limits=(limit,), smoothing=smoothing)
    found = alarms = repeats = events = 0
    delays = []
    for one in recordings:
        decider = Decider(spec, "main")
        starts = []
        for row in range(len(one.end_ns)):
            rows = slice(row, row + 1)
            index, end_ns = np.array([row]), one.end_ns[rows]
            decided = decider.decide(one.score[rows], index, end_ns, spec.limits, "id")
            starts += [decision.time_ns for decision in decided if decision.edge == "start"]
        hits = {
            event: [time_ns for time_ns in starts if event.start_ns <= time_ns <= event.end_ns]
            for event in one.events
        }
        counts = [len(times) for times in hits.values()]
        found += sum(count > 0 for count in counts)
        repeats += sum(max(0, count - 1) for count in counts)
        alarms += len(starts) - sum(counts)
        events += len(hits)
        delays += [
            (times[0] - event.start_ns) / SECOND_NS for event, times in hits.items() if times
        ]
    delay_s = float(np.median(delays)) if delays else None
    return Outcome(found, events - found, alarms, repeats, delay_s)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 1000),
    smoothing=st.sampled_from(
        [Smoothing(3), Smoothing(3, "median"), Smoothing(kind="exponential", half_life_s=2.0)]
    ),
    k_of_n=st.sampled_from([(1, 1), (2, 3)]),
    refractory_s=st.sampled_from([0.0, 4.0]),
    gap=st.sampled_from([0.0, 0.1]),
)
def test_the_chosen_point_does_on_a_device_what_was_measured(
    seed: int, smoothing: Smoothing, k_of_n: tuple[int, int], refractory_s: float, gap: float
) -> None:
    """Counted start by start from the decisions of single windows."""
    recordings = [recording_of(seed, 400, 4, lift=0.3), recording_of(seed + 1, 300, 0)]
    choices = Choices((smoothing,), (k_of_n,), (refractory_s,), (gap,))

    chosen, found = searched(recordings, 60.0, choices)

    assert found.point is not None
    assert chosen == smoothing
    assert found.point.outcome == outcome_on_a_device(found.point.limit, smoothing, recordings)


def test_clear_events_are_found_within_the_budget() -> None:
    """Ten hours of quiet prove less than one false alarm an hour."""
    _, found = searched([recording_of(1, 36_000, 40)], 1.0)

    assert found.verdict == "proven"
    assert found.point is not None
    assert (found.events, found.point.outcome.missed) == (40, 0)
    assert found.point.highest_per_hour is not None
    assert found.point.highest_per_hour <= 1.0
    assert found.point.limit.off == pytest.approx(found.point.limit.on - 0.2)


def test_too_little_time_is_inconclusive() -> None:
    """Half an hour cannot prove one alarm an hour; about three without an alarm could."""
    _, found = searched([recording_of(1, 1800, 8)], 1.0)

    assert found.verdict == "inconclusive"
    assert found.point is not None and found.point.outcome.missed == 0
    assert found.hours_needed == pytest.approx(-math.log(0.05))
    assert found.quiet_hours < 0.5


def test_events_like_noise_are_not_found() -> None:
    """A budget that is kept by finding nothing is a failure, and said to be one."""
    _, found = searched([recording_of(1, 36_000, 4, lift=-0.05)], 0.5)

    assert found.verdict == "failed"
    assert found.point is not None and found.point.outcome.found == 0


def test_more_ways_to_decide_ask_for_more_proof() -> None:
    """Each of six ways gets a sixth of the risk."""
    choices = Choices((Smoothing(), Smoothing(3)), ((1, 1), (2, 3), (3, 5)))

    _, found = searched([recording_of(1, 1800, 8)], 1.0, choices)

    assert found.tried == 6
    assert found.hours_needed == pytest.approx(-math.log(0.05 / 6))


def test_smoothing_is_chosen_where_it_pays() -> None:
    """Single outliers drown the events of a plain threshold, and not those of a median."""
    one = recording_of(3, 18_000, 20, lift=0.5)
    score = one.score.copy()
    score[np.random.default_rng(0).choice(18_000, 300, replace=False), 1] += 0.9
    noisy = msgspec.structs.replace(one, score=score)

    smoothing, found = searched([noisy], 2.0, Choices((Smoothing(), Smoothing(5, "median"))))

    assert smoothing == Smoothing(5, "median")
    assert found.verdict == "proven"
    assert found.point is not None and found.point.outcome.missed == 0


def test_a_proven_budget_is_seldom_exceeded() -> None:
    """Of many searches on noise alone at most one in twenty chooses a rate above the budget."""
    budget, count, exceeded = 120.0, 1200, 0
    for seed in range(80):
        values = np.random.default_rng(seed).uniform(size=count)
        values[:2] = 0.0, 1.0
        end_ns = np.arange(count, dtype=np.int64) * SECOND_NS
        event = (Event(0, SECOND_NS, "worn"),)
        noise = Recording("r", np.stack([values, values], axis=1), end_ns, event, 1.0)
        _, found = searched([noise], budget, Choices((Smoothing(),), gaps=(0.0,)))
        assert found.point is not None and found.verdict == "proven"
        on = found.point.limit.on
        exceeded += 3600 * (1 - on) * on > budget

    assert exceeded <= 0.05 * 80 + 2 * math.sqrt(0.05 * 0.95 * 80)


def test_the_curve_goes_from_strict_to_loose() -> None:
    """Thresholds fall, and no two values that occurred have one between them."""
    one = recording_of(5)

    _, found = searched([one], 5.0)

    thresholds = [point.limit.on for point in found.curve]
    assert all(left > right for left, right in itertools.pairwise(thresholds))
    assert not set(thresholds[:-1]) & set(one.score[:, 1].tolist())


def test_the_band_is_calibrated_and_at_work_in_the_search() -> None:
    """Overlapping classes get a band, and the chosen limit carries it."""
    recordings = [recording_of(seed, 4000, 20, lift=0.05) for seed in range(3)]
    choices = Choices((Smoothing(),), reject_error=0.1)

    _, found = searched(recordings, 20.0, choices)

    assert found.point is not None and found.point.limit.reject is not None


def test_a_recording_without_quiet_time_is_refused() -> None:
    """False alarms cannot be counted where everything is an event."""
    one = recording_of(1, 100, 1)
    always = msgspec.structs.replace(one, events=(Event(0, 100 * SECOND_NS, "worn"),))

    with pytest.raises(ConfigError, match="every window belongs to an event of 'worn'"):
        searched([always], 1.0)


def test_a_recording_without_a_value_is_refused() -> None:
    """Too short for the smoothing."""
    with pytest.raises(ConfigError, match="no smoothed value at all"):
        searched([recording_of(1, 20, 1)], 1.0, Choices((Smoothing(64),)))
