"""Cutting frames into windows, against a reader that takes one sample at a time."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ModelError, ShapeError
from edge_runtime.pipeline.windows import Cutter, CutterState
from edge_runtime.quality import MASK
from edge_runtime.spec import Butterworth, ChannelSpec, StreamSpec, WindowSpec
from edge_runtime.types import Frame, Windows

PERIOD_NS = 10_000_000
MASKS = st.sampled_from([0] * 12 + [1, 2, 3, 4, 1 << 15])
Cut = list[tuple[int, int, int, list[float]]]
Marked = list[tuple[int, int, int, list[float], int]]


def cutter_of(length: int, hop: int, channels: int = 1) -> Cutter:
    """Make a cutter for a stream of 100 Hz."""
    names = tuple(ChannelSpec(f"c{i}") for i in range(channels))
    return Cutter(WindowSpec(length, hop), StreamSpec(names, 100.0))


def cut(cutter: Cutter, *frames: Frame) -> Cut:
    """Return (index, start, end, first channel) of every window."""
    return [window[:4] for window in cut_marked(cutter, *frames)]


def cut_marked(cutter: Cutter, *frames: Frame) -> Marked:
    """Return the same, and what is suspect about each window."""
    return [window for frame in frames for window in told(cutter.cut(frame))]


def told(blocks: Iterable[Windows]) -> Marked:
    """Copy what there is to tell of windows: their samples are views."""
    return [
        (int(index), int(start), int(end), samples[:, 0].tolist(), int(mask))
        for windows in blocks
        for index, start, end, samples, mask in zip(
            windows.index,
            windows.start_ns,
            windows.end_ns,
            windows.samples,
            np.zeros(len(windows), MASK) if windows.quality is None else windows.quality,
            strict=True,
        )
    ]


def cut_by_sample(length: int, hop: int, frame: Frame) -> tuple[Marked, dict[str, int]]:
    """Do the same with plain lists, one sample after the other."""
    windows: Marked = []
    discarded = {"out_of_order": 0, "gap": 0, "not_finite": 0}
    rows: list[tuple[int, int, float, int]] = []
    begins, covered, last_ns = 0, 0, None
    masks = np.zeros(len(frame), MASK) if frame.quality is None else frame.quality
    values = frame.samples[:, 0].astype(np.float32).tolist()
    for row, (time_ns, value, mask) in enumerate(
        zip(frame.time_ns.tolist(), values, masks.tolist(), strict=True)
    ):
        if last_ns is not None and time_ns <= last_ns:
            discarded["out_of_order"] += 1
            continue
        if last_ns is not None and time_ns - last_ns > 1.5 * PERIOD_NS:
            discarded["gap"] += max(0, len(rows) - max(begins, covered))
            rows, begins, covered = [], 0, 0
        last_ns = time_ns
        rows.append((frame.index + row, time_ns, value, mask))
        if len(rows) == begins + length:
            part = rows[begins:]
            begins, covered = begins + hop, len(rows)
            if all(np.isfinite(sample[2]) for sample in part):
                found = functools.reduce(operator.or_, (sample[3] for sample in part))
                shown = [sample[2] for sample in part]
                windows.append((part[-1][0], part[0][1], part[-1][1], shown, found))
            else:
                discarded["not_finite"] += 1
    return windows, discarded


@st.composite
def streams(draw: st.DrawFn) -> Frame:
    """Draw one channel with gaps, late and suspect rows, and values that are no numbers."""
    count = draw(st.integers(1, 120))
    steps = st.sampled_from([PERIOD_NS] * 12 + [PERIOD_NS * 15 // 10, PERIOD_NS * 2, 0, -PERIOD_NS])
    time_ns = np.cumsum(draw(st.lists(steps, min_size=count, max_size=count)))
    values = st.sampled_from([1.0, 2.5, -3.0, 0.0] * 4 + [np.nan, np.inf, 1e300])
    samples = draw(st.lists(values, min_size=count, max_size=count))
    index = draw(st.integers(0, 10**12))
    masks = draw(st.none() | st.lists(MASKS, min_size=count, max_size=count))
    quality = None if masks is None else np.array(masks, MASK)
    times = time_ns.astype(np.int64)
    return Frame("main", index, times, np.array(samples)[:, None], quality=quality)


def rows_of(frame: Frame, first: int, last: int | None = None) -> Frame:
    """Return a part of a frame."""
    rows = slice(first, last)
    quality = None if frame.quality is None else frame.quality[rows]
    return msgspec.structs.replace(
        frame,
        index=frame.index + first,
        time_ns=frame.time_ns[rows],
        samples=frame.samples[rows],
        # As a source does it: nothing at all where nothing is suspect.
        quality=quality if quality is not None and quality.any() else None,
    )


def chunks_of(frame: Frame, sizes: list[int]) -> list[Frame]:
    """Split a frame into frames of these sizes, again and again."""
    ends = np.cumsum(sizes * (len(frame) // sum(sizes) + 1)).tolist()
    return [rows_of(frame, first, last) for first, last in itertools.pairwise([0, *ends])]


@settings(max_examples=300)
@given(
    frame=streams(),
    length=st.integers(1, 9),
    hop=st.integers(1, 12),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_windows_are_those_of_a_reader_that_takes_one_sample_at_a_time(
    frame: Frame, length: int, hop: int, sizes: list[int]
) -> None:
    """Blocks of any size give the same windows and the same discards as single samples."""
    cutter = cutter_of(length, hop)

    found = cut_marked(cutter, *chunks_of(frame, sizes))

    assert (found, cutter.discarded) == cut_by_sample(length, hop, frame)


def check_short_way(window: WindowSpec, frames: list[Frame]) -> None:
    """Hold `cut_next` to `cut`: windows, where stretches begin, and state after every frame."""
    stream = StreamSpec((ChannelSpec("c0"),), 100.0)
    short, long = Cutter(window, stream), Cutter(window, stream)
    for frame in frames:
        one = short.cut_next(frame)
        found = short.cut(frame) if one is None else [one]
        assert [(told([windows]), windows.is_fresh) for windows in found] == [
            (told([windows]), windows.is_fresh) for windows in long.cut(frame)
        ]
        assert short.state() == long.state()


@settings(max_examples=300)
@given(
    frame=streams(),
    length=st.integers(1, 9),
    hop=st.integers(1, 12),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    dtype=st.sampled_from(["f8", "f4", "i2"]),
    has_padding=st.booleans(),
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_the_short_way_cuts_what_the_long_one_does(
    frame: Frame, length: int, hop: int, sizes: list[int], dtype: str, has_padding: bool
) -> None:
    """Windows, where stretches begin, and all that is remembered, frame by frame."""
    frame = msgspec.structs.replace(frame, samples=frame.samples.astype(dtype))
    window = WindowSpec(length, hop, pad=length - 1 if has_padding else 0)

    check_short_way(window, chunks_of(frame, sizes))


def test_a_stretch_that_begins_goes_the_long_way(frame_of: Callable[..., Frame]) -> None:
    """There padding comes first, and a whole window may be cut out of its frame."""
    cutter = Cutter(WindowSpec(4, 4, pad=3), StreamSpec((ChannelSpec("c0"),), 100.0))
    frame = frame_of(np.arange(4.0, dtype=np.float32))
    assert [window[3] for window in cut(cutter, frame)] == [[0.0, 0.0, 0.0, 0.0]]

    cutter.begin()

    assert cutter.cut_next(frame) is None
    assert [window[3] for window in cut(cutter, frame)] == [[0.0, 0.0, 0.0, 0.0]]


def test_a_steady_stream_goes_the_short_way(frame_of: Callable[..., Frame]) -> None:
    """Once it has begun, and but for the frames at which the buffer is cleared up."""
    cutter = cutter_of(4, 2)
    parts = chunks_of(frame_of(np.arange(40_000.0)), [2])
    assert told(cutter.cut(parts[0])) == [] and cutter.cut_next(parts[0]) is None

    is_short = []
    for part in parts[1:-1]:
        is_short.append(cutter.cut_next(part) is not None)
        if not is_short[-1]:
            assert len(told(cutter.cut(part))) == 1

    assert is_short.count(True) > 0.9 * len(is_short)


@settings(max_examples=300)
@given(
    frame=streams(),
    length=st.integers(1, 6),
    odd=st.lists(st.integers(1, 12), max_size=2),
    dtype=st.sampled_from(["f8", "f4", "i2"]),
    has_padding=st.booleans(),
    has_gaps_between_rows=st.booleans(),
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_a_frame_that_is_a_window_is_cut_as_any_other(
    frame: Frame,
    length: int,
    odd: list[int],
    dtype: str,
    has_padding: bool,
    has_gaps_between_rows: bool,
) -> None:
    """Images, as it were, among frames of other sizes: windows and state are those of `cut`."""
    samples = frame.samples.astype(dtype)
    if has_gaps_between_rows:
        samples = np.repeat(samples, 2, axis=1)[:, ::2]
    frame = msgspec.structs.replace(frame, samples=samples)
    window = WindowSpec(length, length, pad=length - 1 if has_padding else 0)

    check_short_way(window, chunks_of(frame, [*odd, *[length] * 4]))


def test_an_image_goes_the_short_way_and_is_not_copied(frame_of: Callable[..., Frame]) -> None:
    """Once the first frame has told the dtype, and unless its samples lie apart."""
    cutter = cutter_of(4, 4)
    frames = chunks_of(frame_of(np.arange(20.0, dtype=np.float32)), [4])
    assert cutter.cut_next(frames[0]) is None
    assert len(told(cutter.cut(frames[0]))) == 1

    for frame in frames[1:4]:
        windows = cutter.cut_next(frame)
        assert windows is not None
        assert np.shares_memory(windows.samples, frame.samples)
    apart = np.repeat(frames[4].samples, 2, axis=1)[:, ::2]
    assert cutter.cut_next(msgspec.structs.replace(frames[4], samples=apart)) is None


@settings(max_examples=100)
@given(
    frame=streams(),
    length=st.integers(1, 9),
    hop=st.integers(1, 12),
    cut_at=st.integers(0, 120),
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_restored_cutter_goes_on_as_if_nothing_had_happened(
    frame: Frame, length: int, hop: int, cut_at: int
) -> None:
    """State taken at any sample, through bytes, is all there is to remember."""
    whole = cutter_of(length, hop)
    expected = cut_marked(whole, frame)
    first, second = cutter_of(length, hop), cutter_of(length, hop)

    windows = cut_marked(first, rows_of(frame, 0, cut_at))
    state = msgspec.msgpack.encode(first.state())
    second.restore(msgspec.msgpack.decode(state, type=CutterState))
    windows += cut_marked(second, rows_of(frame, cut_at))

    assert windows == expected
    assert second.discarded == whole.discarded


def test_a_long_stream_wraps_the_buffer_often(frame_of: Callable[..., Frame]) -> None:
    """Nothing is mixed up where the buffer is moved to its start."""
    frame = frame_of(np.arange(50_000))
    cutter = cutter_of(100, 7)

    found = cut(cutter, *chunks_of(frame, [999, 64, 1, 20_000]))

    ends = np.arange(99, 50_000, 7)
    assert [window[0] for window in found] == ends.tolist()
    assert all(w[3] == list(range(w[0] - 99, w[0] + 1)) for w in found[::50])


def test_samples_skipped_by_the_hop_are_no_gap(frame_of: Callable[..., Frame]) -> None:
    """Only rows of a window that was begun are counted when a gap cuts it short."""
    cutter = cutter_of(2, 5)
    time_ns = np.array([0, 1, 2, 3, 90, 91, 92, 93, 94, 95, 190]) * PERIOD_NS

    found = cut(cutter, frame_of(np.arange(11), time_ns=time_ns))

    assert [window[0] for window in found] == [1, 5]
    assert cutter.discarded == {"out_of_order": 0, "gap": 1, "not_finite": 0}


@pytest.mark.parametrize(
    ("given_dtype", "kept"),
    [
        ("float64", "float32"),
        ("float16", "float32"),
        (">f4", "float32"),
        ("int8", "int8"),
        (">i2", "int16"),
        ("uint8", "uint8"),
        ("bool", "bool"),
    ],
)
def test_windows_keep_the_dtype_of_the_source(
    frame_of: Callable[..., Frame], given_dtype: str, kept: str
) -> None:
    """Floats become float32 at once; integers stay what they are."""
    cutter = cutter_of(2, 1)

    (windows,) = cutter.cut(frame_of(np.array([0, 1, 1], given_dtype)))

    assert windows.samples.dtype == np.dtype(kept)
    assert windows.samples[..., 0].astype(int).tolist() == [[0, 1], [1, 1]]


def test_a_window_alone_is_a_view(frame_of: Callable[..., Frame]) -> None:
    """One window costs no copy and is contiguous, as a model wants it."""
    cutter = cutter_of(3, 1, channels=2)

    (windows,) = cutter.cut(frame_of(np.arange(6, dtype=np.float32).reshape(3, 2)))

    assert not windows.samples.flags.owndata
    assert windows.samples.flags.c_contiguous


def test_channels_that_do_not_fit_are_refused(frame_of: Callable[..., Frame]) -> None:
    """The message shows both numbers and the channels' names."""
    with pytest.raises(ShapeError, match=r"3 channels, shape \(4, 3\); expected 2: c0, c1"):
        cutter_of(2, 1, channels=2).cut(frame_of(np.zeros((4, 3))))


