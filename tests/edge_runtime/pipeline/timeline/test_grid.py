"""What a slot holds: a plain reading of the rules, slot by slot, gives the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.pipeline.timeline.grid import Grid
from edge_runtime.pipeline.timeline.rows import Rows
from edge_runtime.quality import MASK, Quality
from edge_runtime.spec import ChannelSpec, GridSpec, ImageSpec, StreamSpec, WindowSpec

PERIOD_NS = 10_000_000
NEAR_NS = 15_000_000
LIMIT_NS = 40_000_000


def _grid(resample: str, gaps: str) -> Grid:
    spec = GridSpec(resample, gaps, 0.0 if gaps == "skip" else 0.04)
    return Grid(StreamSpec((ChannelSpec("c"),), 100.0, grid=spec), 1.5)


def _by_hand(
    time_ns: list[int], values: list[float], slot: int, resample: str, gaps: str
) -> float | None:
    """Follow the documented rules for one slot."""
    at = slot * PERIOD_NS
    inside = [i for i, t in enumerate(time_ns) if (t + PERIOD_NS // 2) // PERIOD_NS == slot]
    before = [i for i, t in enumerate(time_ns) if t <= at]
    left = before[-1] if before else None
    right = next((i for i, t in enumerate(time_ns) if t > at), None)
    if left is not None and time_ns[left] == at:
        right = left

    def on_line(limit: int) -> float | None:
        if left is None or right is None or time_ns[right] - time_ns[left] > limit:
            return None
        step = max(1, time_ns[right] - time_ns[left])
        return values[left] + (values[right] - values[left]) * ((at - time_ns[left]) / step)

    def held(limit: int) -> float | None:
        near = left is not None and at - time_ns[left] <= limit
        return values[left] if near and left is not None else None

    found: float | None
    match resample:
        case "nearest":
            closest = min(inside, key=lambda i: (abs(time_ns[i] - at), i), default=None)
            found = None if closest is None else values[closest]
        case "mean":
            found = sum(values[i] for i in inside) / len(inside) if inside else None
        case "hold":
            found = held(NEAR_NS)
        case _:
            found = on_line(NEAR_NS)
    if found is not None or gaps == "skip":
        return found
    if gaps == "fill":
        return on_line(LIMIT_NS)
    bridged = held(LIMIT_NS)
    return bridged if bridged is None or gaps == "hold" else float("nan")


@given(
    st.lists(st.integers(-60, 60), min_size=1, max_size=25, unique=True).map(sorted),
    st.sampled_from(["nearest", "mean", "hold", "linear"]),
    st.sampled_from(["skip", "hold", "fill", "mark"]),
)
def test_every_slot_follows_the_rules(offsets: list[int], resample: str, gaps: str) -> None:
    """Samples in steps of 4 ms, on a grid of 10 ms, with every policy."""
    time_ns = [4_000_000 * offset for offset in offsets]
    values = np.random.default_rng(len(offsets)).normal(size=len(offsets)).astype(np.float32)
    grid = _grid(resample, gaps)

    slots = grid.between(Rows(np.array(time_ns), values[:, None]), -40, 40)

    found = dict(zip(slots.number.tolist(), slots.samples[:, 0].tolist(), strict=True))
    expected = {
        slot: value
        for slot in range(-40, 41)
        if (value := _by_hand(time_ns, values.tolist(), slot, resample, gaps)) is not None
    }
    assert list(found) == list(expected)
    assert np.allclose(list(found.values()), list(expected.values()), 1e-6, equal_nan=True)


def _made_of(time_ns: list[int], slot: int, resample: str, gaps: str) -> list[int]:
    """Follow the documented rules for which samples make a slot."""
    at = slot * PERIOD_NS
    inside = [i for i, t in enumerate(time_ns) if (t + PERIOD_NS // 2) // PERIOD_NS == slot]
    left = max((i for i, t in enumerate(time_ns) if t <= at), default=None)
    right = min((i for i, t in enumerate(time_ns) if t >= at), default=None)
    pair = [i for i in (left, right) if i is not None]
    closest = min(inside, key=lambda i: (abs(time_ns[i] - at), i), default=None)
    if resample == "linear" and len(pair) == 2 and time_ns[pair[1]] - time_ns[pair[0]] <= NEAR_NS:
        return pair
    if resample == "hold" and left is not None and at - time_ns[left] <= NEAR_NS:
        return [left]
    if resample in ("nearest", "mean") and closest is not None:
        return [closest] if resample == "nearest" else inside
    return pair if gaps == "fill" else pair[:1]


def _is_sampled(time_ns: list[int], slot: int, resample: str) -> bool:
    return _by_hand(time_ns, [0.0] * len(time_ns), slot, resample, "skip") is not None


def _mask_by_hand(time_ns: list[int], masks: list[int], slot: int, resample: str, gaps: str) -> int:
    """Follow the documented rules for what is suspect about one slot."""
    bits = 0
    for row in _made_of(time_ns, slot, resample, gaps):
        bits |= masks[row] & ~int(Quality.LOST_BEFORE)
    half = PERIOD_NS // 2 if resample in ("nearest", "mean") else 0
    for row, time in enumerate(time_ns):
        own = (time + half) // PERIOD_NS if half else -(-time // PERIOD_NS)
        bits |= masks[row] & Quality.LOST_BEFORE if own == slot else 0
    is_filled = gaps in ("hold", "fill") and not _is_sampled(time_ns, slot, resample)
    return bits | (Quality.FILLED if is_filled else 0)


@given(
    st.lists(st.integers(-60, 60), min_size=1, max_size=25, unique=True).map(sorted),
    st.sampled_from(["nearest", "mean", "hold", "linear"]),
    st.sampled_from(["skip", "hold", "fill", "mark"]),
    st.lists(st.sampled_from([0, 0, 1, 2, 4, 5, 0x8000]), min_size=25, max_size=25),
)
@example([1], "nearest", "skip", [1] * 25)
def test_a_slot_has_the_marks_of_what_it_is_made_of(
    offsets: list[int], resample: str, gaps: str, drawn: list[int]
) -> None:
    """Its samples' bits, FILLED where the policy made it, LOST_BEFORE once behind a loss."""
    time_ns, masks = [4_000_000 * offset for offset in offsets], drawn[: len(offsets)]
    rows = Rows(np.array(time_ns), np.ones((len(masks), 1), np.float32), np.array(masks, MASK))
    grid = _grid(resample, gaps)

    slots = grid.between(rows, -40, 40)

    assert slots.quality is not None
    is_real = np.isfinite(slots.samples[:, 0])
    assert slots.quality[is_real].tolist() == [
        _mask_by_hand(time_ns, masks, slot, resample, gaps)
        for slot in slots.number[is_real].tolist()
    ]


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=25, unique=True).map(sorted),
    st.sampled_from(["nearest", "mean", "hold", "linear"]),
    st.sampled_from(["skip", "hold", "fill", "mark"]),
    st.integers(0, 100),
)
def test_a_known_slot_stays_as_it_is(
    offsets: list[int], resample: str, gaps: str, now: int
) -> None:
    """No sample after the watermark changes a slot that was said to be known."""
    time_ns = np.array(offsets) * 4_000_000
    values = np.arange(len(offsets), dtype=np.float32)[:, None]
    masks = np.arange(len(offsets)).astype(MASK)
    rows, watermark_ns = Rows(time_ns, values, masks), now * 4_000_000
    come = rows.take(time_ns <= watermark_ns)
    grid = _grid(resample, gaps)

    known = grid.known(come, watermark_ns)

    early, late = grid.between(come, -10, known), grid.between(rows, -10, known)
    assert early.number.tolist() == late.number.tolist()
    assert early.samples.tobytes() == late.samples.tobytes()
    assert early.quality is not None
    assert late.quality is not None
    assert early.quality.tolist() == late.quality.tolist()


