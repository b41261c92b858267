"""What makes room: quotas of streams, priorities, thinning, and streams that would rather wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_cloud.store import Store
from edge_runtime.config import OutboxConfig, StreamOutboxConfig
from edge_runtime.sync.blocks import Batch, Block
from edge_runtime.sync.coalesce import parcels
from edge_runtime.sync.frames import decode_frame, decode_table
from edge_runtime.sync.outbox import Outbox, OutboxFullError
from edge_runtime.testing.clock import FakeClock
from edge_runtime.types import Table

Open = Callable[..., Outbox]


@pytest.fixture
def opened(tmp_path: Path, clock: FakeClock) -> Iterator[Open]:
    """Open an outbox of 1 MiB; keywords are what streams have of their own."""
    outboxes: list[Outbox] = []

    def open_it(epoch: int = 1, device: OutboxConfig | None = None, **own: object) -> Outbox:
        config = device or OutboxConfig(quota_mb=1, ballast_mb=0)
        limits = {
            outbox_stream: config.limits(outbox_stream, StreamOutboxConfig(**options))
            for stream, options in own.items()
            for outbox_stream in (stream, f"{stream}-decisions")
        }
        outbox = Outbox.open(
            tmp_path / "outbox.db", epoch=epoch, incarnation=7, config=config, limits=limits,
            clock=clock,
        )  # fmt: skip
        outboxes.append(outbox)
        return outbox

    yield open_it
    for outbox in outboxes:
        outbox.close()


def put(outbox: Outbox, stream: str, n: int, *, first: int = 0, kind: str = "estimate") -> None:
    """Commit rows of which 8 bytes do not compress."""
    index = np.arange(first, first + n)
    noise = np.random.default_rng(first).integers(0, 2**63, n)
    table = Table({"x": index, "noise": noise, "end_ns": index})
    outbox.commit(
        source=stream, position=0, snapshot=b"", base="", batches=[Batch(stream, kind, table)]
    )


def fill(outbox: Outbox, stream: str, commits: int, n: int = 1000) -> None:
    for number in range(commits):
        put(outbox, stream, n, first=number * n)


def of(outbox: Outbox, stream: str) -> list[Block]:
    return [block for block in outbox.pending(limit_bytes=1 << 30) if block.stream == stream]


def kept(blocks: list[Block]) -> list[int]:
    tables = [decode_table(block.body) for block in blocks if block.kind != "gap"]
    return [int(x) for table in tables for x in table.columns["x"]]


def test_a_stream_keeps_to_its_own_quota(opened: Open) -> None:
    """It makes room among its own rows, and its neighbour loses none."""
    outbox = opened(a={"quota_mb": 1}, device=OutboxConfig(quota_mb=64, ballast_mb=0))

    put(outbox, "b", 1000)
    fill(outbox, "a", 300)

    assert kept(of(outbox, "b")) == list(range(1000))
    assert sum(len(block.body) for block in of(outbox, "a")) <= 1 << 20
    assert sum(block.n for block in of(outbox, "a")) == 300_000


def test_a_low_priority_makes_room_first(opened: Open) -> None:
    """Even its youngest rows and its decisions go before the oldest of a normal stream."""
    outbox = opened(low={"priority": "low"}, high={"priority": "high"})

    put(outbox, "high", 1000)
    put(outbox, "normal", 1000)
    put(outbox, "low-decisions", 1000, kind="decision")
    fill(outbox, "normal", 150)

    assert kept(of(outbox, "high")) == list(range(1000))
    assert kept(of(outbox, "low-decisions")) == []
    assert kept(of(outbox, "normal"))[-1] == 149_999


def test_thinning_comes_before_dropping(opened: Open) -> None:
    """Old estimates lose nine of ten rows; as long as that is enough, no whole block goes."""
    outbox = opened(a={"policy": "thin", "keep_every": 10})

    fill(outbox, "a", 180)

    blocks = of(outbox, "a")
    rows = kept(blocks)
    thinned = [block for block in blocks if block.every == 10]
    assert rows[: len(kept(thinned))] == list(range(0, sum(block.n for block in thinned), 10))
    assert rows[-1000:] == list(range(179_000, 180_000))
    assert outbox.stats().discarded == {"thinned": 180_000 - len(rows)}
    assert outbox.rows == len(rows)


def test_what_is_thinned_already_is_dropped_at_last(opened: Open) -> None:
    """Thinning alone cannot keep everything for ever, and every row is still accounted for."""
    outbox = opened(a={"policy": "thin", "keep_every": 2})

    fill(outbox, "a", 300)

    stats = outbox.stats()
    assert set(stats.discarded) == {"thinned", "quota"}
    assert stats.rows + sum(stats.discarded.values()) == 300_000
    assert stats.bytes <= 1 << 20


def test_a_damaged_block_is_not_thinned_but_lost(opened: Open) -> None:
    """Its rows cannot be read: it becomes a gap, and the commit that found it goes through."""
    outbox = opened(a={"policy": "thin"})
    put(outbox, "a", 1000)
    outbox._connection.execute("UPDATE block SET body = zeroblob(9)")

    fill(outbox, "a", 180)

    stats = outbox.stats()
    assert stats.discarded["corrupt"] == 1000
    assert stats.rows + sum(stats.discarded.values()) == 181_000


def test_decisions_are_never_thinned(opened: Open) -> None:
    """Every n-th of them would say nothing."""
    outbox = opened(a={"policy": "thin"})
    put(outbox, "a-decisions", 1000, kind="decision")

    fill(outbox, "a", 180)

    assert kept(of(outbox, "a-decisions")) == list(range(1000))


def test_a_stream_that_would_rather_wait_loses_nothing(opened: Open) -> None:
    """The commit waits until the cloud has taken something, and then goes through."""
    outbox = opened(a={"policy": "block"})

    with pytest.raises(OutboxFullError, match="quota is full"):
        fill(outbox, "a", 200)
    taken = outbox.rows
    outbox.acknowledge({(7, 1, "a"): taken // 2 // 1000 * 1000})
    put(outbox, "a", 1000, first=taken)

    assert outbox.stats().discarded == {}
    assert kept(of(outbox, "a"))[-1] == taken + 999


def test_others_make_room_for_a_stream_that_waits(opened: Open) -> None:
    """Where something may be dropped, that goes before anybody waits."""
    outbox = opened(a={"policy": "block"}, b={"priority": "high"})
    fill(outbox, "b", 70)

    fill(outbox, "a", 70)

    assert kept(of(outbox, "a")) == list(range(70_000))
    assert set(outbox.stats().discarded) == {"quota"}


@pytest.mark.parametrize("jump_s", [315_360_000, -31_536_000, -1_700_000_000])
def test_a_clock_that_jumped_while_the_device_was_off_ages_nothing(
    opened: Open, clock: FakeClock, jump_s: int
) -> None:
    """Ten years forward, one back, or 1970 between two runs: only running time counts."""
    config = OutboxConfig(quota_mb=8, ballast_mb=0, max_age_s=3600.0)
    outbox = opened(device=config)
    outbox.begin()
    put(outbox, "a", 10)
    outbox.end()
    outbox.close()
    clock.jump(jump_s)
    outbox = opened(epoch=2, device=config)
    outbox.begin()

    put(outbox, "a", 10, first=10)

    assert outbox.stats().discarded == {}


def test_each_stream_has_an_age_of_its_own(opened: Open, clock: FakeClock) -> None:
    """What one may forget, another keeps."""
    outbox = opened(a={"max_age_s": 10.0})
    put(outbox, "a", 10)
    put(outbox, "b", 10)
    clock.advance(11)

    put(outbox, "b", 10, first=10)

    assert outbox.stats().discarded == {"age": 10}
    assert len(kept(of(outbox, "b"))) == 20


def test_what_does_not_fit_becomes_a_gap_where_it_must(opened: Open) -> None:
    """As much of a commit stays as there is room for; a waiting stream's rows are not touched."""
    outbox = opened(device=OutboxConfig(quota_mb=64, ballast_mb=0), a={"policy": "block"})
    put(outbox, "b", 1)
    pages = outbox._connection.execute("PRAGMA page_count").fetchone()[0]
    big = Batch("b", "estimate", Table({"noise": np.random.default_rng(1).random(20_000)}))
    own = Batch("a", "estimate", Table({"x": np.arange(10)}))
    outbox._connection.execute(f"PRAGMA max_page_count={pages + 100}")

    outbox.commit_all({}, [own, big], must_fit=True)

    assert sum(block.n for block in of(outbox, "b")) == 20_001
    assert outbox.stats().discarded["disk_full"] in (8193, 16_384, 16_385, 20_000, 20_001)
    assert kept(of(outbox, "a")) == list(range(10))


