"""Rows stay until they are acknowledged, or turn into gaps that say so."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import StoreError, WireError
from edge_runtime.sync.blocks import Batch, Block
from edge_runtime.sync.frames import decode_table
from edge_runtime.sync.outbox import Outbox, OutboxFullError
from edge_runtime.testing.clock import FakeClock
from edge_runtime.types import Table
from edge_simulator.disk import Disk

Open = Callable[..., Outbox]
Make = Callable[..., Batch]
Commit = Callable[..., None]


def ranges(blocks: list[Block]) -> list[tuple[str, int, int]]:
    return [(block.kind, block.seq0, block.n) for block in blocks]


def rows(blocks: list[Block]) -> list[int]:
    tables = [decode_table(block.body) for block in blocks if block.kind != "gap"]
    return [int(x) for table in tables for x in table.columns["x"]]


def filled(outbox: Outbox, commits: int, n: int = 1000, kind: str = "estimate") -> None:
    """Commit ``commits`` batches of ``n`` rows, 8 bytes each that do not compress."""
    noise = np.random.default_rng(1)
    for number in range(commits):
        index = np.arange(number * n, (number + 1) * n, dtype=np.int64)
        table = Table({"x": index, "noise": noise.random(n)})
        outbox.commit(
            source="main",
            position=(number + 1) * n,
            snapshot=b"",
            base="",
            batches=[Batch("main", kind, table)],
        )


def test_a_commit_survives_a_restart(open_outbox: Open, batch: Make, commit: Commit) -> None:
    """Rows, position, snapshot and base come back from the disk."""
    outbox = open_outbox()
    commit(outbox, batch(3), batch(2, 3), position=5)
    outbox.close()

    outbox = open_outbox(epoch=2)

    assert rows(outbox.pending()) == [0, 1, 2, 3, 4]
    resume = outbox.resume("main")
    assert resume is not None
    assert (resume.position, resume.snapshot, resume.base) == (5, b"s", "base")
    assert outbox.resume("other") is None


def test_each_stream_and_epoch_counts_from_zero(
    open_outbox: Open, batch: Make, commit: Commit
) -> None:
    """Sequence numbers go on inside an epoch and start again in the next."""
    outbox = open_outbox()
    commit(outbox, batch(3), batch(1, stream="other"))
    commit(outbox, batch(2))
    outbox.close()
    outbox = open_outbox(epoch=2)
    commit(outbox, batch(4))

    found = [(block.epoch, block.stream, block.seq0, block.n) for block in outbox.pending()]

    assert found == [(1, "main", 0, 3), (1, "other", 0, 1), (1, "main", 3, 2), (2, "main", 0, 4)]


def test_numbers_are_not_used_again_when_all_rows_have_left(
    open_outbox: Open, batch: Make, commit: Commit
) -> None:
    """Opening the same epoch again goes on with its numbers, and ids go on too."""
    outbox = open_outbox()
    commit(outbox, batch(3))
    last = outbox.pending()[-1].id
    outbox.acknowledge({(7, 1, "main"): 3})
    outbox.close()

    outbox = open_outbox()
    commit(outbox, batch(1))

    assert ranges(outbox.pending(last)) == [("estimate", 3, 1)]


def test_an_acknowledgement_deletes_whole_blocks_of_its_own_rows(
    outbox: Outbox, batch: Make, commit: Commit
) -> None:
    """Neither another stream, epoch nor incarnation loses a row; a block leaves as a whole."""
    commit(outbox, batch(3), batch(3, 3), batch(3, stream="other"))

    foreign = {(8, 1, "main"): 9, (7, 2, "main"): 9}
    assert outbox.acknowledge(foreign) == dict.fromkeys(foreign, 0)
    assert outbox.acknowledge({(7, 1, "main"): 5}) == {(7, 1, "main"): 3}
    assert outbox.acknowledge({(7, 1, "main"): 5}) == {(7, 1, "main"): 0}
    assert [(block.stream, block.seq0) for block in outbox.pending()] == [("main", 3), ("other", 0)]
    assert outbox.stats().rows == 6


def test_several_streams_are_acknowledged_at_once(
    outbox: Outbox, batch: Make, commit: Commit
) -> None:
    """Each up to a mark of its own, and what left is told by stream."""
    commit(outbox, batch(3), batch(2, 3), batch(4, stream="other"))
    main, other = (7, 1, "main"), (7, 1, "other")

    assert outbox.acknowledge({main: 3, other: 4}) == {main: 3, other: 4}

    assert ranges(outbox.pending()) == [("estimate", 3, 2)]
    assert outbox.rows == outbox.stats().rows == 2


def test_whoever_looks_again_can_tell_that_nothing_was_written(
    outbox: Outbox, batch: Make, commit: Commit
) -> None:
    """Blocks are counted as they are written; positions alone and deletions are none."""
    commit(outbox, batch(3), batch(4, stream="other"))
    commit(outbox, position=9)
    outbox.acknowledge({(7, 1, "main"): 3})

    assert outbox.blocks_total == 2


def test_pending_reads_in_order_and_within_bounds(
    outbox: Outbox, batch: Make, commit: Commit
) -> None:
    """A reader goes through the outbox step by step, one block at least."""
    for number in range(5):
        commit(outbox, batch(10, 10 * number))

    first = outbox.pending(limit_bytes=1)
    rest = outbox.pending(first[-1].id)

    assert len(first) == 1
    assert rows(first + rest) == list(range(50))


def test_a_large_batch_becomes_several_blocks(outbox: Outbox, commit: Commit) -> None:
    """No block is larger than what a reader can take at once."""
    wide = Batch("main", "estimate", Table({"x": np.zeros((100, 16_384), np.float32)}))

    commit(outbox, wide)

    blocks = outbox.pending(limit_bytes=1 << 30)
    assert sum(block.n for block in blocks) == 100
    assert max(len(block.body) for block in blocks) <= 1.1 * (1 << 20)


def test_a_commit_is_all_or_nothing(outbox: Outbox, batch: Make, commit: Commit) -> None:
    """A table that cannot be carried leaves neither rows nor position."""
    bad = Batch("main", "estimate", Table({"x": np.array([object()])}))

    with pytest.raises(WireError):
        commit(outbox, batch(3), bad, position=9)

    assert outbox.pending() == []
    assert outbox.resume("main") is None
    commit(outbox, batch(1))
    assert ranges(outbox.pending()) == [("estimate", 0, 1)]


def test_the_quota_evicts_the_oldest_and_says_so(open_outbox: Open) -> None:
    """Beyond the quota the oldest rows become one gap, delivered in their place."""
    outbox = open_outbox(quota_mb=1)

    filled(outbox, 200)

    blocks = outbox.pending(limit_bytes=1 << 30)
    gap = blocks[0]
    stats = outbox.stats()
    assert (gap.kind, gap.reason, gap.seq0) == ("gap", "quota", 0)
    assert [block.kind for block in blocks[1:]] == ["estimate"] * (len(blocks) - 1)
    assert gap.n + len(rows(blocks)) == 200_000
    assert rows(blocks)[-1] == 199_999
    assert stats.discarded == {"quota": gap.n}
    assert stats.bytes <= 1 << 20
    assert outbox.losses_total > 0


def test_decisions_outlive_estimates(open_outbox: Open) -> None:
    """Eviction takes estimates first, even younger ones."""
    outbox = open_outbox(quota_mb=1)
    table = Table({"x": np.arange(10)})

    outbox.commit(
        source="main",
        position=0,
        snapshot=b"",
        base="",
        batches=[Batch("main-decisions", "decision", table)],
    )
    filled(outbox, 200)

    assert ranges(outbox.pending())[0] == ("decision", 0, 10)


def test_old_rows_leave_by_age(
    open_outbox: Open, clock: FakeClock, batch: Make, commit: Commit
) -> None:
    """Rows older than the limit become gaps, also those of earlier epochs."""
    outbox = open_outbox(max_age_s=60.0)
    outbox.begin()
    commit(outbox, batch(3))
    clock.advance(50)
    outbox.end()
    outbox.close()
    outbox = open_outbox(epoch=2, max_age_s=60.0)
    commit(outbox, batch(2))
    clock.advance(20)

    commit(outbox, batch(1))

    found = [(block.epoch, block.kind, block.n, block.reason) for block in outbox.pending()]
    assert found == [(1, "gap", 3, "age"), (2, "estimate", 2, ""), (2, "estimate", 1, "")]


@pytest.mark.parametrize("jump_s", [315_360_000, -31_536_000])
def test_a_jump_of_the_clock_ages_nothing(
    open_outbox: Open, clock: FakeClock, batch: Make, commit: Commit, jump_s: int
) -> None:
    """Ten years forward or one back while running do not evict a row."""
    outbox = open_outbox(max_age_s=60.0)
    commit(outbox, batch(3))
    clock.jump(jump_s)

    commit(outbox, batch(1))

    assert outbox.stats().discarded == {}


def test_rows_of_a_clock_that_was_never_set_are_not_old(
    open_outbox: Open, clock: FakeClock, batch: Make, commit: Commit
) -> None:
    """Rows dated 1970 count from when the outbox was opened."""
    clock.jump(-clock.now_ns() / 1e9)
    outbox = open_outbox(max_age_s=60.0)
    commit(outbox, batch(3))
    outbox.close()
    clock.jump(1_700_000_000)
    outbox = open_outbox(epoch=2, max_age_s=60.0)

    commit(outbox, batch(1))

    assert outbox.stats().discarded == {}


def test_a_source_can_report_a_gap_of_its_own(outbox: Outbox, commit: Commit) -> None:
    """Rows that were never made are numbered and delivered as a gap."""
    commit(outbox, Batch("main", "gap", Table({}), lost=5, reason="restart"))

    assert ranges(outbox.pending()) == [("gap", 0, 5)]


def test_a_damaged_body_becomes_a_gap(outbox: Outbox, batch: Make, commit: Commit) -> None:
    """A block whose checksum fails is never sent as rows."""
    commit(outbox, batch(3), batch(2, 3))
    outbox._connection.execute("UPDATE block SET body = zeroblob(9) WHERE seq0 = 0").fetchall()

    blocks = outbox.pending()

    assert ranges(blocks) == [("gap", 0, 3), ("estimate", 3, 2)]
    assert blocks[0].reason == "corrupt"
    assert outbox.stats().discarded == {"corrupt": 3}


def test_rows_the_cloud_lost_are_covered_by_a_gap(
    outbox: Outbox, batch: Make, commit: Commit
) -> None:
    """A cloud restored from a backup is told what the device no longer has."""
    commit(outbox, batch(4), batch(2, 4))
    outbox.acknowledge({(7, 1, "main"): 4})

    assert outbox.fill(7, 1, "main", 1) == 3
    assert outbox.fill(7, 1, "main", 1) == 0
    assert outbox.fill(7, 1, "gone", 0) == 0
    assert ranges(outbox.pending()) == [("gap", 1, 3), ("estimate", 4, 2)]


@pytest.mark.parametrize("damage", [b"garbage" * 1000, b""])
def test_a_corrupt_outbox_is_set_aside(
    open_outbox: Open, tmp_path: Path, batch: Make, commit: Commit, damage: bytes
) -> None:
    """The device goes on with a fresh outbox in its new epoch and knows about it."""
    outbox = open_outbox()
    commit(outbox, batch(3))
    outbox.close()
    (tmp_path / "outbox.db").write_bytes(damage)

    outbox = open_outbox(epoch=2)

    assert (outbox.set_aside is not None) == bool(damage)
    assert outbox.resume("main") is None
    commit(outbox, batch(1))
    assert [(block.epoch, block.seq0) for block in outbox.pending()] == [(2, 0)]


def test_a_full_database_evicts_and_goes_on(open_outbox: Open) -> None:
    """When SQLite may not grow, the oldest rows make room and no commit is lost."""
    outbox = open_outbox(quota_mb=64)
    outbox._connection.execute("PRAGMA max_page_count=150")

    filled(outbox, 150)

    blocks = outbox.pending(limit_bytes=1 << 30)
    assert sum(block.n for block in blocks) == 150_000
    assert rows(blocks)[-1] == 149_999
    assert set(outbox.stats().discarded) == {"disk_full"}


def test_a_full_database_with_nothing_to_evict_is_an_error(open_outbox: Open) -> None:
    """Then nothing is half-written, and the same commit may work later."""
    outbox = open_outbox(quota_mb=64)
    filled(outbox, 1)
    outbox._connection.execute("PRAGMA max_page_count=1")

    with pytest.raises(OutboxFullError, match="nothing is left to drop"):
        outbox.commit(
            source="main",
            position=99,
            snapshot=b"",
            base="",
            batches=[
                Batch("main", "estimate", Table({"x": np.random.default_rng(1).random(100_000)}))
            ],
        )

    resume = outbox.resume("main")
    assert resume is not None
    assert resume.position == 1000
    outbox._connection.execute("PRAGMA max_page_count=10000")
    filled(outbox, 1)
    assert sum(block.n for block in outbox.pending()) == 2000


def test_an_empty_outbox_goes_on_once_the_disk_has_room(open_outbox: Open, disk: Disk) -> None:
    """With nothing to drop it waits, and the file may grow again as soon as there is room."""
    outbox = open_outbox(quota_mb=64)
    disk.set_full(True)
    with pytest.raises(OutboxFullError, match="nothing is left to drop"):
        filled(outbox, 20)
    assert outbox.rows < 20_000

    disk.set_full(False)
    filled(outbox, 20)

    assert outbox.stats().discarded == {}
    assert outbox.rows >= 20_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if not made or made.returncode:
        pytest.skip("may not mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def on_small_disk(small_disk: Path, clock: FakeClock) -> Iterator[Outbox]:
    """An outbox with a ballast of 1 MiB there."""
    from edge_runtime.config import OutboxConfig

    config = OutboxConfig(quota_mb=64, ballast_mb=1)
    outbox = Outbox.open(
        small_disk / "outbox.db", epoch=1, incarnation=7, config=config, clock=clock
    )
    yield outbox
    outbox.close()


def fill_disk(folder: Path) -> None:
    """Take what is left, to the last byte."""
    (folder / "hog").write_bytes(bytes(shutil.disk_usage(folder).free))


def test_a_full_disk_costs_the_ballast_then_the_oldest_rows(
    small_disk: Path, on_small_disk: Outbox
) -> None:
    """When others fill the disk, commits go on, losses are told, and space is taken back later."""
    outbox = on_small_disk
    ballast = small_disk / "outbox.db.ballast"
    assert ballast.stat().st_size == 1 << 20
    filled(outbox, 20)
    fill_disk(small_disk)

    filled(outbox, 300)

    assert not ballast.exists()
    blocks = outbox.pending(limit_bytes=1 << 30)
    assert sum(block.n for block in blocks) == 320_000
    assert set(outbox.stats().discarded) == {"disk_full"}
    (small_disk / "hog").unlink()
    outbox.acknowledge({(7, 1, "main"): 320_000})
    filled(outbox, 1)
    assert ballast.exists() == (shutil.disk_usage(small_disk).free > 3 << 20)


def test_a_large_commit_fits_into_what_the_ballast_held_back(
    small_disk: Path, on_small_disk: Outbox
) -> None:
    """An outbox that was nearly empty when the disk got full takes more than it ever held."""
    filled(on_small_disk, 1, n=100)
    fill_disk(small_disk)
    noise = np.random.default_rng(1)
    batches = [Batch("main", "estimate", Table({"x": noise.random(200)})) for _ in range(64)]

    on_small_disk.commit(source="main", position=1, snapshot=b"", base="", batches=batches)

    assert sum(block.n for block in on_small_disk.pending() if block.kind != "gap") >= 64 * 200


def test_what_the_log_holds_has_room_in_the_file_on_a_full_disk(
    small_disk: Path, on_small_disk: Outbox
) -> None:
    """A file that grew for a while does not wait with more than the ballast can give."""
    filled(on_small_disk, 200)
    fill_disk(small_disk)

    filled(on_small_disk, 200)

    blocks = on_small_disk.pending(limit_bytes=1 << 30)
    assert sum(block.n for block in blocks) == 400_000
    assert rows(blocks)[-1] == 199_999
    assert set(on_small_disk.stats().discarded) == {"disk_full"}


@pytest.mark.parametrize("made", ["nothing", "filler"])
def test_a_file_has_half_of_the_ballast_from_its_start(
    open_outbox: Open, tmp_path: Path, made: str
) -> None:
    """On the disk and free for rows, also where the process before was killed while taking it."""
    if made == "filler":
        outbox = open_outbox()
        outbox._connection.execute("CREATE TABLE filler AS SELECT zeroblob(600000)")
        outbox.close()

    outbox = open_outbox(ballast_mb=1)

    free = outbox._connection.execute("PRAGMA freelist_count").fetchone()[0]
    tables = {row[0] for row in outbox._connection.execute("SELECT name FROM sqlite_master")}
    assert (tmp_path / "outbox.db").stat().st_size >= 1 << 19
    assert free * 1024 > 1 << 18
    assert "filler" not in tables


def test_gaps_that_touch_are_one(open_outbox: Open, batch: Make, commit: Commit) -> None:
    """Whether the block before, between or behind goes last, one gap says so in the end."""
    outbox = open_outbox()
    commit(outbox, batch(1), batch(2, 1), batch(3, 3))
    blocks = outbox.pending()
    before = outbox.stats().bytes

    for number in (0, 2, 1):
        outbox.discard(blocks[number], "too_large")

    assert ranges(outbox.pending()) == [("gap", 0, 6)]
    assert outbox.stats().bytes == 128 < before


def test_what_must_outlive_a_power_cut_is_synced(
    outbox: Outbox, batch: Make, commit: Commit
) -> None:
    """Rows and marks are synced with their commit; a position alone waits for the next of them."""
    synchronous = outbox._connection.execute

    def level() -> int:
        return int(synchronous("PRAGMA synchronous").fetchone()[0])

    commit(outbox, batch(1))
    with_rows = level()
    commit(outbox)
    without = level()
    outbox.keep_marks({"file": b"7"})

    assert (with_rows, without, level()) == (2, 1, 2)


def test_a_name_that_breaks_the_grammar_is_refused(outbox: Outbox, commit: Commit) -> None:
    """A stream name becomes part of a topic, so it is checked before it is stored."""
    with pytest.raises(ValueError, match="stream is"):
        commit(outbox, Batch("../x", "estimate", Table({"x": np.zeros(1)})))


def test_a_failing_database_is_a_store_error(outbox: Outbox, batch: Make, commit: Commit) -> None:
    """Errors of SQLite never leave as they are."""
    outbox.close()

    with pytest.raises(StoreError, match="cannot commit") as caught:
        commit(outbox, batch(1))

    assert isinstance(caught.value.__cause__, sqlite3.Error)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_row_is_pending_acknowledged_or_in_a_gap(
    tmp_path_factory: pytest.TempPathFactory, clock: FakeClock, data: st.DataObject
) -> None:
    """Whatever is committed, evicted, acknowledged and reopened: no number is missing or twice."""
    from edge_runtime.config import OutboxConfig

    path = tmp_path_factory.mktemp("property") / "outbox.db"
    config = OutboxConfig(quota_mb=1, ballast_mb=0)
    epoch, made, acked = 1, {}, {}
    outbox = Outbox.open(path, epoch=1, incarnation=7, config=config, clock=clock)
    for _ in range(data.draw(st.integers(1, 12))):
        stream = data.draw(st.sampled_from(["a", "b"]))
        match data.draw(st.sampled_from(["commit", "commit", "ack", "reopen"])):
            case "commit":
                n = data.draw(st.integers(1, 60_000))
                table = Table({"x": np.arange(n)})
                outbox.commit(
                    source="s", position=0, snapshot=b"", base="",
                    batches=[Batch(stream, "estimate", table)],
                )  # fmt: skip
                made[epoch, stream] = made.get((epoch, stream), 0) + n
            case "ack" if made:
                key = data.draw(st.sampled_from(sorted(made)))
                acked[key] = max(acked.get(key, 0), data.draw(st.integers(0, made[key])))
                outbox.acknowledge({(7, *key): acked[key]})
            case _:
                outbox.close()
                epoch += 1
                outbox = Outbox.open(path, epoch=epoch, incarnation=7, config=config, clock=clock)

    for key, total in made.items():
        blocks = outbox.pending(limit_bytes=1 << 30)
        mine = sorted(
            (block.seq0, block.n) for block in blocks if (block.epoch, block.stream) == key
        )
        starts = [seq0 for seq0, _ in mine] + [total]
        ends = [seq0 + n for seq0, n in mine]
        assert starts[0] <= acked.get(key, 0) or not mine
        assert ends == starts[1:]
        assert mine or acked.get(key, 0) == total
    outbox.close()
