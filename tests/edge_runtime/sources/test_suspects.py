"""Readings at the end of their scale, and readings that stand still."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.quality import MASK, Quality
from edge_runtime.sources.live import Health
from edge_runtime.sources.suspects import Frozen, FullScale, check_scales, note_suspects


@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), max_size=9),
    st.integers(3, 6),
)
def test_frozen_readings_are_found_one_by_one_however_they_come(
    blocks: list[list[int]], least: int
) -> None:
    """A reading stands still when so many before it have had the same bytes."""
    frozen = Frozen(float(least), 1.0)

    found = []
    for block in blocks:
        holds = frozen.find(np.array(block)[:, None])
        found += [False] * len(block) if holds is None else holds.tolist()

    joined = [value for block in blocks for value in block]
    assert found == [
        i >= least and len(set(joined[i - least : i + 1])) == 1 for i in range(len(joined))
    ]


def test_all_channels_must_stand_still() -> None:
    """One that moves shows that the part is alive."""
    raw = np.zeros((10, 2))
    raw[:, 1] = np.arange(10)

    found = Frozen(3.0, 1.0).find(raw)

    assert found is None or not found.any()


def test_a_value_that_is_missing_is_no_repetition() -> None:
    """NaN is a fault of its own."""
    found = Frozen(3.0, 1.0).find(np.full((10, 1), np.nan))

    assert found is not None
    assert not found.any()


def test_without_patience_nothing_is_frozen() -> None:
    """The check can be switched off."""
    assert Frozen(None, 1.0).find(np.zeros((1000, 3))) is None


def test_a_channel_at_either_end_of_its_scale_is_saturated() -> None:
    """Others have no end, not even where they are infinite."""
    scale = FullScale({"b": (-2.0, 2.0)}, ("a", "b"))
    samples = np.array([[9, 0], [9, 2], [9, -2.5], [np.inf, 1], [0, np.nan]])

    found = scale.find(samples)

    assert found is not None
    assert found.tolist() == [False, True, True, False, False]
    assert FullScale({}, ("a", "b")).find(samples) is None


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"prssure": (0.0, 1.0)}, "full_scale names 'prssure'; expected one of pressure"),
        ({"pressure": (1.0, 1.0)}, "full_scale of 'pressure' is 1 to 1"),
    ],
)
def test_a_scale_that_makes_no_sense_is_refused(
    scales: dict[str, tuple[float, float]], message: str
) -> None:
    """A typing error would switch the check off unseen."""
    with pytest.raises(ConfigError, match=message):
        check_scales(scales, ("pressure",))


def test_what_is_suspect_is_counted_and_marked() -> None:
    """Counts go into the health of the source, masks along with the samples."""
    health = Health()
    saturated, frozen = np.array([True, False, True]), np.array([False, False, True])

    masks = note_suspects(health, 3, saturated=saturated, frozen=frozen, lost=2)

    assert masks is not None
    assert masks.dtype == MASK
    assert masks.tolist() == [
        Quality.SATURATED | Quality.LOST_BEFORE,
        0,
        Quality.SATURATED | Quality.FROZEN,
    ]
    assert health.report().faults == {"saturated": 2, "frozen": 1}


def test_losses_inside_a_block_are_marked_where_they_are() -> None:
    """The sample behind a hole knows of it; it is counted by whoever found it."""
    health = Health()

    masks = note_suspects(health, 4, lost=np.array([0, 0, 7, 0]))

    assert masks is not None
    assert masks.tolist() == [0, 0, Quality.LOST_BEFORE, 0]
    assert health.report().faults == {}
    assert note_suspects(health, 4) is None
