"""Where an output grows until it is complete: a folder beside it, then one rename."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from edge_runtime.errors import ConfigError
from edge_runtime.modes.batch.disk import Disk
from edge_runtime.modes.batch.faults import translated

__all__ = ["Workspace"]


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

    def check_free(self, *, may_overwrite: bool, is_sealed: bool = False) -> None:
        """See that no finished output is in the way.

        Args:
            may_overwrite: Whether one may be replaced.
            is_sealed: Whether some files may have got their names already.

        Raises:
            ConfigError: There is one, and it may not be overwritten.
        """
        for table, target in self._targets.items():
            is_named = is_sealed and not self.path(table).exists()
            if target.is_dir() or (target.exists() and not may_overwrite and not is_named):
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
