"""Samples in any order: what is answered at last, in which bytes, and what is taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, ModelError, ShapeError
from edge_runtime.pipeline import Pipeline, TimedPipeline
from edge_runtime.quality import MASK, Quality
from edge_runtime.spec import GridSpec, WindowSpec
from edge_runtime.types import Estimates, Frame, Output, SideRows

from .conftest import PERIOD_NS, Final, final_of, frame_at, frames_of  # isort: skip

Timed = Callable[..., TimedPipeline]

WINDOWS = (
    WindowSpec(4, 2),
    WindowSpec(3, 3, kind="tumbling"),
    WindowSpec(4, 2, kind="hopping"),
    WindowSpec(3, 1, kind="sliding"),
    WindowSpec(6, 6, kind="session", silence_s=0.03),
)
GRIDS = tuple(
    GridSpec(resample, gaps, 0.0 if gaps == "skip" else 0.05)
    for resample in ("nearest", "mean", "hold", "linear")
    for gaps in ("skip", "hold", "fill", "mark")
)
ENDLESS = {"allowed_lateness_s": 100.0, "clock_back_s": None, "future_skew_s": 1000.0}


Stream = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Draw samples in order: jitter, gaps, channels that come apart, and suspect ones."""
    dice = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, channels = draw(st.integers(1, 90)), draw(st.integers(1, 2))
    time_ns = np.unique(np.arange(count) * 10 + dice.integers(-4, 5, count)) * 1_000_000
    time_ns = time_ns[dice.random(len(time_ns)) >= draw(st.sampled_from([0.0, 0.1, 0.6]))]
    samples = dice.normal(4.5, 2.0, (len(time_ns), channels)).astype(np.float32)
    if channels == 2 and draw(st.booleans()):
        is_first = dice.random(len(time_ns)) < 0.5
        samples[is_first, 0], samples[~is_first, 1] = np.nan, np.nan
    share = draw(st.sampled_from([None, 0.05, 0.5]))
    if share is None:
        return time_ns, samples, None
    marks = dice.integers(1, 2**16, len(time_ns)) & dice.choice([7, 0x8001], len(time_ns))
    return time_ns, samples, np.where(dice.random(len(time_ns)) < share, marks, 0).astype(MASK)


@st.composite
def shuffles(draw: st.DrawFn) -> Callable[[np.ndarray], np.ndarray]:
    """Draw an order in which samples come: late ones, and some of them twice."""
    seed, late_ms = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0, 1, 40, 400, 4000]))
    twice = draw(st.integers(0, 4))

    def order_of(time_ns: np.ndarray) -> np.ndarray:
        dice = np.random.default_rng(seed)
        count = len(time_ns)
        order = np.argsort(time_ns / 1e6 + dice.uniform(0, late_ms, count), kind="stable")
        if not count:
            return order
        places = np.sort(dice.integers(0, count, twice))
        return np.insert(order, places, order[dice.integers(0, count, twice)])

    return order_of


options = st.fixed_dictionaries(
    {
        "window": st.sampled_from(WINDOWS),
        "grid": st.sampled_from(GRIDS),
        "delay_s": st.sampled_from([0.0, 0.02, 0.3]),
        "revise_s": st.sampled_from([0.001, 0.05, 1.0]),
    }
)


def told(outputs: Sequence[Output]) -> tuple[object, ...]:
    """Everything that was told, in order."""
    parts = [output.estimates for output in outputs]
    gone = [output.retracted for output in outputs if output.retracted is not None]
    columns = ("index", "start_ns", "end_ns", "score", "value", "revision")
    return (
        *(np.concatenate([getattr(one, name) for one in parts]).tobytes() for name in columns),
        np.concatenate([_masks_of(one) for one in parts]).tobytes(),
        [decision for output in outputs for decision in output.decisions],
        [
            pair
            for one in gone
            for pair in zip(one.index.tolist(), one.revision.tolist(), strict=True)
        ],
        [_aside(outputs, reason) for reason in ("late", "future")],
    )


def _masks_of(part: Estimates | SideRows) -> np.ndarray:
    """What is suspect about each row; None never stands for anything but zeros."""
    assert part.quality is None or part.quality.any()
    return np.zeros(len(part), MASK) if part.quality is None else part.quality


def _aside(outputs: Sequence[Output], reason: str) -> list[tuple[int, int]]:
    """Times and masks of samples that gave nothing for a reason, in order."""
    sides = [side for output in outputs for side in output.aside if side.reason == reason]
    return [
        row
        for side in sides
        for row in zip(side.time_ns.tolist(), _masks_of(side).tolist(), strict=True)
    ]