@pytest.mark.parametrize("dtype", ["complex64", "object", "U3"])
def test_samples_that_are_no_real_numbers_are_refused(
    frame_of: Callable[..., Frame], dtype: str
) -> None:
    """There is no window of such things."""
    with pytest.raises(ShapeError, match="real number"):
        cutter_of(2, 1).cut(frame_of(np.zeros(2, dtype)))


def test_a_source_may_not_change_its_dtype(frame_of: Callable[..., Frame]) -> None:
    """A window of two kinds of numbers would depend on how frames are cut."""
    cutter = cutter_of(2, 1)
    cut(cutter, frame_of(np.zeros(2, np.int16)))

    with pytest.raises(ShapeError, match="float64; expected int16"):
        cutter.cut(frame_of(np.zeros(2), index=2))


def test_times_that_are_not_whole_nanoseconds_are_refused() -> None:
    """A float loses nanoseconds: two rows could fall together."""
    frame = Frame("main", 0, np.array([0.0, 1e7]), np.zeros((2, 1)))

    with pytest.raises(ShapeError, match="float64; expected int64"):
        cutter_of(2, 1).cut(frame)


def test_an_empty_frame_changes_nothing(frame_of: Callable[..., Frame]) -> None:
    """A source may have nothing to say."""
    cutter = cutter_of(2, 1)

    assert cut(cutter, frame_of(np.empty((0, 1)))) == []


