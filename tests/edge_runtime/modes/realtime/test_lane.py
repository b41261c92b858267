"""A lane runs quick calls at once and slow ones on its thread, in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from edge_runtime.errors import RequestError
from edge_runtime.modes.realtime.lane import Lane
from edge_runtime.testing import FakeClock

MS = 1_000_000


def lane(clock: FakeClock, *, inline_ms: float = 1.0, queue_limit: int = 4) -> Lane:
    return Lane("m", inline_ns=inline_ms * MS, queue_limit=queue_limit, clock=clock)


def within(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work(), 30)

    asyncio.run(bounded())


def test_a_quick_call_runs_at_once() -> None:
    """No thread is made for it."""

    async def work() -> None:
        found = lane(FakeClock()).run(threading.current_thread, 1)

        assert found is threading.main_thread()

    within(work)


def test_a_call_of_many_windows_goes_to_the_thread() -> None:
    """What is expected is windows times what one takes."""

    async def work() -> None:
        one = lane(FakeClock())
        one.window_ns = 0.3 * MS

        at_once = one.run(threading.current_thread, 3)
        later = one.run(threading.current_thread, 4)

        assert at_once is threading.main_thread()
        assert isinstance(later, asyncio.Future)
        assert (await later).name == "model m"
        one.close()

    within(work)


def test_a_model_that_grows_slow_moves_to_the_thread_and_back() -> None:
    """The last calls decide."""

    async def work() -> None:
        clock = FakeClock()
        one = lane(clock)

        one.run(lambda: clock.advance(0.1), 1)
        moved = one.run(lambda: None, 1)
        assert isinstance(moved, asyncio.Future)
        await moved
        calls = 0
        while isinstance(waiting := one.run(lambda: None, 1), asyncio.Future):
            await waiting
            calls += 1

        assert 5 < calls < 50
        one.close()

    within(work)


def test_calls_are_answered_in_order_also_behind_a_slow_one() -> None:
    """A quick call does not overtake: state would go wrong."""

    async def work() -> None:
        one, gate, seen = lane(FakeClock(), inline_ms=0), threading.Event(), []

        def slow() -> None:
            gate.wait(30)
            seen.append("slow")

        first = one.run(slow, 1)
        second = one.run(lambda: seen.append("quick"), 0)
        gate.set()
        assert isinstance(first, asyncio.Future) and isinstance(second, asyncio.Future)
        await asyncio.gather(first, second)

        assert seen == ["slow", "quick"]
        one.close()

    within(work)


def test_more_calls_than_may_wait_are_refused() -> None:
    """The refusal is ``busy``, and room comes back."""

    async def work() -> None:
        one, gate = lane(FakeClock(), inline_ms=0, queue_limit=2), threading.Event()
        waiting = [one.run(lambda: gate.wait(30), 1) for _ in range(2)]

        with pytest.raises(RequestError) as error:
            one.run(lambda: True, 1)
        gate.set()
        await asyncio.gather(*waiting)  # type: ignore[arg-type]

        assert error.value.kind == "busy"
        assert one.waiting == 0
        one.close()

    within(work)


def test_a_call_nobody_waits_for_is_left_out() -> None:
    """It was cancelled before the thread came to it."""

    async def work() -> None:
        one, gate, seen = lane(FakeClock(), inline_ms=0), threading.Event(), []
        first = one.run(lambda: gate.wait(30), 1)
        second = one.run(lambda: seen.append(1), 1)
        third = one.run(lambda: seen.append(2), 1)
        assert isinstance(first, asyncio.Future) and isinstance(second, asyncio.Future)
        assert isinstance(third, asyncio.Future)

        second.cancel()
        gate.set()
        await asyncio.gather(first, third)

        assert (seen, one.waiting) == ([2], 0)
        one.close()

    within(work)


def test_what_a_call_raises_comes_to_who_asked() -> None:
    """At once or by the future; the next call runs."""

    async def work() -> None:
        async def ask(one: Lane, call: Callable[[], int]) -> int:
            found = one.run(call, 1)
            return await found if isinstance(found, asyncio.Future) else found

        for inline_ms in (1.0, 0.0):
            one = lane(FakeClock(), inline_ms=inline_ms)
            with pytest.raises(ZeroDivisionError):
                await ask(one, lambda: 1 // 0)
            assert await ask(one, lambda: 7) == 7
            one.close()

    within(work)


def test_a_call_that_runs_too_long_shows() -> None:
    """It is stuck until it ends."""

    async def work() -> None:
        clock = FakeClock()
        one, gate, entered = lane(clock, inline_ms=0), threading.Event(), threading.Event()

        def hang() -> None:
            entered.set()
            gate.wait(30)

        waiting = one.run(hang, 1)
        entered.wait(30)
        before = one.is_stuck(5)
        clock.advance(6)
        during = one.is_stuck(5)
        gate.set()
        assert isinstance(waiting, asyncio.Future)
        await waiting

        assert (before, during, one.is_stuck(5)) == (False, True, False)
        one.close()

    within(work)
