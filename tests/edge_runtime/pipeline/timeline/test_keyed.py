"""Many devices in one process: each gets what it would get alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from edge_runtime.pipeline import KeyedPipelines, TimedPipeline
from edge_runtime.spec import GridSpec, WindowSpec
from edge_runtime.types import Frame

from .conftest import PERIOD_NS, frame_at  # isort: skip
from .test_timed import told  # isort: skip

Timed = Callable[..., TimedPipeline]

DEVICES = 1000
NOW_NS = 1_750_000_000 * 10**9
DAY_NS = 86_400 * 10**9
OPTIONS = {
    "window": WindowSpec(8, 8, kind="tumbling"),
    "grid": GridSpec(gaps="fill", longest_gap_s=0.05),
    "allowed_lateness_s": 0.3,
    "delay_s": 0.02,
    "confirm_rows": 3,
}


def _frames(device: int) -> list[Frame]:
    """Frames of one device: its own offset, 1 % of the stamps wild, some late and some missing."""
    dice = np.random.default_rng(device)
    count = int(dice.integers(60, 100))
    time_ns = NOW_NS + int(dice.integers(-DAY_NS, DAY_NS)) + np.arange(count) * PERIOD_NS
    order = np.argsort(np.arange(count) + dice.uniform(0, 12, count))
    order = order[dice.random(count) > 0.05]
    time_ns = time_ns[order]
    wild = dice.random(len(order)) < 0.01
    time_ns = time_ns + np.where(wild, dice.integers(-(10**17), 10**17, len(order)), 0)
    samples = dice.normal(4.5, 2.0, (len(order), 1)).astype(np.float32)
    cuts = [0, *sorted(dice.integers(0, len(order), 4).tolist()), len(order)]
    return [
        Frame("main", first, time_ns[first:last], samples[first:last])
        for first, last in itertools.pairwise(cuts)
    ]


@pytest.mark.slow
def test_a_thousand_devices_with_wrong_clocks_do_not_touch_each_other(timed: Timed) -> None:
    """Interleaved at random, evicted and woken, every device's results are those it has alone."""
    frames = {device: _frames(device) for device in range(DEVICES)}
    keyed = KeyedPipelines(lambda _: timed(**OPTIONS), most_live=100)
    turns = np.repeat(np.arange(DEVICES), [len(one) for one in frames.values()])
    np.random.default_rng(1).shuffle(turns)
    waiting = {device: iter(one) for device, one in frames.items()}
    outputs: dict[int, list[object]] = {device: [] for device in frames}

    for device in turns.tolist():
        outputs[device].append(keyed.push(device, next(waiting[device])))
    for device, output in keyed.finish():
        outputs[device].append(output)

    revised = 0
    for device, mine in frames.items():
        alone = timed(**OPTIONS)
        expected = [*map(alone.push, mine), alone.finish()]
        assert told(outputs[device]) == told(expected)
        revised += sum(int((one.estimates.revision > 0).sum()) for one in expected)
        assert sum(len(one.estimates) for one in expected) > 0
    assert revised > DEVICES / 10
    assert keyed.evicted > DEVICES


def test_memory_is_bounded_by_what_is_live(timed: Timed) -> None:
    """Those not used for longest are put away, and go on where they were."""
    keyed = KeyedPipelines(lambda _: timed(), most_live=2)

    for key in ("a", "b", "c", "a"):
        keyed.push(key, frame_at([0, 1], [1, 1]))

    assert keyed.live == 2
    assert len(keyed) == 3
    assert keyed.of("b").discarded["duplicate"] == 0
    assert keyed.of("a").discarded["late"] == 2


def test_everything_can_be_put_away_for_another_process(timed: Timed) -> None:
    """Snapshots in a mapping of the caller are all that is needed to go on."""
    snapshots: dict[str, bytes] = {}
    first = KeyedPipelines(lambda _: timed(), most_live=5, snapshots=snapshots)
    first.push("a", frame_at([0, 1, 2], [1, 2, 3]))

    first.put_away_all()
    second = KeyedPipelines(lambda _: timed(), most_live=5, snapshots=snapshots)
    output = second.push("a", frame_at([3, 4], [4, 5]))

    assert output.estimates.value.ravel().tolist() == [2.5]


def test_at_least_one_must_be_live(timed: Timed) -> None:
    """A bound of none is a mistake."""
    with pytest.raises(ValueError, match="most_live"):
        KeyedPipelines(lambda _: timed(), most_live=0)


def test_saving_keeps_all_in_memory_and_another_process_can_go_on(timed: Timed) -> None:
    """Only what was used since is made a snapshot again."""
    snapshots: dict[str, bytes] = {}
    first = KeyedPipelines(lambda _: timed(), most_live=5, snapshots=snapshots)
    first.push("a", frame_at([0, 1, 2], [1, 2, 3]))
    first.push("b", frame_at([0], [1]))
    first.save()
    before = dict(snapshots)
    first.push("b", frame_at([1], [1]))

    first.save()

    assert (first.live, len(first)) == (2, 2)
    assert before["a"] is snapshots["a"]
    assert before["b"] != snapshots["b"]


def test_what_was_let_go_of_is_as_it_was_saved(timed: Timed) -> None:
    """A key that never was saved is not known."""
    keyed = KeyedPipelines(lambda _: timed(), most_live=5)
    keyed.push("a", frame_at([0, 1], [1, 2]))
    keyed.save()
    keyed.push("a", frame_at([2, 3], [3, 4]))
    keyed.push("b", frame_at([0], [1]))

    keyed.let_go()
    output = keyed.push("a", frame_at([2, 3, 4], [30, 40, 50]))

    assert (list(keyed), len(keyed)) == (["a"], 1)
    assert output.estimates.value.ravel().tolist() == [18.25]


def test_counts_are_those_of_all_keys_awake_and_asleep(timed: Timed) -> None:
    """Also after a key has slept; what an earlier process counted is not counted again."""
    snapshots: dict[str, bytes] = {}
    late = frame_at([50, 0, 1], [1, 1, 1])
    first = KeyedPipelines(lambda _: timed(), most_live=1, snapshots=snapshots)
    for key in ("a", "b", "a"):
        first.push(key, late)
    first.put_away_all()
    second = KeyedPipelines(lambda _: timed(), most_live=1, snapshots=snapshots)

    second.push("a", frame_at([2], [1]))

    assert first.tally["discarded", "late"] == 2 + 2 + 3
    assert second.tally["discarded", "late"] == 1


def test_a_snapshot_that_is_none_begins_its_key_anew(timed: Timed) -> None:
    """It is counted, and its samples go on being counted where that is known."""
    keyed = KeyedPipelines(lambda _: timed(), most_live=1, snapshots={"a": b"nonsense"})

    output = keyed.push("a", frame_at([0, 1, 2, 3, 4], np.ones(5)))

    assert keyed.unusable == 1
    assert len(output.estimates) == 1