@pytest.mark.parametrize(
    "change",
    [
        {"samples": b"\0" * 7},
        {"samples": b"\0" * 400},
        {"dtype": "object"},
        {"dtype": "no dtype"},
        {"dtype": "<f8"},
        {"jitter": b"\0" * 3},
        {"jitter": b"\0" * 800},
        {"first_ns": 2**70},
        {"step_ns": 2**70},
        {"skip": -1},
        {"skip": 1000},
        {"covered": 99},
        {"last_ns": None},
        {"last_ns": 2**63},
        {"discarded": {"gap": 1}},
    ],
    ids=str,
)
def test_a_state_that_does_not_fit_is_refused(
    frame_of: Callable[..., Frame], change: dict[str, object]
) -> None:
    """A damaged state raises and changes nothing."""
    cutter = cutter_of(5, 2)
    cut(cutter, frame_of(np.arange(8, dtype=np.float32)))
    state = cutter.state()

    with pytest.raises(ModelError, match="does not fit"):
        cutter.restore(msgspec.structs.replace(state, **change))

    assert cutter.state() == state


@pytest.mark.parametrize("sizes", [[1], [3], [50]])
def test_a_cutter_with_the_same_window_takes_over_without_loss(
    frame_of: Callable[..., Frame], sizes: list[int]
) -> None:
    """Two cutters, one after the other, give the windows of one."""
    frame = frame_of(np.arange(50.0))
    expected = cut(cutter_of(8, 3), frame)
    old, new = cutter_of(8, 3), cutter_of(8, 3)
    frames = chunks_of(frame, sizes)
    half = len(frames) // 2

    found = cut(old, *frames[:half])
    new.take_over(old)
    found += cut(new, *frames[half:])

    assert found == expected


