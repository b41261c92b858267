"""A full disk refuses what the kernel would refuse, and nothing else."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_simulator.disk import Disk, can_fill

pytestmark = pytest.mark.skipif(not can_fill(), reason="SQLite has no such system calls here")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """The disk of this process, with room."""
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.set_full(False)


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("CREATE TABLE IF NOT EXISTS row (body BLOB)")
    return database


def test_a_database_cannot_grow_until_there_is_room(disk: Disk, tmp_path: Path) -> None:
    """SQLite says that the disk is full, keeps what it has, and goes on later."""
    with closing(_opened(tmp_path / "disk/a.db")) as database:
        database.execute("INSERT INTO row VALUES (zeroblob(1000))")

        disk.set_full(True)
        with pytest.raises(sqlite3.OperationalError) as caught:
            database.execute("INSERT INTO row VALUES (zeroblob(100000))")
        disk.set_full(False)
        database.execute("INSERT INTO row VALUES (zeroblob(100000))")

        sizes = database.execute("SELECT length(body) FROM row").fetchall()
    assert caught.value.sqlite_errorcode == sqlite3.SQLITE_FULL
    assert sizes == [(1000,), (100_000,)]


def test_what_fits_into_a_file_is_written(disk: Disk, tmp_path: Path) -> None:
    """As on a real disk, space that a file has already can be written again."""
    with closing(_opened(tmp_path / "disk/a.db")) as database:
        database.execute("INSERT INTO row VALUES (zeroblob(100000))")
        database.execute("PRAGMA wal_checkpoint(RESTART)")

        disk.set_full(True)
        database.execute("INSERT INTO row VALUES (zeroblob(1000))")

        sizes = database.execute("SELECT length(body) FROM row").fetchall()
    assert sizes == [(100_000,), (1000,)]


@given(sizes=st.lists(st.tuples(st.integers(1, 60_000), st.booleans()), min_size=1, max_size=12))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_database_is_sound_however_often_the_disk_is_full(
    disk: Disk, tmp_path: Path, sizes: list[tuple[int, bool]]
) -> None:
    """What was committed is there, what was refused is not, and nothing is damaged."""
    path = tmp_path / "disk" / f"{len(list((tmp_path / 'disk').iterdir()))}.db"
    kept = []

    with closing(_opened(path)) as database:
        for size, is_full in sizes:
            disk.set_full(is_full)
            try:
                database.execute("INSERT INTO row VALUES (zeroblob(?))", (size,))
                kept.append((size,))
            except sqlite3.OperationalError:
                assert is_full
        disk.set_full(False)

        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT length(body) FROM row").fetchall() == kept


@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_CREAT, os.O_RDWR])
def test_no_file_on_it_is_opened_for_writing(disk: Disk, tmp_path: Path, flags: int) -> None:
    """ENOSPC, as from the kernel; files elsewhere, and reading, are let alone."""
    path = tmp_path / "disk/model.zip"
    path.write_bytes(b"old")
    disk.set_full(True)

    with pytest.raises(OSError, match="No space left") as caught:
        os.open(path, flags)

    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    assert (tmp_path / "elsewhere").write_bytes(b"new") == 3
