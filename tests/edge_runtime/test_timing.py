"""Samples that the scheduler spoiled do not count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.timing import Sample, steady, take_sample


def test_a_sample_is_the_time_of_one_call() -> None:
    """The call is made once, and takes some time."""
    calls: list[int] = []

    sample = take_sample(lambda: calls.append(1))

    assert calls == [1]
    assert sample.us > 0


@given(st.lists(st.tuples(st.floats(0, 1e6), st.booleans()), min_size=1, max_size=50))
def test_preempted_samples_count_only_where_hardly_any_other_is_left(
    pairs: list[tuple[float, bool]],
) -> None:
    """The clean ones are kept, and all of them where fewer than one in ten is clean."""
    samples = [Sample(us, is_preempted) for us, is_preempted in pairs]
    clean = [us for us, is_preempted in pairs if not is_preempted]

    kept = steady(samples)

    assert kept == (clean if 10 * len(clean) >= len(pairs) else [us for us, _ in pairs])
    assert kept