@pytest.mark.parametrize(("length", "first"), [(3, 21), (30, 43)])
def test_a_cutter_with_another_length_uses_the_rows_it_can(
    frame_of: Callable[..., Frame], length: int, first: int
) -> None:
    """A shorter window ends with the next sample, a longer one fills up from what is there."""
    frame = frame_of(np.arange(60.0))
    old, new = cutter_of(8, 7), cutter_of(length, 1)
    head, tail = rows_of(frame, 0, 21), rows_of(frame, 21)
    cut(old, head)

    new.take_over(old)

    assert cut(new, tail)[0][0] == first
    assert cut(new, frame_of([0.0], index=60))[0][3] == [*range(61 - length, 60), 0.0]


def test_a_cutter_with_other_channels_starts_afresh(frame_of: Callable[..., Frame]) -> None:
    """Rows of an unfinished window are counted, and time does not run backwards."""
    old, new = cutter_of(4, 4), cutter_of(2, 2, channels=2)
    cut(old, frame_of(np.arange(7.0)))

    new.take_over(old)
    found = cut(new, frame_of(np.zeros((4, 2)), index=5))

    assert [window[0] for window in found] == [8]
    assert new.discarded == {"out_of_order": 2, "gap": 3, "not_finite": 0}


# --- stretches, padding, steady clocks, filters -------------------------------------------


