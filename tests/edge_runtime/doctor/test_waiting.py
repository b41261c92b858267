"""The doctor reads a device's outbox, and says what it means for the card."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edge_runtime.config import OutboxConfig
from edge_runtime.doctor.waiting import look_at_outbox
from edge_runtime.sync.outbox import Outbox
from edge_runtime.testing import FakeClock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A device has run for a minute and written 1 MiB."""
    clock = FakeClock()
    outbox = Outbox.open(
        tmp_path / "outbox.db",
        epoch=1,
        incarnation=7,
        config=OutboxConfig(ballast_mb=0),
        clock=clock,
    )
    with closing(outbox):
        outbox.begin()
        clock.advance(60)
        outbox.end()
    return tmp_path


def _written(folder: Path, size: int) -> None:
    with closing(sqlite3.connect(folder / "outbox.db", isolation_level=None)) as connection:
        connection.execute("UPDATE run SET written_bytes = ?", (size,))


@pytest.mark.parametrize(
    ("mib", "a_day", "state"), [(1, "1440 MiB", "ok"), (8, "11520", "warning")]
)
def test_wear_is_told_for_a_day(folder: Path, mib: int, a_day: str, state: str) -> None:
    """From what was counted while it ran; much is a warning with a remedy."""
    _written(folder, mib << 20)

    wear = {one.topic: one for one in look_at_outbox(folder)}["wear"]

    assert a_day in wear.what
    assert wear.state == state
    assert bool(wear.remedy) == (state == "warning")


def test_a_corrupt_file_is_a_warning(folder: Path) -> None:
    """It was set aside and the device went on, but the card may be dying."""
    (folder / "outbox.db.corrupt-17").write_bytes(b"x")

    found = {one.topic: one for one in look_at_outbox(folder)}["outbox"]

    assert found.state == "warning"
    assert "outbox.db.corrupt-17" in found.what


def test_a_file_that_cannot_be_read_is_a_problem(folder: Path) -> None:
    """Such as one that a newer program wrote."""
    with closing(sqlite3.connect(folder / "outbox.db")) as connection:
        connection.execute("PRAGMA user_version=99")

    (found,) = look_at_outbox(folder)

    assert found.state == "problem"
    assert "schema version is 99" in found.what


def test_nothing_is_said_of_a_device_that_never_ran(tmp_path: Path) -> None:
    """There is no outbox yet, and none is made."""
    assert list(look_at_outbox(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
