"""Outputs that are files: parts are appended, and the manifest says how long they are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from edge_runtime.errors import StoreError
from edge_runtime.modes.batch.disk import Disk
from edge_runtime.modes.batch.faults import check_same, identity_of, transaction, translated
from edge_runtime.modes.batch.footer import Part
from edge_runtime.modes.batch.job import Schema
from edge_runtime.modes.batch.manifest import Manifest, Position
from edge_runtime.modes.batch.outputs.codecs import Codec
from edge_runtime.modes.batch.outputs.sqlite import open_sqlite
from edge_runtime.modes.batch.outputs.workspace import Workspace
from edge_runtime.types import Table

__all__ = ["FileOutput"]


class FileOutput:
    """Files of one kind, one for each table. See `Output`.

    What a crash leaves behind the length in the manifest is cut off at the next start.

    Args:
        workspace: Where they grow.
        schemas: Columns of each table.
        codec: The format.
        disk: The file system.
    """

    def __init__(
        self, workspace: Workspace, schemas: Mapping[str, Schema], codec: Codec, disk: Disk
    ) -> None:
        self._workspace = workspace
        self._schemas = schemas
        self._codec = codec
        self._disk = disk
        self._files: dict[str, _Growing] = {}
        self._connection: Any = None
        self._parts: list[tuple[str, int, bytes]] = []

    def open(self) -> Manifest:
        """Open the manifest; the folder is this process's until `close`."""
        path = self._workspace.folder / "manifest.db"
        with translated(path):
            self._connection = open_sqlite(path)
        return Manifest(self._connection, path)

    def begin(self, manifest: Manifest, facts: Mapping[str, str]) -> None:
        """Note what the job is."""
        with translated(self._workspace.folder), transaction(self._connection):
            manifest.begin(facts)

    def resume(self, position: Position) -> None:
        """Open the files and cut off what is not in the manifest."""
        for table, schema in self._schemas.items():
            file = _Growing(self._workspace.path(table), self._disk)
            self._files[table] = file
            length = position.lengths.get(table, 0)
            file.cut(length)
            if length == 0:
                file.append(self._codec.head(schema))

    def prepare(self, table: str, rows: Table) -> Part:
        """Encode rows; any thread."""
        return self._codec.encode(rows, self._schemas[table])

    def append(self, table: str, prepared: Part) -> None:
        """Write encoded rows; not durable before `commit`."""
        file = self._files[table]
        self._parts.append((table, file.length, prepared.footer))
        file.append(prepared.pages)

    def commit(self, manifest: Manifest, position: Position) -> Position:
        """Make everything appended durable, then the position that says so."""
        for file in self._files.values():
            file.sync()
        lengths = {table: file.length for table, file in self._files.items()}
        durable = msgspec.structs.replace(position, lengths=lengths)
        with translated(self._workspace.folder), transaction(self._connection):
            for part in self._parts:
                manifest.add_part(*part)
            manifest.save(durable)
        self._parts = []
        return durable

    def seal(self, manifest: Manifest) -> None:
        """Complete the files; only their names are missing then."""
        for table, file in self._files.items():
            file.append(self._codec.tail(self._schemas[table], manifest.parts(table)))
            file.sync()
        with translated(self._workspace.folder), transaction(self._connection):
            manifest.seal()

    def close(self) -> None:
        """Release files and manifest; safe to call twice."""
        for file in self._files.values():
            file.close()
        if self._connection is not None:
            self._connection.close()


class _Growing:
    """A file that only grows, but for what a crash left at its end."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self.length = 0
        with translated(path):
            self._file: BinaryIO = disk.open(path)
            disk.sync_folder(path.parent)

    def cut(self, length: int) -> None:
        """Go on at ``length``."""
        with translated(self._path):
            found = self._file.seek(0, 2)
            if found < length:
                raise StoreError(
                    f"has {found} bytes",
                    where=str(self._path),
                    expected=f"at least {length}, as the manifest says",
                    remedy="It was changed by somebody else; start over with --fresh.",
                )
            self._file.truncate(length)
            self._file.seek(length)
        self.length = length

    def append(self, content: bytes) -> None:
        with translated(self._path):
            self._disk.write(self._file, content)
        self.length += len(content)

    def sync(self) -> None:
        with translated(self._path):
            self._disk.sync(self._file)
            check_same(self._path, identity_of(os.fstat(self._file.fileno())))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