def test_padding_stands_before_the_first_sample_and_after_a_gap(
    frame_of: Callable[..., Frame],
) -> None:
    """Zeros are imagined in front of every stretch, and are no discarded samples."""
    cutter = Cutter(WindowSpec(4, 2, pad=2), StreamSpec((ChannelSpec("c"),), 100.0))
    times = np.array([0, 1, 2, 3, 9, 10]) * PERIOD_NS

    found = cut(cutter, frame_of(np.arange(1.0, 7.0), time_ns=times))

    assert found == [
        (1, -2 * PERIOD_NS, PERIOD_NS, [0, 0, 1, 2]),
        (3, 0, 3 * PERIOD_NS, [1, 2, 3, 4]),
        (5, 7 * PERIOD_NS, 10 * PERIOD_NS, [0, 0, 5, 6]),
    ]
    assert cutter.discarded == {"out_of_order": 0, "gap": 0, "not_finite": 0}


def test_a_block_tells_where_a_stretch_begins(frame_of: Callable[..., Frame]) -> None:
    """At the start, after a gap and after a window that was left out; not after a frame's end."""
    cutter = cutter_of(2, 2)
    samples = np.arange(14.0)
    samples[6] = np.nan
    times = (np.arange(14) + 5 * (np.arange(14) >= 10)) * PERIOD_NS
    frame = frame_of(samples, time_ns=times)

    blocks = [
        (windows.index.tolist(), windows.is_fresh)
        for part in (rows_of(frame, 0, 4), rows_of(frame, 4))
        for windows in cutter.cut(part)
    ]

    assert blocks == [([1, 3], True), ([5], False), ([9], True), ([11, 13], True)]


