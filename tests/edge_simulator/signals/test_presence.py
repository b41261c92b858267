"""Samples that are missing are counted right, however they are missing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_simulator.signals.faults import Dropout, SensorFault, Unplug, distort
from edge_simulator.signals.interval import Interval
from edge_simulator.signals.presence import Presence
from edge_simulator.signals.sine import Sine, SineConfig

COUNT = 6000
INTERVALS = st.builds(
    lambda first, count: Interval(first / 10, None if count is None else (first + count) / 10),
    st.integers(0, COUNT),
    st.none() | st.integers(1, COUNT),
)
ACTIVE = st.lists(INTERVALS, min_size=1, max_size=3).map(tuple)
FAULTS = st.lists(
    st.builds(Unplug, active=ACTIVE)
    | st.builds(
        Dropout,
        active=ACTIVE,
        share=st.sampled_from([0.01, 0.5, 0.99]),
        leaves=st.sampled_from(["missing", "nan"]),
    ),
    max_size=3,
)


@given(FAULTS, st.data())
def test_the_number_of_a_sample_is_the_count_of_those_before_it(
    faults: list[SensorFault], data: st.DataObject
) -> None:
    """Told at once, or counted one by one: the same."""
    presence = Presence(faults, 10.0, seed=3)
    delivered = np.flatnonzero(presence.mask(0, COUNT))
    first = data.draw(st.integers(0, COUNT - 1))

    if len(delivered):
        index = data.draw(st.integers(0, len(delivered) - 1))
        assert presence.sample_of(index) == delivered[index]
    after = delivered[delivered >= first]
    following = presence.following(first)
    assert following == after[0] if len(after) else (following is None or following >= COUNT)


@given(FAULTS, st.integers(0, COUNT), st.integers(0, 500))
def test_a_mask_does_not_depend_on_where_one_looks(
    faults: list[SensorFault], first: int, count: int
) -> None:
    """A part of the whole is the part."""
    presence = Presence(faults, 10.0, seed=3)

    whole = presence.mask(0, first + count)

    assert presence.mask(first, count).tolist() == whole[first:].tolist()


@given(FAULTS)
def test_what_is_missing_is_nan_in_the_signal(faults: list[SensorFault]) -> None:
    """The wrapper and the count see the same samples."""
    samples = distort(Sine(SineConfig(rate_hz=10.0)), faults, seed=3).read(0, COUNT)

    assert np.isnan(samples[~Presence(faults, 10.0, seed=3).mask(0, COUNT)]).all()


def test_a_year_is_counted_at_once() -> None:
    """Only where samples are lost one by one does anybody look at them."""
    faults = [Dropout(share=0.5, leaves="missing", active=(Interval(100, 200),))]

    sample = Presence(faults, 3200.0, seed=3).sample_of(10**11)

    assert sample is not None
    assert 10**11 + 159_000 < sample < 10**11 + 161_000
