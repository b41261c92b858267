"""Where an output grows until it is complete: a folder beside it, then one rename."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError, StoreError
from edge_runtime.modes.batch.disk import Disk

__all__ = ["Workspace", "check_same", "identity_of", "transaction", "translated"]


class Workspace:
    """The folder ``OUT.parts``; what is in it is durable and belongs to one job.

    Args:
        targets: Files to make, by table; the first is the output itself.
        disk: The file system.

    Attributes:
        folder: The folder.
    """

    def __init__(self, targets: Mapping[str, Path], disk: Disk) -> None:
        first = next(iter(targets.values()))
        self.folder = first.with_name(f"{first.name}.parts")
        self._targets = targets
        self._disk = disk

    def path(self, table: str) -> Path:
        """Return where the file of a table grows."""
        return self.folder / self._targets[table].name

    def open(self, *, is_fresh: bool) -> None:
        """Make the folder; a fresh start empties it first.

        Raises:
            StoreError: It cannot be made.
        """
        with translated(self.folder):
            if is_fresh:
                shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(exist_ok=True)
            self._disk.sync_folder(self.folder.parent)

    def check_free(self, *, may_overwrite: bool) -> None:
        """See that no finished output is in the way.

        Raises:
            ConfigError: There is one, and it may not be overwritten.
        """
        for target in self._targets.values():
            if target.is_dir() or (target.exists() and not may_overwrite):
                with contextlib.suppress(OSError):
                    self.folder.rmdir()  # Only if nothing is in it.
                raise ConfigError(
                    "the output exists",
                    where=str(target),
                    expected="a free path",
                    remedy="Choose another, or add --overwrite.",
                )

    def publish(self) -> None:
        """Give the files their names and remove the folder; may be done again.

        Raises:
            StoreError: The disk fails.
        """
        with translated(self.folder):
            for table, target in self._targets.items():
                if self.path(table).exists() or not target.exists():
                    self._disk.rename(self.path(table), target)
            shutil.rmtree(self.folder)


def identity_of(status: os.stat_result) -> tuple[int, int]:
    """Return what stays the same as long as a file is the same, whatever its name."""
    return status.st_dev, status.st_ino


def check_same(path: Path, identity: tuple[int, int]) -> None:
    """See that a file that is written to still stands under its name.

    Raises:
        StoreError: It was removed or replaced: what is written would be lost.
    """
    try:
        found = identity_of(path.stat())
    except FileNotFoundError:
        found = None
    if found != identity:
        raise StoreError(
            "was removed or replaced while it was written",
            where=str(path),
            expected="a file that nobody else touches",
            remedy="Start over: give the same command with --fresh.",
        )


@contextlib.contextmanager
def transaction(connection: Any) -> Iterator[None]:
    """Commit what happens inside, or roll it back."""
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(Exception):
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def translated(path: Path, *more: type[Exception]) -> Iterator[None]:
    """Turn errors of the file system and of databases into a `StoreError`.

    Args:
        path: What is written.
        more: Further errors that a database raises.
    """
    kinds: tuple[type[Exception], ...] = (OSError, sqlite3.Error, *more)
    try:
        yield
    except StoreError:
        raise
    except kinds as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StoreError(
            f"cannot write: {reason}",
            where=str(path),
            expected="a disk with room that nobody else writes to",
            remedy="Set it right and give the same command again: it goes on where it stopped.",
        ) from error
