"""Each row once, whatever comes, and whatever breaks."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cloud.database import VERSION
from edge_cloud.segments import read_segment
from edge_cloud.store import Store, check_frame
from edge_runtime.errors import StoreError, WireError
from edge_runtime.quality import MASK
from edge_runtime.sync.frames import RowFrame
from edge_runtime.sync.messages import Ack
from edge_runtime.types import Table

from .conftest import DAY_NS, HOUR_NS, T0_NS, frame_of

SRC = Path(__file__).parents[2]


def identities(store: Store, stream: str = "main") -> list[tuple[str, int, int, int]]:
    """Read every stored row's identity straight from the files."""
    rows = []
    for segment in store.segments(stream=stream):
        columns = store.read(segment).columns
        names = ("device", "incarnation", "epoch", "seq")
        rows += list(zip(*(columns[name].tolist() for name in names), strict=True))
    return rows


def upto(acks: list[Ack]) -> dict[int, int]:
    return {ack.epoch: ack.upto for ack in acks}


def test_small_segments_that_come_together_share_a_file(store: Store) -> None:
    """Twenty devices cost one file, and each has its own rows in the catalogue and back."""
    store.ingest([frame_of(0, 10 + number, device=f"d{number}") for number in range(20)])

    files = list(store.folder.rglob("*.parquet"))
    assert len(files) == 1
    assert len(store.segments()) == 20
    assert sum(segment.rows for segment in store.segments()) == store.status().rows
    for number in range(20):
        table = store.rows("main", device=f"d{number}")
        assert table.columns["seq"].tolist() == list(range(10 + number))
        assert set(table.columns["device"].tolist()) == {f"d{number}"}


def test_a_deleted_device_leaves_nothing_in_files_that_it_shared(store: Store) -> None:
    """Others get files of their own, and the shared one goes."""
    store.ingest([frame_of(0, 10, device=f"d{number}") for number in range(3)])

    assert store.delete_device("d1") == 10

    kept = [read_segment(path).columns["device"] for path in store.folder.rglob("*.parquet")]
    assert sorted(set(np.concatenate(kept).tolist())) == ["d0", "d2"]
    assert store.status().rows == 20
    assert store.rows("main", device="d2").columns["seq"].tolist() == list(range(10))


def test_a_shared_file_stays_until_its_last_segment_has_gone(store: Store) -> None:
    """Compaction takes devices out one by one; a start sweeps nothing that is still named."""
    store.ingest([frame_of(0, 10, device="d0"), frame_of(0, 10, device="d1")])
    store.ingest([frame_of(10, 10, device="d0")])
    (shared,) = store.folder.rglob("shared-*.parquet")

    store.compact()
    assert shared.exists()
    again = Store(store.folder)
    assert identities(again) == identities(store)
    again.close()
    store.ingest([frame_of(10, 10, device="d1")])
    store.compact()

    assert not shared.exists()
    assert sorted(identities(store)) == [
        (device, 7, 1, seq) for device in ("d0", "d1") for seq in range(20)
    ]


def test_large_segments_have_files_of_their_own(store: Store) -> None:
    """What is worth a file gets one."""
    frames = [frame_of(0, 6000, device=f"d{number}") for number in range(2)]

    store.ingest(frames)

    assert len(list(store.folder.rglob("*.parquet"))) == 2
    assert not list(store.folder.rglob("shared-*"))


def test_header_fields_of_a_newer_device_are_kept(store: Store) -> None:
    """They stand beside the rows that were new, for gaps too, and go with their device."""
    newer = {"site": "hall 3"}
    store.ingest([frame_of(0, 10)])
    for frame in (frame_of(5, 10), frame_of(5, 10), frame_of(15, 3, gap=True)):
        store.ingest([msgspec.structs.replace(frame, beyond=newer)])

    kept = store.database.rows("SELECT seq0, n, beyond FROM header ORDER BY seq0")
    assert [(seq0, n) for seq0, n, _ in kept] == [(10, 5), (15, 3)]
    assert [msgspec.msgpack.decode(beyond) for *_, beyond in kept] == [newer, newer]
    store.delete_device("pump-1")
    assert store.database.rows("SELECT * FROM header") == []


