"""Threads that read and score ahead change neither order nor errors."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from edge_runtime.modes.batch.flow import Ahead, in_order


def test_items_come_in_order_and_an_error_where_it_happened() -> None:
    """What was read before an error still comes, then the error."""

    def items() -> Iterator[int]:
        yield from range(5)
        raise ValueError("the sixth")

    ahead = Ahead(items(), 2)
    results = iter(ahead)

    assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="the sixth"):
        next(results)
    ahead.close()


def test_reading_ahead_is_bounded_and_ends_when_closed() -> None:
    """No more than the depth is read ahead, and no thread stays behind."""
    taken: list[int] = []
    third = threading.Event()

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            if item == 2:
                third.set()
            yield item

    ahead = Ahead(items(), 2)
    assert third.wait(60)
    before = threading.active_count()
    ahead.close()

    assert len(taken) <= 4
    assert threading.active_count() == before - 1


def test_workers_overtake_each_other_but_their_results_do_not() -> None:
    """A slow first item holds back the results, not the work."""
    second_done = threading.Event()

    def work(worker: str, item: int) -> tuple[int, str]:
        if item == 0:
            assert second_done.wait(60)
        else:
            second_done.set()
        return item, worker

    found = list(in_order(range(6), work, ["a", "b"]))

    assert [item for item, _ in found] == list(range(6))
    assert {worker for _, worker in found} == {"a", "b"}


def test_a_worker_is_never_used_twice_at_once() -> None:
    """Sessions are not thread-safe: each has one user at a time."""
    in_use: set[str] = set()

    def work(worker: str, item: int) -> int:
        assert worker not in in_use
        in_use.add(worker)
        in_use.discard(worker)
        return item

    assert list(in_order(range(200), work, ["a", "b", "c"])) == list(range(200))


def test_an_error_of_a_worker_rises_in_its_place() -> None:
    """Results before the failure come first."""

    def work(_: str, item: int) -> float:
        return 1 / (3 - item)

    results = in_order(range(6), work, ["a", "b"])

    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