@given(streams(), shuffles(), options)
def test_late_samples_end_in_what_a_stream_in_order_gives(
    timed: Timed,
    stream: Stream,
    shuffle: Callable[[np.ndarray], np.ndarray],
    chosen: dict[str, object],
) -> None:
    """Whatever the order, the last revisions are the answers to the samples in order."""
    time_ns, samples, quality = stream
    chosen = {**chosen, **ENDLESS, "channels": samples.shape[1]}
    order = shuffle(time_ns)
    masks = None if quality is None else quality[order]

    ordered, late = timed(**chosen), timed(**chosen)
    in_order = final_of(ordered, frames_of(time_ns, samples, quality=quality))
    shuffled = final_of(late, frames_of(time_ns[order], samples[order], quality=masks))

    assert shuffled.windows == in_order.windows
    assert shuffled.decisions == in_order.decisions
    assert late.discarded["incomplete"] == ordered.discarded["incomplete"]


@given(
    streams(),
    shuffles(),
    options,
    st.lists(st.integers(0, 90), max_size=8),
    st.sampled_from([0.0, 0.2, 100.0]),
    st.integers(0, 2**32 - 1),
)
def test_chunks_snapshots_jumps_and_wild_stamps_change_no_byte(
    timed: Timed,
    stream: Stream,
    shuffle: Callable[[np.ndarray], np.ndarray],
    chosen: dict[str, object],
    cuts: list[int],
    lateness_s: float,
    seed: int,
) -> None:
    """One frame, many, and a new process after any of them give the same in the same order."""
    time_ns, samples, quality = stream
    order = shuffle(time_ns)
    time_ns, samples = _disturbed(time_ns[order], seed), samples[order]
    quality = None if quality is None else quality[order]
    chosen = {**chosen, "channels": samples.shape[1], "allowed_lateness_s": lateness_s}
    chosen |= {"confirm_rows": 2, "future_skew_s": 0.1, "clock_back_s": 0.05}
    whole, parted = timed(**chosen), timed(**chosen)
    outputs = []

    expected = [whole.push(frames_of(time_ns, samples, quality=quality)[0]), whole.finish()]
    parts = {cut for cut in cuts if cut < len(order)}
    for number, frame in enumerate(frames_of(time_ns, samples, parts, quality)):
        outputs.append(parted.push(frame))
        if number % 2 == 0:
            snapshot = parted.snapshot()
            parted = timed(**chosen)
            parted.restore(snapshot)
            assert parted.snapshot() == snapshot
    outputs.append(parted.finish())

    assert told(outputs) == told(expected)
    assert parted.discarded == whole.discarded


def _disturbed(time_ns: np.ndarray, seed: int) -> np.ndarray:
    """Set the clock forward and back somewhere, and make a few stamps wild."""
    dice = np.random.default_rng(seed)
    time_ns = time_ns.copy()
    if len(time_ns):
        jump_s = float(dice.choice([0.0, -1.0, 2.0, 86400.0]))
        time_ns[dice.integers(0, len(time_ns)) :] += round(jump_s * 1e9)
        wild = dice.integers(0, len(time_ns), 2)
        time_ns[wild] += dice.integers(-(10**15), 10**15, 2)
    return time_ns


def test_a_late_sample_revises_the_windows_it_lies_in(timed: Timed) -> None:
    """Its windows come again, one revision up; the others do not."""
    pipeline = timed(window=WindowSpec(2, 2, kind="tumbling"), smoothing=1, **ENDLESS)
    first = pipeline.push(frame_at([0, 1, 2, 4, 5, 6, 7], [1, 1, 1, 1, 1, 1, 1]))

    late = pipeline.push(frame_at([3], [9]))
    last = pipeline.finish()

    assert first.estimates.index.tolist() == [1, 5]
    assert len(late.estimates) == 0
    assert last.estimates.index.tolist() == [3, 7]
    assert last.estimates.revision.tolist() == [0, 0]
    assert last.estimates.value.ravel().tolist() == [5.0, 1.0]
    assert pipeline.discarded["late"] == 0


