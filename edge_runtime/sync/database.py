"""Opening the device's SQLite files: corrupt ones set aside, older ones migrated."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from edge_runtime.errors import StoreError
from edge_runtime.ports import Clock

__all__ = ["Opened", "open_database", "translated"]

log = logging.getLogger(__name__)

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_KEPT_ASIDE = 3
_BUSY_S = 5.0


class Opened(msgspec.Struct, frozen=True):
    """An open database.

    Attributes:
        connection: In autocommit mode, for one user at a time.
        set_aside: Where a corrupt file of that name went; None if there was none.
    """

    connection: sqlite3.Connection
    set_aside: Path | None


def open_database(
    path: Path,
    migrations: Sequence[str],
    *,
    synchronous: Literal["NORMAL", "FULL"],
    clock: Clock,
) -> Opened:
    """Open a database in WAL mode and bring its schema up to date.

    A corrupt file is renamed to ``<name>.corrupt-<ns>`` and a fresh one made.
    An older schema is first copied to ``<name>.v<version>``, then migrated.

    Args:
        path: The file; its folder is created.
        migrations: Script that leads from schema version i to i + 1, for each i.
        synchronous: FULL survives power cuts to the last commit; NORMAL may undo some.
        clock: Names the file set aside.

    Raises:
        StoreError: It cannot be opened or written, or was written by a newer version.
    """
    with translated(path, "open"):
        path.parent.mkdir(parents=True, exist_ok=True)
        set_aside = None
        if not _is_sound(path):
            set_aside = _set_aside(path, clock.now_ns())
        connection = _connect(path, synchronous)
        try:
            _migrate(connection, path, migrations)
        except BaseException:
            connection.close()
            raise
    return Opened(connection, set_aside)


@contextlib.contextmanager
def translated(path: Path, doing: str) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into a `StoreError`."""
    try:
        yield
    except StoreError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"cannot {doing}: {error}",
            where=str(path),
            expected="a database that can be read and written",
            remedy="Check the disk, its free space and the owner of the file.",
        ) from error


def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    return connection


def _is_sound(path: Path) -> bool:
    if not path.exists():
        return True
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_S)) as connection:
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode not in _CORRUPT:
            raise
        return False
    return bool(answer == ("ok",))


def _set_aside(path: Path, now_ns: int) -> Path:
    target = path.with_name(f"{path.name}.corrupt-{now_ns}")
    path.rename(target)
    for suffix in ("-wal", "-shm"):
        # They belong to the corrupt file; a fresh one would read them as its own.
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    for older in sorted(path.parent.glob(f"{path.name}.corrupt-*"))[:-_KEPT_ASIDE]:
        older.unlink()
    log.error("database.set_aside", extra={"path": str(path), "kept_as": str(target)})
    return target


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise StoreError(
            f"schema version is {version}",
            where=str(path),
            expected=f"at most {len(migrations)}",
            remedy="A newer edge-runtime wrote this file: install that version again, "
            f"or move the file away and keep a copy of it ({path.name}).",
        )
    if 0 < version < len(migrations):
        _back_up(connection, path.with_name(f"{path.name}.v{version}"))
    for number, script in enumerate(migrations[version:], start=version + 1):
        connection.executescript(f"BEGIN; {script}; PRAGMA user_version={number}; COMMIT;")
        log.info("database.migrated", extra={"path": str(path), "version": number})


def _back_up(connection: sqlite3.Connection, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(target)) as copy:
        connection.backup(copy)
