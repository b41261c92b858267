"""The rules of choosing hold for any measurements."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.profiles import Goal
from edge_runtime.tune import Block, Candidate, Row, compared, ranked

times = st.floats(1.0, 1e5)
GOALS: tuple[Goal, ...] = ("latency", "cpu", "batch")


@st.composite
def row(draw: st.DrawFn) -> Row:
    backend = draw(st.sampled_from(["litert", "onnx"]))
    precision = draw(st.sampled_from(["int8", "float32"]))
    candidate = Candidate(backend, precision, precision, draw(st.sampled_from([1, 2, 4])))
    if draw(st.booleans()) and draw(st.booleans()):
        return Row(candidate, failure="it crashed")
    median_us = draw(times)
    blocks = [Block(rows, draw(times), draw(st.booleans())) for rows in (8, 32)]
    return Row(
        candidate,
        median_us=median_us,
        cpu_us=draw(times),
        rss_mb=draw(st.floats(0, 100)),
        golden=4,
        agreeing=draw(st.sampled_from([4, 4, 4, 3, 0])),
        blocks=(Block(1, median_us), *blocks),
    )


rows = st.lists(row(), max_size=8, unique_by=lambda row: row.candidate)


def _cost(row: Row, goal: Goal) -> float:
    return {"latency": row.median_us, "cpu": row.cpu_us, "batch": row.best_block.us}[goal]


@given(rows, st.sampled_from(GOALS))
def test_the_first_is_as_quick_as_any_and_agrees(rows: list[Row], goal: Goal) -> None:
    """Only rows that agree are ranked, and the first costs at most 3 % more than any of them."""
    order = ranked(rows, goal)

    assert all(row.agrees for row in order)
    assert [
        row for row in rows if row.agrees and row.candidate.threads == 1 and row not in order
    ] == []
    if order:
        assert _cost(order[0], goal) <= 1.03 * min(_cost(row, goal) for row in order)


@given(rows, st.sampled_from(GOALS))
def test_more_threads_pay_or_are_left_out(rows: list[Row], goal: Goal) -> None:
    """A row with more threads is ranked only if it is 1.3 times as fast or costs at most twice."""
    singles = {
        msgspec.structs.replace(row.candidate, threads=1): row
        for row in rows
        if row.candidate.threads == 1 and not row.failure
    }

    for row in ranked(rows, goal):
        single = singles.get(msgspec.structs.replace(row.candidate, threads=1))
        if row.candidate.threads > 1 and single is not None:
            is_faster = single.median_us >= 1.3 * row.median_us
            assert is_faster or row.cpu_us <= 2 * single.cpu_us


@given(row())
def test_the_best_block_is_equal_and_within_3_percent(row: Row) -> None:
    """No block with other bytes is used; among equally quick ones the smallest is."""
    if row.failure:
        return
    best = row.best_block

    usable = [block for block in row.blocks if block.is_equal]
    assert best in usable
    quickest_us = min(block.us for block in usable)
    assert best.us <= 1.03 * quickest_us
    assert all(block.us > 1.03 * quickest_us for block in usable if block.rows < best.rows)


def _measured(backend: str, precision: str, us: float, threads: int = 1, **more: float) -> Row:
    candidate = Candidate(backend, f"m.{precision}", precision, threads)
    facts = {"cpu_us": us, "rss_mb": 10.0} | more
    return Row(candidate, median_us=us, golden=1, agreeing=1, **facts)  # type: ignore[arg-type]


def test_equal_times_go_to_fewer_threads_then_less_memory() -> None:
    """Within 3 % the simpler way wins."""
    two = _measured("litert", "int8", 100, threads=2)
    heavy = _measured("onnx", "int8", 101, rss_mb=30)
    light = _measured("litert", "int8", 102)

    assert ranked([two, heavy, light], "latency")[0] is light


@pytest.mark.parametrize(
    ("int8_us", "words"),
    [
        (303.0, "int8 is slower than float32 here, 1.30 times"),
        (78.0, "int8 is 2.99 times as fast as float32"),
        (234.0, "int8 is no faster than float32 here"),
    ],
)
def test_a_slower_int8_is_called_that(int8_us: float, words: str) -> None:
    """The sentence names both times and the ratio."""
    rows = [_measured("onnx", "float32", 233.0), _measured("onnx", "int8", int8_us)]

    (sentence,) = compared(rows)

    assert words in sentence
    assert f"{int8_us:.1f} µs against 233.0 µs" in sentence


def test_each_engine_is_compared_with_itself() -> None:
    """int8 may be slower with one engine and quicker with another."""
    rows = [
        _measured("onnx", "float32", 233.0),
        _measured("onnx", "int8", 303.0),
        _measured("litert", "float32", 256.0),
        _measured("litert", "int8", 78.0),
    ]

    slower, quicker = compared(rows)

    assert slower.startswith("onnx: int8 is slower")
    assert quicker.startswith("litert: int8 is 3.28 times as fast")


def test_one_precision_cannot_be_compared() -> None:
    """With one precision the sentence says so."""
    assert compared([_measured("onnx", "int8", 1.0)]) == (
        "The bundle has int8 models alone: nothing to compare with.",
    )
