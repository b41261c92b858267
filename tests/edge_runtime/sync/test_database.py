"""A database opens, or says why not; nothing is overwritten without a copy."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.errors import StoreError
from edge_runtime.sync.database import Opened, open_database
from edge_runtime.testing.clock import FakeClock

FIRST = "CREATE TABLE note (text TEXT)"
SECOND = "ALTER TABLE note ADD COLUMN author TEXT"


def reopen(path: Path, *migrations: str) -> Opened:
    return open_database(path, migrations, clock=FakeClock())


def written(path: Path) -> Path:
    opened = reopen(path, FIRST)
    opened.connection.executemany(
        "INSERT INTO note VALUES (?)", [("kept" * 50,) for _ in range(400)]
    )
    opened.connection.close()
    return path


def test_a_fresh_file_is_made_with_its_folder(tmp_path: Path) -> None:
    """Opening creates what is missing, in WAL mode with the durability asked for."""
    opened = reopen(tmp_path / "a" / "b" / "x.db", FIRST)

    assert opened.set_aside is None
    assert opened.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert opened.connection.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.parametrize("damage", ["header", "page", "empty-header", "text"])
def test_a_corrupt_file_is_set_aside(tmp_path: Path, damage: str) -> None:
    """A damaged file is kept under another name and a fresh one made."""
    path = written(tmp_path / "x.db")
    content = bytearray(path.read_bytes())
    match damage:
        case "header":
            content[:16] = b"not a database!!"
        case "page":
            content[4096:8192] = b"\xa5" * 4096
        case "empty-header":
            content[:100] = bytes(100)
        case "text":
            content = bytearray(b"hello")
    path.write_bytes(content)

    opened = reopen(path, FIRST)

    assert opened.set_aside is not None
    assert opened.set_aside.read_bytes() == content
    assert opened.connection.execute("SELECT count(*) FROM note").fetchone() == (0,)


def test_only_the_newest_corrupt_files_are_kept(tmp_path: Path) -> None:
    """A device that corrupts its card again and again does not fill it with copies."""
    path = tmp_path / "x.db"
    for number in range(6):
        path.write_bytes(b"garbage" * 100)
        open_database(path, [FIRST], clock=FakeClock(10**18 + number)).connection.close()

    assert len(list(tmp_path.glob("x.db.corrupt-*"))) == 3


def test_an_older_schema_is_copied_then_migrated(tmp_path: Path) -> None:
    """Rows survive a migration, and the file as it was stays next to it."""
    path = written(tmp_path / "x.db")

    opened = reopen(path, FIRST, SECOND)

    assert opened.connection.execute("SELECT count(*), author FROM note").fetchone() == (400, None)
    with sqlite3.connect(tmp_path / "x.db.v1") as copy:
        assert copy.execute("SELECT * FROM note LIMIT 1").fetchone() == ("kept" * 50,)


def test_a_failed_migration_changes_nothing(tmp_path: Path) -> None:
    """A migration is one transaction."""
    path = written(tmp_path / "x.db")

    with pytest.raises(StoreError, match="syntax error"):
        reopen(path, FIRST, f"{SECOND}; NONSENSE")

    opened = reopen(path, FIRST)
    assert opened.connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert opened.connection.execute("SELECT * FROM note LIMIT 1").fetchone() == ("kept" * 50,)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """After a downgrade the file is left alone, and the versions are named."""
    path = tmp_path / "x.db"
    reopen(path, FIRST, SECOND).connection.close()

    with pytest.raises(StoreError, match=r"schema version is 2; expected at most 1"):
        reopen(path, FIRST)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A folder in place of the file is reported with its path, not set aside."""
    (tmp_path / "x.db").mkdir()

    with pytest.raises(StoreError, match=r"x\.db: cannot open"):
        reopen(tmp_path / "x.db", FIRST)


def test_many_that_open_a_new_file_at_once_all_get_it(tmp_path: Path) -> None:
    """Whoever comes second finds the work done."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edge_runtime.clock import SystemClock\n"
        "from edge_runtime.sync.database import open_database\n"
        "sys.stdin.readline()\n"
        "opened = open_database(Path(sys.argv[1]), ['CREATE TABLE a (x)', 'CREATE TABLE b (x)'],"
        " clock=SystemClock())\n"
        "print(len(opened.connection.execute('SELECT * FROM sqlite_master').fetchall()))\n"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "x.db")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(argv, **pipes) for _ in range(6)]  # type: ignore[call-overload]

    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()

    assert [child.communicate(timeout=60)[0].strip() for child in children] == ["2"] * 6