def test_of_a_commit_that_does_not_fit_the_newest_stays(opened: Open) -> None:
    """What stays takes more than a fifth of the room; what goes is one gap, besides older rows'."""
    outbox = opened(device=OutboxConfig(quota_mb=64, ballast_mb=0))
    fill(outbox, "b", 15)
    noise = np.random.default_rng(1)
    batches = [Batch("b", "estimate", Table({"noise": noise.random(100)})) for _ in range(1000)]
    # No less than it has.
    pages = outbox._connection.execute("PRAGMA max_page_count=1").fetchone()[0]

    outbox.commit_all({}, batches, must_fit=True)

    blocks = of(outbox, "b")
    assert [block.kind for block in blocks[:3]] == ["gap", "gap", "estimate"]
    assert {block.kind for block in blocks[2:]} == {"estimate"}
    assert sum(len(block.body) for block in blocks) > pages * 1024 / 5
    assert sum(block.n for block in blocks) == 115_000
    assert outbox.rows == sum(block.n for block in blocks[2:])


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="the cloud's store needs pyarrow")
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_rows_made_are_rows_stored_and_rows_in_gaps(
    tmp_path_factory: pytest.TempPathFactory, clock: FakeClock, data: st.DataObject
) -> None:
    """However streams are limited, thinned and acknowledged midway: the cloud's counts close."""
    folder = tmp_path_factory.mktemp("closed")
    config = OutboxConfig(quota_mb=1, ballast_mb=0)
    options = st.fixed_dictionaries(
        {
            "policy": st.sampled_from(["thin", "drop_oldest"]),
            "keep_every": st.integers(2, 50),
            "priority": st.sampled_from(["low", "normal", "high"]),
        }
    )
    limits = {name: config.limits(name, StreamOutboxConfig(**data.draw(options))) for name in "ab"}
    outbox = Outbox.open(
        folder / "outbox.db", epoch=1, incarnation=7, config=config, limits=limits, clock=clock
    )
    store, made, acked = Store(folder / "store"), {"a": 0, "b": 0}, {}

    def deliver(most: int) -> None:
        for parcel in list(parcels("pump", outbox.pending(limit_bytes=1 << 30), acked))[:most]:
            for ack in store.ingest([decode_frame(parcel.payload)]):
                acked[parcel.key] = ack.upto
        outbox.acknowledge(acked)

    for _ in range(data.draw(st.integers(1, 12))):
        name = data.draw(st.sampled_from("ab"))
        n = data.draw(st.integers(1, 30_000))
        put(outbox, name, n, first=made[name])
        made[name] += n
        deliver(data.draw(st.integers(0, 4)))
    deliver(10**6)

    assert outbox.pending() == []
    status = store.status()
    assert status.rows + status.gap_rows == sum(made.values())
    for name in made:
        table = store.rows(name)
        assert (table.columns["seq"] == table.columns["x"]).all() if len(table) else True
    outbox.close()
    store.close()
