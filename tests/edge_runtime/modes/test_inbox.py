"""Many threads put, one takes, and the order of arrival stays."""

from __future__ import annotations

import threading

from edge_runtime.modes.inbox import Inbox


def test_items_come_out_in_the_order_in_which_they_arrived() -> None:
    """Also those that arrive while others are already in hand."""
    inbox: Inbox[int] = Inbox(8)
    inbox.put(1, 0.0)
    inbox.put(2, 0.0)
    first = inbox.get(0.0)
    inbox.put(3, 0.0)

    assert [first, inbox.get(0.0), inbox.get(0.0), inbox.get(0.0)] == [1, 2, 3, None]
    assert inbox.is_empty


def test_an_item_that_was_put_back_is_the_next_one() -> None:
    """It overtakes nothing, and nothing overtakes it."""
    inbox: Inbox[int] = Inbox(8)
    inbox.put(1, 0.0)
    inbox.put(2, 0.0)
    item = inbox.get(0.0)
    assert item is not None

    inbox.put_back(item)

    assert [inbox.get(0.0), inbox.get(0.0)] == [1, 2]


def test_a_full_inbox_takes_no_more_until_the_others_are_taken() -> None:
    """So many wait, and as many may be in hand."""
    inbox: Inbox[int] = Inbox(2)
    results = [inbox.put(i, 0.0) for i in range(3)]
    inbox.get(0.0)
    results += [inbox.put(i, 0.0) for i in range(3)]

    assert results == [True, True, False, True, True, False]


def test_nothing_is_lost_between_threads_that_wait_for_each_other() -> None:
    """Whoever finds it full, and whoever finds it empty, is woken."""
    inbox: Inbox[tuple[int, int]] = Inbox(2)

    def bring(who: int) -> None:
        for i in range(500):
            assert inbox.put((who, i), 30.0)

    threads = [threading.Thread(target=bring, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    came = [inbox.get(30.0) for _ in range(1500)]
    for thread in threads:
        thread.join()

    for who in range(3):
        assert [item[1] for item in came if item is not None and item[0] == who] == list(range(500))
    assert inbox.get(0.0) is None
