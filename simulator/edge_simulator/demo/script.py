"""The story: what happens to the device, at which row. Headless script and keys share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from edge_simulator.demo.evaluate import DAY_ROWS

__all__ = ["Act", "Step", "full_story", "steps_between"]

Act = Literal["cut", "mend", "kill", "publish_base", "offer_tampered_base", "offer_wild_layer"]

_CUT_DAYS = 14
_SHORT_RUN_DAYS = 60


class Step(msgspec.Struct, frozen=True, order=True):
    """One thing that happens.

    Attributes:
        row: Rows of the replay that have been released when it happens.
        act: What happens.
    """

    row: int
    act: Act


def full_story(days: int, second_year_row: int, *, is_scripted: bool) -> list[Step]:
    """Return the steps of a run, in order.

    A run too short for the second year tells the same story on fewer days, so
    that a test sees every part of it.

    Args:
        days: Simulated days.
        second_year_row: Row of the replay with which 2014 begins.
        is_scripted: Whether the script also does what a viewer would do by key
            at human speed: one short cut.
    """
    if days < _SHORT_RUN_DAYS:
        return _short_story()
    prologue = _short_cut() if is_scripted else []
    start = second_year_row
    cut = start + 150 * DAY_ROWS
    story = [
        Step(start - DAY_ROWS, "publish_base"),
        Step(start + 60 * DAY_ROWS, "offer_tampered_base"),
        Step(start + 90 * DAY_ROWS, "offer_wild_layer"),
        Step(cut, "cut"),
        Step(cut + _CUT_DAYS * DAY_ROWS, "mend"),
        Step(start + 200 * DAY_ROWS + DAY_ROWS // 2, "kill"),
    ]
    last = days * DAY_ROWS
    return sorted(step for step in prologue + story if step.row < last)


def steps_between(story: Sequence[Step], first: int, last: int) -> list[Step]:
    """Return the steps of rows ``first`` to ``last`` (exclusive)."""
    return [step for step in story if first <= step.row < last]


def _short_cut() -> list[Step]:
    return [
        Step(3 * DAY_ROWS + 6, "cut"),
        Step(4 * DAY_ROWS + 18, "mend"),
    ]


def _short_story() -> list[Step]:
    return [
        Step(1 * DAY_ROWS, "publish_base"),
        Step(2 * DAY_ROWS, "cut"),
        Step(3 * DAY_ROWS + 8, "mend"),
        Step(4 * DAY_ROWS, "offer_tampered_base"),
        Step(4 * DAY_ROWS + 6, "offer_wild_layer"),
        Step(4 * DAY_ROWS + 12, "kill"),
    ]