# --- what is taken ----------------------------------------------------------------


def test_rows_come_back_as_they_were_sent(store: Store) -> None:
    """Dtypes, shapes and bits of every column survive, and identity is added."""
    n = 5
    columns = {
        "index": np.arange(n),
        "end_ns": T0_NS + np.arange(n) * HOUR_NS,
        "score": np.linspace(0, 1, 2 * n).reshape(n, 2),
        "inputs": np.arange(n * 6, dtype=np.float32).reshape(n, 3, 2),
        "raw": np.arange(n * 4, dtype=np.uint8).reshape(n, 4),
        "flag": np.array([True, False] * 2 + [True]),
        "label": np.array(["ä", "", "b", "c", "long one"]),
    }
    columns["score"][1, 0] = np.nan
    frame = msgspec.structs.replace(frame_of(0, n), table=Table(columns))

    store.ingest([frame])
    table = store.rows("main")

    for name, column in columns.items():
        np.testing.assert_array_equal(table.columns[name], column)
        if column.dtype.kind != "U":
            assert table.columns[name].dtype == column.dtype
    assert table.columns["seq"].tolist() == list(range(n))
    assert set(table.columns["device"]) == {"pump-1"}


def test_an_ack_says_what_is_stored(store: Store) -> None:
    """The first sequence number that is missing is what the ack names."""
    assert upto(store.ingest([frame_of(0, 24)])) == {1: 24}


def test_a_frame_that_comes_again_changes_nothing(store: Store) -> None:
    """A duplicate is acknowledged and not stored."""
    store.ingest([frame_of(0, 24)])

    acks = store.ingest([frame_of(0, 24)])

    assert upto(acks) == {1: 24}
    assert not acks[0].must_resume
    assert len(identities(store)) == 24


def test_of_an_overlapping_frame_only_new_rows_are_kept(store: Store) -> None:
    """Rows below the mark are cut off before they are stored."""
    store.ingest([frame_of(0, 10)])

    store.ingest([frame_of(4, 10)])

    assert sorted(identities(store)) == [("pump-1", 7, 1, seq) for seq in range(14)]


def test_a_frame_beyond_the_mark_is_not_kept(store: Store) -> None:
    """The ack of an early frame says where to resume, and nothing is stored."""
    store.ingest([frame_of(0, 10)])

    ack = store.ingest([frame_of(12, 5)])[0]

    assert (ack.upto, ack.must_resume) == (10, True)
    assert len(identities(store)) == 10


def test_a_group_is_one_file_and_order_within_it_does_not_matter(store: Store) -> None:
    """Frames of one stream in one group share a segment, in whatever order they came."""
    store.ingest([frame_of(20, 10), frame_of(0, 10), frame_of(10, 10)])

    assert len(store.segments()) == 1
    assert store.rows("main").columns["seq"].tolist() == list(range(30))


def test_a_new_epoch_and_a_new_incarnation_start_at_zero(store: Store) -> None:
    """The same sequence numbers under another epoch or state.db are other rows."""
    acks = store.ingest([frame_of(0, 5), frame_of(0, 5, epoch=2), frame_of(0, 5, incarnation=8)])

    assert len(acks) == 3
    assert len(set(identities(store))) == 15


def test_a_gap_moves_the_mark_and_is_kept(store: Store) -> None:
    """Lost rows are counted with their reason, and the stream goes on after them."""
    store.ingest([frame_of(0, 5)])

    acks = store.ingest([frame_of(5, 100, gap=True), frame_of(105, 5)])

    assert upto(acks) == {1: 110}
    assert [(gap.seq0, gap.n, gap.reason) for gap in store.gaps()] == [(5, 100, "quota")]
    assert store.status().gap_rows == 100
    assert len(identities(store)) == 10