def test_a_decision_that_late_samples_undo_is_taken_back(timed: Timed) -> None:
    """What vanishes is a retraction, what changes a revision, what stands now is told."""
    chosen = {"window": WindowSpec(1, 1, kind="tumbling"), "smoothing": 2, **ENDLESS}
    pipeline = timed(**chosen)
    before = pipeline.push(frame_at([0, 1, 3, 4, 5], [0, 6, 6, 0, 0]))

    pipeline.push(frame_at([2], [0]))
    after = pipeline.finish()

    assert [(d.index, d.edge) for d in before.decisions] == [(3, "start"), (4, "end")]
    taken = [(d.index, d.edge, d.revision) for d in after.decisions if d.is_retracted]
    assert taken == [(3, "start", 1), (4, "end", 1)]
    assert after.started == ()
    assert Final([before, after]).decisions == {}


def test_samples_beyond_the_lateness_are_set_aside(timed: Timed) -> None:
    """They change nothing, are counted, and come out whole."""
    pipeline = timed(allowed_lateness_s=0.05)
    pipeline.push(frame_at(np.arange(100), np.ones(100)))

    output = pipeline.push(frame_at([20, 21], [7, 8]))

    (side,) = output.aside
    assert side.reason == "late"
    assert side.time_ns.tolist() == [20 * PERIOD_NS, 21 * PERIOD_NS]
    assert side.samples.ravel().tolist() == [7.0, 8.0]
    assert pipeline.discarded["late"] == 2


def test_one_wild_stamp_moves_nothing(timed: Timed) -> None:
    """A stamp a day ahead is set aside as soon as the next one does not agree."""
    pipeline = timed(future_skew_s=1.0, confirm_rows=3)
    slots = np.arange(20.0)
    slots[7] += 8_640_000

    output = pipeline.push(frame_at(slots, np.ones(20)))

    assert [side.reason for side in output.aside] == ["future"]
    assert pipeline.watermark_ns == 19 * PERIOD_NS
    assert pipeline.discarded["future"] == 1


def test_a_clock_set_forward_is_followed(timed: Timed) -> None:
    """Samples that agree on a new time are believed, all of them."""
    pipeline = timed(future_skew_s=1.0, confirm_rows=3, window=WindowSpec(2, 2, kind="tumbling"))
    slots = np.concatenate((np.arange(10), 8_640_000 + np.arange(10)))

    outputs = [pipeline.push(frame_at(slots, np.ones(20))), pipeline.finish()]

    assert len(Final(outputs).windows) == 10
    assert pipeline.discarded["future"] == 0


def test_a_clock_set_back_begins_anew_and_starves_nobody(timed: Timed) -> None:
    """After enough samples that are too late, the stream goes on, and no index comes again."""
    pipeline = timed(clock_back_s=0.05, window=WindowSpec(2, 2, kind="tumbling"))
    slots = np.concatenate((8_640_000 + np.arange(20), np.arange(20)))

    outputs = [pipeline.push(frame_at(slots, np.ones(40))), pipeline.finish()]

    indexes = np.concatenate([output.estimates.index for output in outputs])
    assert (np.diff(indexes) > 0).all()
    assert pipeline.discarded["late"] == 5
    assert len(indexes) == 10 + 7


def test_windows_on_the_clock_do_not_depend_on_the_first_sample(timed: Timed) -> None:
    """Aligned windows begin at multiples of their hop; slots before count as unaligned."""
    pipeline = timed(window=WindowSpec(4, 4, kind="tumbling"))

    outputs = [pipeline.push(frame_at(np.arange(5, 17), np.ones(12))), pipeline.finish()]

    assert [i for output in outputs for i in output.estimates.index.tolist()] == [11, 15]
    assert pipeline.discarded["unaligned"] == 3


def test_a_session_ends_with_a_silence_or_when_it_is_too_long(timed: Timed) -> None:
    """Each is one window from its first to its last sample, whatever its length."""
    pipeline = timed(window=WindowSpec(5, 5, kind="session", silence_s=0.03), smoothing=1)
    slots = [0, 1, 3, 20, 21, 22, 23, 24, 25, 26, 60]

    outputs = [pipeline.push(frame_at(slots, np.arange(11.0))), pipeline.finish()]

    windows = Final(outputs).windows
    assert list(windows) == [3, 24, 26, 60]
    assert windows[24][:2] == (20 * PERIOD_NS, 24 * PERIOD_NS)