@given(count=st.integers(1, 300), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_a_promise_of_a_steady_clock_changes_nothing(count: int, sizes: list[int]) -> None:
    """Frames whose source vouches for its clock give the windows of frames that are looked at."""
    times = np.arange(count, dtype=np.int64) * PERIOD_NS
    frame = Frame("main", 0, times, np.arange(float(count))[:, None])
    plain = chunks_of(frame, sizes)
    promised = [msgspec.structs.replace(part, step_ns=PERIOD_NS) for part in plain]

    assert cut(cutter_of(7, 3), *promised) == cut(cutter_of(7, 3), *plain)


def test_a_promised_step_that_is_a_gap_is_looked_at(frame_of: Callable[..., Frame]) -> None:
    """A source at a tenth of the rate cannot promise its gaps away."""
    frame = frame_of(np.arange(8.0), time_ns=np.arange(8) * 10 * PERIOD_NS)
    slow = msgspec.structs.replace(frame, step_ns=10 * PERIOD_NS)
    cutter = cutter_of(2, 2)

    assert cut(cutter, slow) == []
    assert cutter.discarded["gap"] == 7


LOWPASS = (Butterworth("lowpass", (10.0,)),)


@given(seam=st.integers(0, 63))
def test_a_cutter_with_the_same_filter_takes_over_without_loss(seam: int) -> None:
    """Filter, waiting samples and windows go on as if nobody had been replaced."""
    stream = StreamSpec((ChannelSpec("c"),), 100.0)
    window = WindowSpec(16, 8)
    samples = np.random.default_rng(3).normal(size=64)
    frame = Frame("main", 0, np.arange(64, dtype=np.int64) * PERIOD_NS, samples[:, None])
    alone, old, new = (Cutter(window, stream, LOWPASS) for _ in range(3))

    before = cut_marked(old, rows_of(frame, 0, seam))
    new.take_over(old)
    after = cut_marked(new, rows_of(frame, seam))

    assert before + after == cut_marked(alone, frame)


def test_a_cutter_with_another_filter_starts_afresh(frame_of: Callable[..., Frame]) -> None:
    """What one filter has changed is of no use to another; the samples are counted."""
    stream = StreamSpec((ChannelSpec("c"),), 100.0)
    old = Cutter(WindowSpec(8, 8), stream, LOWPASS)
    new = Cutter(WindowSpec(8, 8), stream)
    cut(old, frame_of(np.arange(5.0)))

    new.take_over(old)

    assert new.discarded["gap"] == 5


def test_the_filter_sees_the_value_before_one_that_is_missing() -> None:
    """A missing value costs its own windows and leaves those after it near what they would be."""
    stream = StreamSpec((ChannelSpec("c"),), 100.0)
    samples = np.full(64, 7.0)
    samples[20] = np.nan
    times = np.arange(64, dtype=np.int64) * PERIOD_NS
    cutter = Cutter(WindowSpec(8, 8), stream, LOWPASS)

    found = cut(cutter, Frame("main", 0, times, samples[:, None]))

    assert cutter.discarded["not_finite"] == 1
    assert [window[0] for window in found] == [7, 15, 31, 39, 47, 55, 63]
    assert found[2][3] == pytest.approx([7.0] * 8, abs=0.1)


def test_a_cutter_that_has_seen_nothing_still_pads_after_a_restore() -> None:
    """A snapshot from before the first sample does not lose the padding of the first window."""
    window = WindowSpec(4, 2, pad=3)
    stream = StreamSpec((ChannelSpec("c0"),), 100.0)
    frame = Frame("main", 0, np.arange(8) * PERIOD_NS, np.arange(8.0)[:, None])
    restored = Cutter(window, stream)

    restored.restore(Cutter(window, stream).state())

    assert cut(restored, frame) == cut(Cutter(window, stream), frame)
