"""RESULTS.md shows what was met, what was missed and what could not be measured."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType


def test_missed_rows_and_notes_stand_in_the_page(load: Callable[[str], ModuleType]) -> None:
    """A lost row is as visible as a won one, and an absent peer is named."""
    results, report = load("results"), load("report")
    ratio = results.Ratio("ours over the hand loop", 5.0, at_most=1.5)
    rows = [
        results.Row.of("slow_us", 60.0, "us", bar=12.0, ratios=[ratio], peers={"bare us": 4.0}),
        results.Row.of("quick_x", 1.1, "x", bar=1.35, peers={"dropped samples": 7.0}),
        results.Row.of("rate", 9e6, "/s", bar=None, better="higher", peers={}),
    ]

    text = report.markdown(rows, {"voice": "no model"}, machine="a machine", day="a day")

    assert "1 of 2 met" in text
    assert (
        "| `slow_us` | 60 us | ≤ 12 (missed) | ours over the hand loop 5 (≤ 1.5, missed) | NO |"
        in text
    )
    assert "| `quick_x` | 1.1 x | ≤ 1.35 |  | yes |" in text
    assert text.index("`rate`") > text.index("For information")
    assert "interrupted them: 7" in text
    assert "- `voice`: no model" in text
