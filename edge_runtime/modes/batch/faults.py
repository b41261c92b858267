"""What goes wrong while an output is written, said in one way."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.errors import StoreError

__all__ = ["check_same", "identity_of", "transaction", "translated"]


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
            remedy="Set it right and give the same command again: it goes on where it stopped. "
            "If the file is damaged, start over with --fresh.",
        ) from error