def test_columns_may_change_within_a_group(store: Store) -> None:
    """Frames whose columns differ get files of their own; shared columns read as one."""
    wider = frame_of(10, 5)
    wider.table.columns["inputs"] = np.zeros((5, 1, 9), np.float32)

    store.ingest([frame_of(0, 10), wider])

    assert len(store.segments()) == 2
    assert "inputs" not in store.rows("main").columns
    with pytest.raises(StoreError, match="inputs"):
        store.rows("main", columns=["inputs"])


@pytest.mark.parametrize("name", ["device", "seq", "_received_ns"])
def test_a_frame_with_a_reserved_column_is_refused(name: str) -> None:
    """A device cannot write the store's own columns."""
    frame = frame_of(0, 3)
    frame.table.columns[name] = np.arange(3)

    with pytest.raises(WireError, match=name):
        check_frame(frame)


def test_a_frame_without_event_time_is_refused() -> None:
    """Rows must say when they were."""
    frame = msgspec.structs.replace(frame_of(0, 3), table=Table({"x": np.arange(3)}))

    with pytest.raises(WireError, match="end_ns"):
        check_frame(frame)


@st.composite
def _frames(draw: st.DrawFn) -> list[list[RowFrame]]:
    epochs = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2)), min_size=1, max_size=3))
    groups = []
    for _ in range(draw(st.integers(1, 5))):
        group = []
        for _ in range(draw(st.integers(1, 4))):
            epoch, incarnation = draw(st.sampled_from(epochs))
            first, n = draw(st.integers(0, 12)), draw(st.integers(1, 8))
            gap = draw(st.sampled_from([False, False, False, True]))
            group.append(frame_of(first, n, epoch=epoch, incarnation=incarnation, gap=gap))
        groups.append(group)
    return groups


@settings(max_examples=30)
@given(groups=_frames(), is_compacted=st.booleans())
def test_any_sequence_of_frames_stores_each_identity_once(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[RowFrame]], is_compacted: bool
) -> None:
    """Duplicates, overlaps, gaps and early frames in any order leave no double and no hole."""
    store = Store(tmp_path_factory.mktemp("any"))
    marks: dict[tuple[int, int], int] = {}
    for group in groups:
        for ack in store.ingest(group):
            assert ack.upto >= marks.get((ack.incarnation, ack.epoch), 0)
            marks[ack.incarnation, ack.epoch] = ack.upto
    if is_compacted:
        store.compact()

    found = identities(store)
    lost = {
        (gap.incarnation, gap.epoch, seq)
        for gap in store.gaps()
        for seq in range(gap.seq0, gap.seq0 + gap.n)
    }

    assert len(found) == len(set(found))
    stored = {(incarnation, epoch, seq) for _, incarnation, epoch, seq in found}
    assert not stored & lost
    expected = {(*key, seq) for key, mark in marks.items() for seq in range(mark)}
    assert stored | lost == expected
    store.close()


