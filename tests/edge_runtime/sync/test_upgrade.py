"""Files of an older program are brought forward whole, whatever happens meanwhile."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.cli import main
from edge_runtime.config import OutboxConfig
from edge_runtime.errors import StoreError
from edge_runtime.sync.frames import decode_table, encode_table
from edge_runtime.sync.outbox import OUTBOX_MIGRATIONS, Outbox
from edge_runtime.sync.state import STATE_MIGRATIONS, StateStore
from edge_runtime.testing.clock import FakeClock
from edge_runtime.types import Table

import numpy as np  # isort: skip

ROWS = 200
OPEN = """
import sys
from pathlib import Path
from edge_runtime.clock import SystemClock
from edge_runtime.config import OutboxConfig
from edge_runtime.sync.outbox import Outbox
print("ready", flush=True)
sys.stdin.readline()
Outbox.open(Path(sys.argv[1]), epoch=2, incarnation=7, config=OutboxConfig(ballast_mb=0),
            clock=SystemClock()).close()
"""


def made(path: Path, version: int, blocks: int = ROWS) -> Path:
    """Make an outbox as the program of an older schema left it, with rows in it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.execute("PRAGMA journal_mode=WAL")
        for number, script in enumerate(OUTBOX_MIGRATIONS[:version], start=1):
            old.executescript(f"BEGIN; {script}; PRAGMA user_version={number}; COMMIT;")
        rows = [
            (seq, encode_table(Table({"x": np.array([seq])})), f"pad{seq}".encode() * 500)
            for seq in range(blocks)
        ]
        old.execute("BEGIN")
        for seq, body, _ in rows:
            old.execute(
                "INSERT INTO block (incarnation, epoch, stream, seq0, n, kind, reason, clock,"
                " made_ns, monotonic_ns, bytes, crc32, body)"
                " VALUES (7, 1, 'main', ?, 1, 'estimate', '', 'ntp', 1, 1, 200, ?, ?)",
                (seq, _crc(body), body),
            )
        old.execute("INSERT INTO next_seq VALUES (7, 1, 'main', ?)", (blocks,))
        old.execute("INSERT INTO resume VALUES ('main', ?, x'00', 'base')", (blocks,))
        old.execute("COMMIT")
    return path


def _crc(body: bytes) -> int:
    import zlib

    return zlib.crc32(body)


def opened(path: Path) -> closing[Outbox]:
    return closing(
        Outbox.open(
            path, epoch=2, incarnation=7, config=OutboxConfig(ballast_mb=0), clock=FakeClock()
        )
    )


def rows(outbox: Outbox) -> list[int]:
    blocks = outbox.pending(limit_bytes=1 << 30)
    while more := outbox.pending(blocks[-1].id, limit_bytes=1 << 30):
        blocks += more
    return [int(decode_table(block.body).columns["x"][0]) for block in blocks]


@pytest.mark.parametrize("version", range(1, len(OUTBOX_MIGRATIONS)))
def test_an_outbox_of_every_older_schema_keeps_its_rows(tmp_path: Path, version: int) -> None:
    """Rows, their order and where the source goes on; and the old file is kept beside it."""
    path = made(tmp_path / "outbox.db", version)

    with opened(path) as outbox:
        found, resume = rows(outbox), outbox.resume("main")

    assert found == list(range(ROWS))
    assert resume is not None
    assert resume.position == ROWS
    with closing(sqlite3.connect(tmp_path / f"outbox.db.v{version}")) as copy:
        assert copy.execute("PRAGMA user_version").fetchone() == (version,)
        assert copy.execute("SELECT count(*) FROM block").fetchone() == (ROWS,)
    assert not list(tmp_path.glob("*.partial*"))


def test_one_copy_is_kept_however_often_it_is_upgraded(tmp_path: Path) -> None:
    """Copies of many years would fill the card."""
    path = made(tmp_path / "outbox.db", 1)
    (tmp_path / "outbox.db.v0").write_bytes(b"of long ago")

    with opened(path):
        pass

    assert [copy.name for copy in tmp_path.glob("outbox.db.v*")] == ["outbox.db.v1"]


