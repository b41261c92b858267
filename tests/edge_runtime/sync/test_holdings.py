"""Who holds how much, who holds too much, and who makes room for whom."""

from __future__ import annotations

import logging

import pytest

from edge_runtime.config import OutboxConfig, StreamOutboxConfig
from edge_runtime.sync.holdings import Holdings

MIB = 1 << 20


def holdings(**own: StreamOutboxConfig) -> Holdings:
    """An outbox of 10 MiB; keywords are streams with limits of their own."""
    config = OutboxConfig(quota_mb=10)
    return Holdings(config, {name: config.limits(name, each) for name, each in own.items()})


def block(stream: str, size: int, n: int = 1, kind: str = "estimate") -> dict[str, object]:
    return {"stream": stream, "bytes": size, "kind": kind, "seq0": 0, "n": n, "every": 1}


def test_rows_and_bytes_come_and_go() -> None:
    """Gaps take bytes, and are no rows that wait."""
    held = holdings()
    rows = [block("a", 100, 5), block("b", 50, 3), block("a", 10, 9, kind="gap")]

    held.add_blocks(rows)
    before = held.bytes, held.rows
    held.add_blocks(rows[:1], -1)

    assert (before, held.bytes, held.rows) == ((160, 8), 60, 3)


def test_a_stream_may_hold_too_much_before_the_device_does() -> None:
    """From 95 % of its quota, down to 90; what is about to come counts."""
    held = holdings(a=StreamOutboxConfig(quota_mb=1))
    held.add("a", round(0.9 * MIB), 1)
    held.add("b", 5 * MIB, 1)

    assert list(held.excesses([])) == []
    (excess,) = held.excesses([block("a", round(0.1 * MIB))])
    assert excess.streams == ("a",)
    assert excess.bytes == pytest.approx(0.1 * MIB, rel=0.01)


def test_who_makes_room_first() -> None:
    """By priority, decisions after estimates, and never who would rather wait."""
    held = holdings(
        low=StreamOutboxConfig(priority="low"),
        high=StreamOutboxConfig(priority="high"),
        wait=StreamOutboxConfig(priority="low", policy="block"),
    )

    ranks = held.ranks(["high", "x-decisions", "wait", "x", "low", "y"])

    assert ranks == [["low"], ["x", "y"], ["x-decisions"], ["high"]]


def test_a_full_outbox_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Above 80 % of the quota, and again when there is room."""
    held = holdings()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            held.add_blocks([block("a", 3 * MIB)])
        held.add_blocks([block("a", 3 * MIB)], -1)

    assert [record.message for record in caplog.records] == [
        "outbox.nearly_full",
        "outbox.has_room",
    ]