def test_where_no_source_says_anything_there_are_no_marks() -> None:
    """Nothing is computed that nobody asks for."""
    rows = Rows(np.arange(10) * PERIOD_NS, np.ones((10, 1), np.float32))

    slots = _grid("nearest", "hold").between(rows, 0, 9)

    assert slots.quality is None


def test_a_gap_of_years_takes_no_memory() -> None:
    """Slots without samples in reach are not even looked at."""
    century_ns = 100 * 365 * 86_400 * 10**9
    rows = Rows(np.array([0, century_ns]), np.ones((2, 1), np.float32))

    slots = _grid("hold", "hold").between(rows, -5, century_ns // PERIOD_NS + 5)

    assert len(slots) == 5 + 5


@pytest.mark.parametrize(
    ("dtype", "resample", "gaps", "kept"),
    [
        ("int16", "nearest", "skip", "int16"),
        ("int16", "hold", "hold", "int16"),
        ("int16", "mean", "skip", "float32"),
        ("uint8", "nearest", "mark", "float32"),
        ("float64", "nearest", "skip", "float32"),
    ],
)
def test_integers_stay_integers_where_nothing_is_computed(
    dtype: str, resample: str, gaps: str, kept: str
) -> None:
    """Else they become float32."""
    assert _grid(resample, gaps).dtype(np.dtype(dtype)) == np.dtype(kept)


@pytest.mark.parametrize("options", [{"gaps": "fill"}, {"longest_gap_s": 1.0}])
def test_a_bound_goes_with_a_policy(options: dict[str, object]) -> None:
    """No gap is bridged without one, and none is given in vain."""
    with pytest.raises(ConfigError, match="longest_gap_s"):
        GridSpec(**options)


def test_images_come_as_they_are() -> None:
    """A grid and an image exclude each other."""
    channels = (ChannelSpec("c"),)
    image = ImageSpec(height=2, width=1, colour="grey")

    with pytest.raises(ConfigError, match="grid"):
        StreamSpec(channels, 10.0, image=image, grid=GridSpec())


@pytest.mark.parametrize(
    "options",
    [
        {"length": 4, "hop": 2, "kind": "tumbling"},
        {"length": 4, "hop": 4, "kind": "hopping"},
        {"length": 4, "hop": 2, "kind": "sliding"},
        {"length": 4, "hop": 4, "kind": "session"},
        {"length": 4, "hop": 4, "kind": "tumbling", "silence_s": 1.0},
        {"length": 4, "hop": 4, "kind": "tumbling", "pad": 1},
        {"length": 4, "hop": 2, "silence_s": 1.0},
    ],
)
def test_keys_of_a_window_fit_its_kind(options: dict[str, object]) -> None:
    """A kind says what the others may be."""
    with pytest.raises(ConfigError, match="window has length"):
        WindowSpec(**options)


def test_a_gap_of_millions_of_slots_is_not_bridged() -> None:
    """What is made up at once has a bound."""
    with pytest.raises(ConfigError, match="longest_gap_s"):
        StreamSpec((ChannelSpec("c"),), 1e6, grid=GridSpec(gaps="hold", longest_gap_s=10.0))