def _upgraded_for(path: Path, seconds: float) -> float:
    """Upgrade in a process that is killed after so long; return how long it took."""
    with subprocess.Popen(
        [sys.executable, "-c", OPEN, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        began_s = time.monotonic()
        process.stdin.close()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        return time.monotonic() - began_s


@pytest.mark.slow
def test_killed_anywhere_in_an_upgrade_nothing_is_lost(tmp_path: Path) -> None:
    """In the copy or in the migration: the next start finds the old file or the new one, whole."""
    template = made(tmp_path / "template.db", 1, blocks=20_000)
    whole_s = _upgraded_for(Path(shutil.copy(template, tmp_path / "whole.db")), 60.0)
    states = set()
    for number in range(16):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = Path(shutil.copy(template, folder / "outbox.db"))
        _upgraded_for(path, whole_s * number / 15)
        has_copy = (folder / "outbox.db.v1").exists()
        with closing(sqlite3.connect(path)) as left:
            version = left.execute("PRAGMA user_version").fetchone()[0]
        states.add((has_copy, version))

        with opened(path) as outbox:
            assert rows(outbox) == list(range(20_000))
        with closing(sqlite3.connect(folder / "outbox.db.v1")) as copy:
            assert copy.execute("SELECT count(*) FROM block").fetchone() == (20_000,)
        assert not list(folder.glob("*.partial*"))

    assert len(states) > 1


@pytest.fixture
def tight(tmp_path: Path) -> Iterator[Path]:
    """A file system that has no room for a copy of what is on it."""
    mount = shutil.which("mount")
    folder = tmp_path / "tight"
    folder.mkdir()
    command = [str(mount), "-t", "tmpfs", "-o", "size=1400k", "tmpfs", str(folder)]
    if not mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_too_full_for_an_upgrade_leaves_the_old_file(tight: Path) -> None:
    """It says so, the program before still reads the file, and with room it goes forward."""
    path = made(tight / "outbox.db", 1, blocks=2500)
    before = path.read_bytes()
    hog = tight / "hog"
    hog.write_bytes(bytes(max(0, shutil.disk_usage(tight).free - 64 * 1024)))

    with pytest.raises(StoreError, match="cannot open: database or disk is full"):
        opened(path)

    assert path.read_bytes() == before
    assert [each.name for each in tight.glob("outbox.db*") if "-" not in each.name] == ["outbox.db"]
    hog.unlink()
    with opened(path) as outbox:
        assert rows(outbox) == list(range(2500))


@pytest.mark.parametrize("name", ["outbox.db", "state.db"])
def test_an_older_program_leaves_a_newer_file_alone(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names both versions and the way out, changes nothing, and ends with code 1."""
    folder = tmp_path / "state"
    StateStore(folder / "state.db", FakeClock()).close()
    with opened(folder / "outbox.db"):
        pass
    newest = len(OUTBOX_MIGRATIONS if name == "outbox.db" else STATE_MIGRATIONS)
    with closing(sqlite3.connect(folder / name)) as newer:
        newer.execute(f"PRAGMA user_version={newest + 1}")
    before = (folder / name).read_bytes()

    code = main(["outbox", "drop", str(folder), "--all", "--yes"])

    assert code == 1
    told = capsys.readouterr().err
    assert f"schema version is {newest + 1}; expected at most {newest}" in told
    assert "install that version again" in told
    assert (folder / name).read_bytes() == before


def test_a_device_starts_on_a_disk_that_is_full_to_the_last_byte(tight: Path) -> None:
    """The ballast of each file is room enough to count the start and to find what waits."""
    StateStore(tight / "state.db", FakeClock()).close()
    config = OutboxConfig(ballast_mb=1)
    ballast = tight / "state.db.ballast"
    ballast.write_bytes(bytes(128 * 1024))
    (tight / "outbox.db.ballast").write_bytes(bytes(256 * 1024))
    (tight / "hog").write_bytes(bytes(shutil.disk_usage(tight).free))
    assert shutil.disk_usage(tight).free == 0

    state = StateStore(tight / "state.db", FakeClock())
    epoch, incarnation = state.start()
    outbox = Outbox.open(
        tight / "outbox.db", epoch=epoch, incarnation=incarnation, config=config, clock=FakeClock()
    )

    assert epoch == 1
    assert not ballast.exists()
    outbox.close()
    state.close()
