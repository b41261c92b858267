"""Durations are counted where they belong, and the text is what Prometheus reads."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.metrics import Family, Histogram, render

LINE = re.compile(r'^[a-z_]+(\{([a-z_]+="([^"\\\n]|\\.)*",?)+\})? [-+0-9.e]+$')


def noted(durations: list[int]) -> Histogram:
    """Return a histogram of these durations."""
    histogram = Histogram()
    for duration_ns in durations:
        histogram.note(duration_ns)
    return histogram


@given(st.lists(st.integers(0, 2**40), max_size=30))
def test_buckets_are_cumulative_and_end_with_the_count(durations: list[int]) -> None:
    """Every bound counts the durations below it, the last one all of them."""
    family = Family("call_seconds", "histogram", "Calls.", (({}, noted(durations)),))

    lines = render([family]).splitlines()[2:]
    bounds = re.findall(r'call_seconds_bucket\{le="([^"]+)"\} (\d+)', "\n".join(lines))

    for bound, count in bounds:
        assert int(count) == sum(duration < float(bound) * 1e9 for duration in durations)
    assert lines[-2:] == [
        f"call_seconds_sum {render_number(sum(durations) / 1e9)}",
        f"call_seconds_count {len(durations)}",
    ]


def render_number(value: float) -> str:
    """Write a number as the text format has it."""
    return render([Family("x", "gauge", "", (({}, value),))]).split()[-1]


@given(st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False))
def test_every_label_value_stays_on_its_line(text: str, value: float) -> None:
    """Quotes, backslashes and newlines in a label do not break the text."""
    label = text.replace("\r", "").replace("\x0b", "")
    family = Family("rows_total", "counter", "Rows.", (({"reason": label}, value),))

    lines = render([family]).split("\n")

    assert lines[0] == "# HELP rows_total Rows."
    assert lines[1] == "# TYPE rows_total counter"
    assert len(lines) == 4
    assert LINE.match(lines[2])


@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_at_most_twice_the_true_one(durations: list[int], q: float) -> None:
    """A bucket's end is at most double of what is in it."""
    estimate_s = noted(durations).quantile_s(q)

    ranked = sorted(durations)
    exact = ranked[max(0, -(-int(q * len(ranked) * 1e6) // 1_000_000) - 1)]
    assert estimate_s is not None
    assert exact < estimate_s * 1e9 + 1
    assert estimate_s * 1e9 <= 2 * max(durations)


def test_nothing_noted_has_no_quantile() -> None:
    """No durations, no number: not a zero."""
    assert Histogram().quantile_s(0.5) is None