def test_what_was_taken_back_and_comes_later_again_goes_on_counting(timed: Timed) -> None:
    """A session that ends where one was taken back long before is its next revision."""
    window = WindowSpec(3, 3, kind="session", silence_s=0.03)
    pipeline = timed(
        window=window, smoothing=1, delay_s=0.02, allowed_lateness_s=10.0, revise_s=0.001
    )

    first = pipeline.push(frame_at([10, 11, 12, 16.6], [1.0, 9.0, 9.0, 1.0]))
    shifted = pipeline.push(frame_at([9, 16.8], [1.0, 1.0]))
    later = pipeline.push(frame_at([40], [1.0]))

    assert first.estimates.index.tolist() == [12]
    assert shifted.retracted is not None
    assert shifted.retracted.revision.tolist() == [1]
    assert (later.estimates.index[0], later.estimates.revision[0]) == (12, 2)
    starts = [decision for decision in later.decisions if decision.index == 12]
    assert [(one.edge, one.revision) for one in starts] == [("start", 2)]
    assert Final([first, shifted, later]).windows.keys() == {11, 12, 17}


def test_time_that_passes_closes_what_waits(timed: Timed) -> None:
    """Without another sample, a session ends once the silence is long enough."""
    pipeline = timed(window=WindowSpec(50, 50, kind="session", silence_s=0.03), idle_s=0.1)
    pipeline.push(frame_at([0, 1, 2], [1, 2, 3]))

    early = pipeline.pass_time(0.01)
    late = pipeline.pass_time(0.2)

    assert len(early.estimates) == 0
    assert late.estimates.index.tolist() == [2]


def test_a_withheld_window_is_counted(timed: Timed) -> None:
    """Marked slots give windows with NaN, which are not answered."""
    grid = GridSpec(gaps="mark", longest_gap_s=0.05)
    pipeline = timed(grid=grid, window=WindowSpec(2, 2, kind="tumbling"))

    outputs = [pipeline.push(frame_at([0, 1, 2, 4, 5], np.ones(5))), pipeline.finish()]

    assert list(Final(outputs).windows) == [1, 5]
    assert pipeline.discarded["not_finite"] >= 1
    assert pipeline.bridged >= 1


def test_two_sensors_of_different_rates_share_a_grid(timed: Timed) -> None:
    """A channel's samples are those that are not NaN; each is resampled alone."""
    grid = GridSpec(resample="hold", gaps="hold", longest_gap_s=0.2)
    pipeline = timed(
        grid=grid, channels=2, window=WindowSpec(1, 1, kind="sliding"), smoothing=1, delay_s=0.5
    )
    fast = frame_at(np.arange(0, 20), np.stack((np.arange(20.0), np.full(20, np.nan)), axis=1))
    slow = frame_at([0, 10], [[np.nan, 100.0], [np.nan, 200.0]])

    outputs = [pipeline.push(slow), pipeline.push(fast), pipeline.finish()]

    values = {index: score for index, (*_, score, _) in Final(outputs).windows.items()}
    assert np.frombuffer(values[5]).tolist() == [5.0, 100.0]
    assert np.frombuffer(values[15]).tolist() == [15.0, 200.0]


def test_slots_that_a_slower_sensor_leaves_out_are_counted(timed: Timed) -> None:
    """And no longer, where its samples come after all."""
    window = WindowSpec(1, 1, kind="sliding")
    pipeline = timed(channels=2, window=window, smoothing=1, allowed_lateness_s=100.0)
    fast = frame_at(np.arange(0, 20), np.stack((np.arange(20.0), np.full(20, np.nan)), axis=1))
    slow = frame_at([0, 10, 19], [[np.nan, 100.0], [np.nan, 200.0], [np.nan, 300.0]])
    late = frame_at([4, 5], [[np.nan, 150.0], [np.nan, 160.0]])

    outputs = [pipeline.push(slow), pipeline.push(fast), pipeline.finish()]

    assert len(Final(outputs).windows) == 3
    assert pipeline.discarded["incomplete"] == 17

    outputs += [pipeline.push(late), pipeline.finish()]

    assert len(Final(outputs).windows) == 5
    assert pipeline.discarded["incomplete"] == 15


def test_a_new_set_of_layers_makes_the_past_final(timed: Timed) -> None:
    """Samples from before it do not mix answers of different layers: they are set aside."""
    pipeline = timed(allowed_lateness_s=100.0, window=WindowSpec(2, 2, kind="tumbling"))
    pipeline.push(frame_at([0, 1, 2, 4, 5, 6, 7, 8], np.ones(8)))

    pipeline.activate(())
    pipeline.push(frame_at([3], [9.0]))
    output = pipeline.finish()

    assert [side.reason for side in output.aside] == ["late"]
    assert output.estimates.revision.tolist() == [0] * len(output.estimates)


