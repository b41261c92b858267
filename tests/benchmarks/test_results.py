"""Rows of results are kept by id and judged by their bars."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def results(load: Callable[[str], ModuleType]) -> ModuleType:
    """Load the module."""
    return load("results")


def test_a_row_above_its_bar_is_not_ok(results: ModuleType) -> None:
    """Lower is better; without a bar nothing can be missed."""
    assert results.Row.of("a", 1.2, "x", bar=1.35, peers={}).ok
    assert not results.Row.of("a", 1.36, "x", bar=1.35, peers={}).ok
    assert results.Row.of("a", 1e9, "us", bar=None, peers={}).ok


def test_more_may_be_better(results: ModuleType) -> None:
    """A rate has to reach its bar."""
    assert results.Row.of("a", 3.6, "/s", bar=3.5, better="higher", peers={}).ok
    assert not results.Row.of("a", 3.4, "/s", bar=3.5, better="higher", peers={}).ok


@pytest.mark.parametrize(
    ("value", "bar", "is_ok"),
    [
        (1.5, {"at_most": 1.5}, True),
        (1.51, {"at_most": 1.5}, False),
        (2.3, {"at_least": 2.3}, True),
        (2.29, {"at_least": 2.3}, False),
        (9.0, {}, True),
    ],
)
def test_a_ratio_is_judged_by_its_own_bar(
    results: ModuleType, value: float, bar: dict[str, float], is_ok: bool
) -> None:
    """At most, at least, or told for information."""
    assert results.Ratio("ours over theirs", value, **bar).ok is is_ok


def test_the_ratio_decides_where_a_row_has_both(results: ModuleType) -> None:
    """An absolute figure belongs to one machine: it is shown and does not decide."""
    good, bad = (results.Ratio("ours over theirs", value, at_most=1.5) for value in (1.4, 1.6))

    assert results.Row.of("a", 99.0, "us", bar=12.0, ratios=[good], peers={}).ok
    assert not results.Row.of("a", 1.0, "us", bar=12.0, ratios=[bad], peers={}).ok
    assert not results.Row.of("a", 1.0, "us", bar=12.0, ratios=[good, bad], peers={}).ok


def test_rows_of_other_suites_stay(results: ModuleType, tmp_path: Path) -> None:
    """Merging replaces rows of the same id in place and keeps the others, with their day."""
    path = tmp_path / "results.json"
    theirs = results.Row.of("theirs", 1.0, "s", bar=2.0, peers={"p": 3.0})
    results.merge(path, [theirs, results.Row.of("ours", 3.0, "x", bar=None, peers={})], "day 1")

    results.merge(path, [results.Row.of("ours", 4.0, "x", bar=1.0, peers={})], "day 2")

    rows = json.loads(path.read_text())
    told = [(row["id"], row["value"], row["ok"], row["measured"]) for row in rows]
    assert told == [("theirs", 1.0, True, "day 1"), ("ours", 4.0, False, "day 2")]
    assert rows[0]["peers"] == {"p": 3.0}


def test_rows_of_an_older_format_are_read(results: ModuleType, tmp_path: Path) -> None:
    """Rows without ratios, direction and day keep their figures."""
    path = tmp_path / "results.json"
    row = {"id": "old", "value": 1, "unit": "s", "bar": 2, "ok": True, "peers": {"p": 3}}
    path.write_text(json.dumps([row]))

    (found,) = results.load(path)

    assert (found.value, found.ratios, found.better) == (1.0, (), "lower")