def test_two_ingesters_never_both_win(tmp_path: Path) -> None:
    """Two stores on one folder, fed the same frames at once, keep each row once."""
    stores = [Store(tmp_path / "s"), Store(tmp_path / "s")]

    def feed(store: Store) -> None:
        for seq0 in range(0, 60, 3):
            store.ingest([frame_of(seq0, 5)])

    threads = [threading.Thread(target=feed, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = identities(stores[0])
    assert sorted(found) == [("pump-1", 7, 1, seq) for seq in range(62)]
    for store in stores:
        store.close()


# --- reading and keeping house ------------------------------------------------------


def test_rows_can_be_cut_by_device_and_time(store: Store) -> None:
    """Bounds on event time are inclusive below and exclusive above."""
    store.ingest([frame_of(0, 48), frame_of(0, 48, device="pump-2")])

    table = store.rows(
        "main", device="pump-2", first_ns=T0_NS + 10 * HOUR_NS, last_ns=T0_NS + 12 * HOUR_NS
    )

    assert table.columns["seq"].tolist() == [10, 11]
    assert set(table.columns["device"]) == {"pump-2"}


def test_latest_returns_the_newest_rows_in_order(store: Store) -> None:
    """Only the last rows by event time come back, oldest of them first."""
    for seq0 in range(0, 100, 10):
        store.ingest([frame_of(seq0, 10)])

    table = store.latest("pump-1", "main", 13, columns=["end_ns"])

    assert table.columns["end_ns"].tolist() == [T0_NS + s * HOUR_NS for s in range(87, 100)]


def test_compaction_keeps_the_rows_and_merges_the_files(store: Store) -> None:
    """After a compaction the same rows come from one file a day, and old files are gone."""
    for seq0 in range(0, 48, 4):
        store.ingest([frame_of(seq0, 4)])
    before = store.rows("main")

    gone = store.compact()

    after = store.rows("main")
    assert gone == 10
    for name, column in before.columns.items():
        np.testing.assert_array_equal(after.columns[name], column)
    assert len(list(store.folder.rglob("*.parquet"))) == len(store.segments()) == 2


def test_reading_works_during_compaction(store: Store) -> None:
    """A reader never sees a row missing or double while files are swapped."""
    for seq0 in range(0, 40, 2):
        store.ingest([frame_of(seq0, 2)])
    counts: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            counts.append(len(store.rows("main", columns=["end_ns"])))

    reader = threading.Thread(target=read)
    reader.start()
    store.compact()
    store.compact(by="month")
    done.set()
    reader.join()

    assert counts
    assert set(counts) == {40}


# --- suspect rows -----------------------------------------------------------------


def suspect(frame: RowFrame, *masks: int) -> RowFrame:
    """Say that the first rows of a frame are suspect."""
    quality = np.zeros(frame.n, MASK)
    quality[: len(masks)] = masks
    return msgspec.structs.replace(frame, table=Table({**frame.table.columns, "quality": quality}))


@pytest.mark.parametrize("is_compacted", [False, True])
def test_rows_with_and_without_something_suspect_are_one_stream(
    store: Store, *, is_compacted: bool
) -> None:
    """Segments of before a sensor went bad, of then, and of an older device: 0 where unsaid."""
    for frame in (frame_of(0, 4), suspect(frame_of(4, 4), 0, 3), frame_of(8, 4)):
        store.ingest([frame])
    if is_compacted:
        assert store.compact() == 2

    expected = [0] * 5 + [3] + [0] * 6
    for table in (
        store.rows("main"),
        store.rows("main", columns=["quality"]),
        store.latest("pump-1", "main", 12, columns=["quality"]),
    ):
        assert table.columns["quality"].tolist() == expected
        assert table.columns["quality"].dtype == MASK


def test_frames_with_and_without_something_suspect_share_a_segment(store: Store) -> None:
    """A group of frames that came together is still one file."""
    store.ingest([frame_of(0, 2), suspect(frame_of(2, 2), 1), frame_of(4, 2)])

    assert [segment.rows for segment in store.segments()] == [6]
    assert store.rows("main").columns["quality"].tolist() == [0, 0, 1, 0, 0, 0]


def test_a_stream_without_anything_suspect_can_be_asked(store: Store) -> None:
    """The answer is 0 for every row, and files have no column for it."""
    store.ingest([frame_of(0, 3)])

    table = store.rows("main", columns=["quality"])

    assert table.columns["quality"].tolist() == [0, 0, 0]
    assert "quality" not in store.rows("main").columns


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_duckdb_reads_segments_with_and_without_something_suspect(
    store: Store, order: tuple[int, int]
) -> None:
    """As the reference shows it, whichever file comes first."""
    duckdb = pytest.importorskip("duckdb")
    for frame in (frame_of(0, 4), suspect(frame_of(4, 4), 2, 2, 1)):
        store.ingest([frame])
    paths = [str(store.segments()[i].path) for i in order]

    with duckdb.connect() as database:
        found = database.execute(
            "SELECT count(*), count(*) FILTER (coalesce(quality, 0) & 2 > 0)"
            " FROM read_parquet(?, union_by_name = true)",
            [paths],
        ).fetchall()

    assert found == [(8, 2)]


def test_old_rows_expire_by_event_time(store: Store) -> None:
    """Retention counts back from the stream's newest row, not from today."""
    for day in range(4):
        store.ingest([frame_of(24 * day, 24)])

    store.expire(2 * DAY_NS)

    assert store.rows("main").columns["seq"].min() == 24


def test_a_deleted_device_leaves_no_row_and_no_file(store: Store) -> None:
    """Deletion takes segments and files of one device and nothing of another."""
    store.ingest([frame_of(0, 24), frame_of(0, 24, device="pump-10")])

    rows = store.delete_device("pump-1")

    assert rows == 24
    assert {segment.device for segment in store.segments()} == {"pump-10"}
    assert len(list(store.folder.rglob("*.parquet"))) == 1
    assert store.ingest([frame_of(24, 4)])[0].upto == 28


def test_export_is_one_parquet_file_with_all_rows(store: Store, tmp_path: Path) -> None:
    """Whoever doubts can read everything with any Parquet reader."""
    import duckdb

    store.ingest([frame_of(0, 24)])
    store.ingest([frame_of(24, 24)])

    store.export(tmp_path / "all.parquet", "main")

    found = duckdb.sql(f"SELECT count(*), max(seq) FROM '{tmp_path / 'all.parquet'}'").fetchall()
    assert found == [(48, 47)]


def test_a_newer_catalogue_is_refused(tmp_path: Path) -> None:
    """A store that a newer version wrote is left alone."""
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "catalogue.db") as connection:
        connection.execute(f"PRAGMA user_version={VERSION + 1}")

    with pytest.raises(StoreError, match="newer"):
        Store(tmp_path)


def test_a_damaged_catalogue_is_a_store_error(tmp_path: Path) -> None:
    """Garbage instead of a database is named, not run into."""
    (tmp_path / "catalogue.db").write_bytes(b"no database at all" * 100)

    with pytest.raises(StoreError, match=r"catalogue\.db"):
        Store(tmp_path)


def test_a_store_whose_folder_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    """A file stands in its path: told with the path and what to correct."""
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match="no store can be made there: Not a directory") as caught:
        Store(tmp_path / "file" / "store")

    assert caught.value.where == str(tmp_path / "file" / "store")
    assert "cloud.yaml" in str(caught.value)