def test_a_replacement_goes_on_with_the_samples_that_wait(timed: Timed) -> None:
    """At a swap of the base no window is lost and none comes twice."""
    chosen = {"window": WindowSpec(3, 3, kind="tumbling"), "delay_s": 0.04}
    frames = frames_of(np.arange(40) * PERIOD_NS, np.ones((40, 1), np.float32), [17])
    expected = final_of(timed(**chosen), frames)
    old, new = timed(**chosen), timed(**chosen)

    first = old.push(frames[0])
    new.take_over(old)
    rest = [new.push(frames[1]), new.finish()]

    assert Final([first, *rest]).windows == expected.windows


def test_a_model_that_fails_in_a_replay_leaves_what_was_told(
    timed: Timed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream goes on as if the late samples had not come."""
    pipeline = timed(window=WindowSpec(2, 2, kind="tumbling"), **ENDLESS)
    outputs = [pipeline.push(frame_at([0, 1, 2, 4, 5], np.ones(5)))]
    pipeline.push(frame_at([3], [9.0]))

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.scorer.session, "run", _fail)
        with pytest.raises(ModelError):
            pipeline.finish()
    outputs += [pipeline.push(frame_at([6, 7, 8, 9], np.ones(4))), pipeline.finish()]

    assert list(Final(outputs).windows) == [1, 5, 7, 9]


def _fail(_batch: np.ndarray) -> np.ndarray:
    raise ModelError("it broke")


def test_a_flood_is_thinned_and_counted(timed: Timed) -> None:
    """No more than 64 samples stay in a slot, whatever a sensor sends."""
    pipeline = timed(grid=GridSpec(resample="mean"), allowed_lateness_s=10.0)
    time_ns = np.arange(5000) * 1000

    pipeline.push(Frame("main", 0, time_ns, np.ones((5000, 1), np.float32)))

    assert pipeline.discarded["flood"] == 5000 - 64


@pytest.mark.parametrize(
    ("time_ns", "samples"),
    [
        (np.zeros(2, np.int64), np.zeros((2, 3))),
        (np.zeros(2, np.float64), np.zeros((2, 1))),
        (np.zeros(2, np.int64), np.zeros((2, 1), np.int16)),
        (np.zeros(2, np.int64), np.zeros((2, 1), np.complex64)),
    ],
)
def test_frames_that_do_not_fit_are_refused(
    timed: Timed, time_ns: np.ndarray, samples: np.ndarray
) -> None:
    """The message shows what came, and nothing of it is kept."""
    pipeline = timed()
    pipeline.push(frame_at([0], [1.0]))
    before = pipeline.snapshot()

    with pytest.raises(ShapeError, match="channels"):
        pipeline.push(Frame("main", 0, time_ns, samples))

    assert pipeline.snapshot() == before


@pytest.mark.parametrize("snapshot", [b"", b"\x80", b"not a snapshot"])
def test_a_damaged_snapshot_is_refused(timed: Timed, snapshot: bytes) -> None:
    """It says so instead of going on with anything."""
    with pytest.raises(ModelError):
        timed().restore(snapshot)


def test_a_snapshot_of_another_grid_leaves_only_what_the_pipeline_knows(timed: Timed) -> None:
    """A new base with other slots begins with the next sample; it does not mix two grids."""
    old, new = timed(), timed(grid=GridSpec(resample="mean"), base="cd" * 32)
    old.push(frame_at(np.arange(6), np.ones(6)))

    new.restore(old.snapshot(), base=old.base)
    output = new.push(frame_at(np.arange(10, 16), np.full(6, 2.0)))

    assert output.estimates.value.ravel().tolist() == [2.0]


def test_a_bundle_without_a_grid_is_refused(
    spec_of: Callable[..., object], session_of: Callable[..., object]
) -> None:
    """Samples are put in order only where the bundle says how."""
    pipeline = Pipeline(spec_of(), session_of((4, 1), is_identity=False), base="ab" * 32)

    with pytest.raises(ConfigError, match="grid"):
        TimedPipeline(pipeline)


def test_uploads_of_sessions_are_features_at_most(timed: Timed) -> None:
    """Windows of different lengths have no common shape."""
    with pytest.raises(ConfigError, match="sessions"):
        timed(window=WindowSpec(5, 5, kind="session", silence_s=0.1), upload="windows")


def test_inputs_come_again_with_a_revision(timed: Timed) -> None:
    """What goes up along with a window is what the last answer saw."""
    window = WindowSpec(2, 2, kind="tumbling")
    grid = GridSpec(gaps="hold", longest_gap_s=1.0)
    pipeline = timed(window=window, grid=grid, upload="windows", **ENDLESS)
    pipeline.push(frame_at([0, 1, 2, 4, 5], [0, 0, 0, 0, 0]))
    pipeline.push(frame_at([3], [8]))

    output = pipeline.finish()

    row = output.estimates.index.tolist().index(3)
    assert output.estimates.revision[row] == 1
    assert output.estimates.inputs[row].ravel().tolist() == [0.0, 8.0]


def test_a_window_has_the_bits_of_the_samples_in_its_slots(timed: Timed) -> None:
    """Late or not, what a source says about a sample stands with every window it made."""
    pipeline = timed(window=WindowSpec(2, 2, kind="tumbling"), smoothing=1, **ENDLESS)
    suspect = np.array([0, Quality.SATURATED, 0, 0, 0, 0], MASK)
    outputs = [pipeline.push(_suspect([0, 1, 2, 4, 5, 6], suspect))]

    outputs.append(pipeline.push(_suspect([3], np.array([Quality.FROZEN], MASK))))
    outputs.append(pipeline.finish())

    masks = {index: mask for index, (*_, mask) in Final(outputs).windows.items()}
    assert masks == {1: Quality.SATURATED, 3: Quality.FROZEN, 5: 0}


def _suspect(slots: Sequence[float], quality: np.ndarray) -> Frame:
    return msgspec.structs.replace(frame_at(slots, np.ones(len(slots))), quality=quality)


def test_a_change_of_what_is_suspect_alone_is_a_revision(timed: Timed) -> None:
    """The value is the same; who relies on it must still hear of it. So must a decision."""
    grid = GridSpec(resample="mean")
    chosen = {"window": WindowSpec(1, 1, kind="tumbling"), "smoothing": 1, **ENDLESS}
    pipeline = timed(grid=grid, **chosen)
    before = pipeline.push(frame_at([0, 1, 2, 3], [6, 6, 6, 6]))

    pipeline.push(
        Frame("main", 0, np.array([1]), np.full((1, 1), 6, np.float32), quality=np.array([1], MASK))
    )
    after = pipeline.finish()

    assert [d.quality for d in before.decisions] == [0]
    row = after.estimates.index.tolist().index(0)
    assert after.estimates.revision[row] == 1
    assert after.estimates.quality[row] == Quality.SATURATED
    assert [(d.quality, d.revision, d.is_retracted) for d in after.decisions] == [(1, 1, False)]


@pytest.mark.parametrize("gaps", ["hold", "fill"])
@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (WINDOWS[1], {2: 0, 5: 0, 8: Quality.FILLED, 11: 0}),
        (WINDOWS[4], {5: 0, 11: Quality.FILLED}),
    ],
    ids=["tumbling", "session"],
)
def test_bridged_slots_are_marked(
    timed: Timed, gaps: str, window: WindowSpec, expected: dict[int, int]
) -> None:
    """What was put in for a missing sample is no measurement, and says so."""
    grid = GridSpec(gaps=gaps, longest_gap_s=0.05)
    pipeline = timed(window=window, grid=grid)

    output = pipeline.push(frame_at([0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12], np.ones(12)))

    masks = {index: mask for index, (*_, mask) in Final([output]).windows.items()}
    assert masks == expected


def test_samples_set_aside_keep_what_is_suspect(timed: Timed) -> None:
    """A sink that wants them gets it too."""
    pipeline = timed()
    pipeline.push(frame_at(np.arange(100), np.ones(100)))

    output = pipeline.push(_suspect([20, 21], np.array([0, Quality.SATURATED], MASK)))

    assert output.aside[0].quality.tolist() == [0, Quality.SATURATED]


def test_a_snapshot_keeps_its_bytes_where_nothing_is_suspect(timed: Timed) -> None:
    """Masks of zeros are no masks."""
    plain, marked = timed(**ENDLESS), timed(**ENDLESS)

    plain.push(frame_at(np.arange(20), np.ones(20)))
    marked.push(_suspect(np.arange(20).tolist(), np.zeros(20, MASK)))

    assert marked.snapshot() == plain.snapshot()
