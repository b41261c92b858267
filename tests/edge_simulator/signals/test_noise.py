"""Noise depends on its place alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_simulator.signals.blocks import BLOCK
from edge_simulator.signals.noise import Noise, Wander


@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=5))
def test_order_of_asking_does_not_matter(places: list[int]) -> None:
    """Who asks forwards and who asks backwards draw the same numbers."""
    forwards, backwards = Noise(1, "test", columns=2), Noise(1, "test", columns=2)

    there = [forwards.normal(place, 3).tobytes() for place in places]
    back = [backwards.normal(place, 3).tobytes() for place in reversed(places)]

    assert there == back[::-1]


def test_seed_purpose_block_and_column_all_make_a_difference() -> None:
    """No two noises of one simulation are copies of each other."""
    drawn = [
        Noise(1, "a").normal(0, 50),
        Noise(2, "a").normal(0, 50),
        Noise(1, "b").normal(0, 50),
        Noise(1, "a").normal(BLOCK, 50),
        Noise(1, "a", columns=2).normal(0, 50)[:, 1:],
    ]

    correlations = np.corrcoef(np.concatenate(drawn, axis=1).T)
    assert np.abs(correlations - np.eye(5)).max() < 0.5


def test_no_block_repeats_a_part_of_another() -> None:
    """Neighbours of a counter are not neighbours in the noise."""
    blocks = [set(Noise(1, "a").uniform(k * BLOCK, BLOCK)[:, 0].tolist()) for k in range(3)]

    assert len(set.union(*blocks)) == 3 * BLOCK


def test_the_largest_seed_is_a_seed() -> None:
    """The whole range that is promised can be used."""
    assert Noise(2**64 - 1, "a").uniform(0, 1).shape == (1, 1)


def test_normal_and_uniform_are_distributed_as_they_say() -> None:
    """Over 100,000 numbers mean and spread are those of the distribution."""
    noise = Noise(7, "test")
    normal, uniform = noise.normal(0, 100_000), noise.uniform(0, 100_000)

    assert normal.dtype == np.float32
    assert normal.mean() == pytest.approx(0, abs=0.02)
    assert normal.std() == pytest.approx(1, abs=0.02)
    assert uniform.min() >= 0 and uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)


def test_wander_is_slow_and_goes_through_its_values() -> None:
    """It meets the noise at its knots and makes no jump between them."""
    wander, noise = Wander(3, "air", period_s=100.0), Noise(3, "air")
    values = wander.at(np.arange(0, 2000.0))

    assert values[::100] == pytest.approx(noise.normal(0, 20)[:, 0])
    # Two values differ by less than 6, and keeping the spread makes it steeper by at most √2.
    assert np.abs(np.diff(values)).max() < np.pi / 200 * 6 * np.sqrt(2)


def test_wander_spreads_as_it_says_also_between_its_knots() -> None:
    """Mean 0 and standard deviation 1, at a knot and halfway to the next."""
    wander = Wander(3, "air", period_s=100.0)

    for share in (0.0, 0.25, 0.5):
        values = wander.at(100.0 * (np.arange(20_000) + share))
        assert values.mean() == pytest.approx(0, abs=0.03)
        assert values.std() == pytest.approx(1, abs=0.03)