# --- faults -------------------------------------------------------------------------

_CHILD = """
import os, sys
sys.path[:0] = [{src!r}, {cloud!r}, {tests!r}]
from pathlib import Path
from edge_cloud.store import Store
from tests.edge_cloud.conftest import frame_of
point, after = sys.argv[2], int(sys.argv[3])
hits = 0
def at_step(name):
    global hits
    hits += name == point
    if name == point and hits > after:
        os.kill(os.getpid(), 9)
store = Store(Path(sys.argv[1]), at_step=at_step)
upto = store.ingest([frame_of(0, 1)])[0].upto
print(upto, flush=True)
while upto < 4000:
    upto = store.ingest([frame_of(upto, 3), frame_of(upto + 3, 2), frame_of(upto, 2)])[0].upto
    at_step("ack")
    print(upto, flush=True)
"""


def _start(folder: Path, point: str, after: int) -> subprocess.Popen[str]:
    script = _CHILD.format(src=str(SRC), cloud=str(SRC / "cloud"), tests=str(SRC / "tests"))
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder), point, str(after)],
        stdout=subprocess.PIPE,
        text=True,
    )


def _acked(child: subprocess.Popen[str]) -> int:
    assert child.stdout is not None
    lines = child.stdout.read().split()
    child.wait()
    return int(lines[-1]) if lines else 0


