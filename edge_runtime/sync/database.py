"""Opening the device's SQLite files: corrupt ones set aside, older ones migrated."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from edge_runtime.errors import ConfigError, StoreError
from edge_runtime.ports import Clock
from edge_runtime.sync.ballast import Ballast

__all__ = ["Opened", "despite_full_disk", "is_full", "open_database", "read_database", "translated"]

log = logging.getLogger(__name__)

Synchronous = Literal["NORMAL", "FULL"]
T = TypeVar("T")

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
# A small page is what a small commit writes: a third of the bytes that 4096 cost.
_PAGE_BYTES = 1024
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
    clock: Clock,
    synchronous: Synchronous = "FULL",
    ballast: Ballast | None = None,
) -> Opened:
    """Open a database in WAL mode and bring its schema up to date.

    A corrupt file is renamed to ``<name>.corrupt-<ns>`` and a fresh one made.
    An older schema is first copied to ``<name>.v<version>``, then migrated; of those
    copies the newest stays.

    Args:
        path: The file; its folder is created.
        migrations: Script that leads from schema version i to i + 1, for each i.
        clock: Names the file set aside.
        synchronous: FULL survives power cuts to the last commit; NORMAL may undo some.
        ballast: Given up when the disk is too full to open it.

    Raises:
        StoreError: It cannot be opened or written, or was written by a newer version.
    """
    with translated(path, "open"):
        path.parent.mkdir(parents=True, exist_ok=True)
        return despite_full_disk(ballast, lambda: _opened(path, migrations, clock, synchronous))


def read_database(path: Path, migrations: Sequence[str]) -> sqlite3.Connection:
    """Open a database to read it alone, also while a device writes to it.

    Raises:
        ConfigError: There is none, or it waits for its migration.
        StoreError: It cannot be read, or a newer version wrote it.
    """
    if not path.exists():
        raise ConfigError(
            "there is no such file",
            where=str(path),
            expected="what a device has written",
            remedy="Name a device's YAML or its state folder.",
        )
    # Without a log nobody writes: then nothing is left beside the file either.
    how = "mode=ro" if path.with_name(path.name + "-wal").exists() else "mode=ro&immutable=1"
    with translated(path, "open"):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", _BUSY_S, uri=True)
        try:
            version = _version(connection)
            _check_version(version, path, migrations)
        except BaseException:
            connection.close()
            raise
    if version < len(migrations):
        connection.close()
        raise ConfigError(
            f"schema version is {version}",
            where=str(path),
            expected=f"{len(migrations)}",
            remedy="Start the device once: it brings its files up to date.",
        )
    connection.row_factory = sqlite3.Row
    return connection


def despite_full_disk(ballast: Ballast | None, do: Callable[[], T]) -> T:
    """Do something; where the disk is too full for it, give up the ballast and try again."""
    try:
        return do()
    except (sqlite3.OperationalError, OSError) as error:
        if ballast is None or not is_full(error) or not ballast.release():
            raise
        return do()


def is_full(error: Exception) -> bool:
    """Whether it says that there is no space left."""
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorcode in _FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def translated(path: Path, doing: str) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into a `StoreError`."""
    try:
        yield
    except (ConfigError, StoreError):
        raise
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"cannot {doing}: {error}",
            where=str(path),
            expected="a database that can be read and written",
            remedy="Check the disk, its free space and the owner of the file.",
        ) from error


def _opened(
    path: Path, migrations: Sequence[str], clock: Clock, synchronous: Synchronous
) -> Opened:
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


def _connect(path: Path, synchronous: Synchronous) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        # An existing file keeps the pages it has.
        connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
    except BaseException:
        connection.close()
        raise
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
    version = _version(connection)
    _check_version(version, path, migrations)
    newest = len(migrations)
    if version == newest:
        return
    if version:
        _back_up(connection, path, version)
    # All of it or nothing: a kill in between leaves what the copy holds, and no third thing.
    script = "; ".join(migrations[version:])
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE; {script}; PRAGMA user_version={newest}; COMMIT;"
        )
    except sqlite3.OperationalError:
        connection.rollback()
        # Another process that opened the file at the same time may have done it.
        if _version(connection) < newest:
            raise
    else:
        log.info("database.migrated", extra={"path": str(path), "version": newest})


def _check_version(version: int, path: Path, migrations: Sequence[str]) -> None:
    if version > len(migrations):
        raise StoreError(
            f"schema version is {version}",
            where=str(path),
            expected=f"at most {len(migrations)}",
            remedy="A newer edge-runtime wrote this file: install that version again, "
            f"or move the file away and keep a copy of it ({path.name}).",
        )


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _back_up(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Keep a copy that is whole under its name, whenever the power goes."""
    target = path.with_name(f"{path.name}.v{version}")
    partial = target.with_name(f"{target.name}.partial")
    # Of a copy that was killed; SQLite would take its journal for the new one's.
    for stale in (partial, partial.with_name(f"{partial.name}-journal")):
        stale.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(partial)) as copy:
            connection.backup(copy)
        _sync(partial)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)
    for older in path.parent.glob(f"{path.name}.v*"):
        if older != target:
            older.unlink()


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
