"""Outputs are parted by window and by time without a loss, whatever late samples changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.modes.player import Span, apart, cut
from edge_runtime.quality import MASK
from edge_runtime.tape import Answer, answers_of_output, windows_of
from edge_runtime.types import Decision, Estimates, Output, SideRows

TIMES = st.lists(st.integers(0, 30), max_size=8)


def _estimates(times: Sequence[int]) -> Estimates:
    """Make windows that end at these times, which are their indexes; odd ones are suspect."""
    index = np.array(times, np.int64)
    value = index[:, None] / 2
    quality = (index % 2).astype(MASK)
    return Estimates(
        index,
        index - 1,
        index,
        value,
        value,
        None,
        "id",
        revision=np.arange(len(index)),
        quality=quality if quality.any() else None,
    )


@st.composite
def outputs(draw: st.DrawFn) -> Output:
    """Draw what one push may give: a window more than once, decisions on none of them."""
    gone, aside = draw(TIMES), draw(TIMES)
    sides = np.array(aside, np.int64)
    decisions = [
        Decision("main", time, time, "m", "hot", "start", 1.0, "id", revision=number)
        for number, time in enumerate(draw(TIMES))
    ]
    return Output(
        "main",
        _estimates(draw(TIMES)),
        tuple(decisions),
        _estimates(gone) if gone else None,
        (SideRows("late", sides, sides[:, None]),) if aside else (),
    )


def _told(parts: Sequence[Output]) -> tuple[list[Answer], list[Decision], list[int]]:
    """Everything that was said, sorted."""
    entries = [answers for part in parts for answers in answers_of_output(part)]
    windows = [one for answers in entries for one in windows_of(answers)]
    aside = [time for part in parts for side in part.aside for time in side.time_ns.tolist()]
    decisions = [one for part in parts for one in part.decisions]
    return (
        sorted(windows, key=lambda one: (one.index, one.revision, one.is_retracted)),
        sorted(decisions, key=lambda one: (one.index, one.revision)),
        sorted(aside),
    )


@given(outputs())
def test_parted_by_window_nothing_is_lost(output: Output) -> None:
    """Each part has one window with its decisions; the last one has what belongs to none."""
    parts = apart(output)

    assert _told(parts) == _told([output])
    assert all(len(part.estimates) == 1 for part in parts[:-1])


@given(outputs(), st.integers(0, 30))
def test_two_spans_have_everything_between_them(output: Output, border: int) -> None:
    """What ends before a time is in one, the rest in the other; nothing is in both."""
    before, after = cut(output, Span(last_ns=border)), cut(output, Span(first_ns=border))

    assert _told([before, after]) == _told([output])
    assert (before.estimates.end_ns < border).all() and (after.estimates.end_ns >= border).all()
    assert all(decision.time_ns < border for decision in before.decisions)