def test_sigkill_at_any_instant_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Killed at named points and at random ones, every acked row is stored, and once."""
    rng = random.Random(3)
    acked = 0
    points = [(point, after) for point in ("segment", "catalogue", "ack") for after in (0, 3)]
    for point, after in [*points, *[("never", 0)] * 5]:
        child = _start(tmp_path, point, after)
        if point == "never":
            assert child.stdout is not None
            for _ in range(rng.randint(2, 12)):
                acked = max(acked, int(child.stdout.readline()))
            child.kill()
        acked = max(acked, _acked(child))

    store = Store(tmp_path)
    found = sorted(seq for *_, seq in identities(store))

    assert found == list(range(len(found)))
    assert len(found) >= acked > 50
    assert store.ingest([frame_of(0, 1)])[0].upto == len(found)
    named = {segment.path for segment in store.segments()}
    assert set((tmp_path / "segments").rglob("*.*")) - named == set()
    store.close()


def test_orphans_are_not_swept_while_another_store_is_open(tmp_path: Path) -> None:
    """A file that another process may be about to name is left alone."""
    first = Store(tmp_path)
    orphan = tmp_path / "segments" / "half.parquet"
    orphan.write_bytes(b"x")

    second = Store(tmp_path)
    assert orphan.exists()
    for store in (first, second):
        store.close()

    Store(tmp_path).close()
    assert not orphan.exists()


def _fill(folder: str, result: multiprocessing.Queue[object]) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = Store(Path(folder))
    store.ingest([frame_of(0, 10)])
    size = os.path.getsize(Path(folder) / "catalogue.db-wal")  # noqa: PTH202
    # The limit counts per file: segments still fit, the catalogue's log does not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
    try:
        store.ingest([frame_of(10, 10)])
        result.put("no error")
    except StoreError as error:
        result.put(str(error))
    result.put(len(store.rows("main")))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    try:
        store.ingest([frame_of(10, 10)])
        result.put("no error")
    except StoreError as error:
        result.put(str(error))
    leftovers = [path.name for path in Path(folder).rglob("*.tmp")]
    result.put(leftovers)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    result.put(store.ingest([frame_of(10, 10)])[0].upto)
    result.put(sorted(seq for *_, seq in identities(store)))


def test_a_full_disk_gives_no_ack_and_recovers(tmp_path: Path) -> None:
    """Neither a full segment nor a full catalogue acknowledges or shows anything; later it does."""
    context = multiprocessing.get_context("spawn")
    result: multiprocessing.Queue[object] = context.Queue()
    child = context.Process(target=_fill, args=(str(tmp_path), result))

    child.start()
    answers = [result.get(timeout=60) for _ in range(6)]
    child.join()

    assert "catalogue" in str(answers[0])
    assert answers[1] == 10
    assert "cannot write" in str(answers[2])
    assert answers[3] == []
    assert answers[4] == 20
    assert answers[5] == list(range(20))


def test_an_older_catalogue_is_brought_forward_after_a_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version adds what it needs, keeps every row, and leaves a copy of what was."""
    from edge_cloud import database

    store = Store(tmp_path)
    store.ingest([frame_of(0, 10)])
    store.close()
    newer = (*database._MIGRATIONS, "CREATE TABLE rollout (id TEXT PRIMARY KEY)")
    monkeypatch.setattr(database, "_MIGRATIONS", newer)
    monkeypatch.setattr(database, "VERSION", VERSION + 1)

    store = Store(tmp_path)

    assert store.ingest([frame_of(10, 5)])[0].upto == 15
    assert store.database.rows("SELECT count(*) FROM rollout")[0][0] == 0
    (backup,) = tmp_path.glob(f"catalogue.db.v{VERSION}-*")
    with sqlite3.connect(backup) as connection:
        assert connection.execute("SELECT upto FROM mark").fetchone() == (10,)
    store.close()


def test_the_first_catalogue_of_all_still_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store from before the book of devices keeps its rows and gets an empty book."""
    from edge_cloud import database
    from edge_cloud.identity.devices import Devices

    with monkeypatch.context() as old:
        old.setattr(database, "_MIGRATIONS", database._MIGRATIONS[:1])
        old.setattr(database, "VERSION", 1)
        store = Store(tmp_path)
        store.ingest([frame_of(0, 10)])
        store.close()

    store = Store(tmp_path)

    assert store.status().rows == 10
    assert Devices(store).all() == []
    store.close()
