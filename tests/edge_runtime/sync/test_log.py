"""What a database writes is counted to the page."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.sync.database import open_database
from edge_runtime.sync.log import Log
from edge_runtime.testing.clock import FakeClock

IO = Path("/proc/self/io")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = open_database(
        tmp_path / "x.db", ["CREATE TABLE note (n INTEGER, body BLOB)"], clock=FakeClock()
    )
    yield opened.connection
    opened.connection.close()


def written() -> int:
    """Return what this process has written, by the kernel's count."""
    return int(dict(line.split(": ") for line in IO.read_text().splitlines())["wchar"])


def add(connection: sqlite3.Connection, n: int) -> None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO note VALUES (?, ?)", (n, os.urandom(500)))
        connection.execute("DELETE FROM note WHERE n < ?", (n - 200,))


@pytest.mark.skipif(not IO.exists(), reason="the kernel does not count here")
@pytest.mark.parametrize("commits", [3, 8000])
def test_what_is_counted_is_what_the_kernel_counts(
    tmp_path: Path, connection: sqlite3.Connection, commits: int
) -> None:
    """In one log or over many, within a hundredth and the log's header."""
    log = Log(tmp_path / "x.db", connection)
    before = written()

    for n in range(commits):
        add(connection, n)
        log.note(500)
    log.empty()

    assert log.written_bytes == pytest.approx(written() - before, rel=0.01, abs=4096)


def test_a_log_does_not_grow_for_ever(tmp_path: Path, connection: sqlite3.Connection) -> None:
    """It is emptied every few MiB, and its space used again."""
    log = Log(tmp_path / "x.db", connection)

    for n in range(8000):
        add(connection, n)
        log.note(500)

    assert (tmp_path / "x.db-wal").stat().st_size < 8 << 20
    assert (tmp_path / "x.db").stat().st_size < 1 << 20


@pytest.mark.parametrize("body_bytes", [200, 5000, 40_000])
def test_a_database_does_not_outgrow_its_file(
    tmp_path: Path, connection: sqlite3.Connection, body_bytes: int
) -> None:
    """By no more than it may and what one transaction adds, though it is seldom looked at."""
    most = 1 << 18
    log = Log(tmp_path / "x.db", connection, most_growth_bytes=most)
    looks: list[str] = []
    connection.set_trace_callback(looks.append)
    grown = []

    for _ in range(400):
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO note VALUES (0, ?)", (os.urandom(body_bytes),))
        log.note(body_bytes)
        pages = connection.execute("SELECT page_count FROM pragma_page_count").fetchone()[0]
        grown.append(pages * 1024 - (tmp_path / "x.db").stat().st_size)

    assert max(grown) <= most + body_bytes + 4096
    assert looks.count("PRAGMA page_count") < (400 if body_bytes > 5000 else 100)


def test_a_reader_in_the_way_spoils_no_count(
    tmp_path: Path, connection: sqlite3.Connection
) -> None:
    """What cannot be emptied yet is counted once, not again with the next try."""
    log = Log(tmp_path / "x.db", connection)
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM note").fetchone()
        add(connection, 1)
        log.empty()
        once = log.written_bytes
        log.empty()

    assert once > 0
    assert log.written_bytes <= 2 * once
