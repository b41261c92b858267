"""Outputs of batch mode, by suffix: complete under their name, or not there at all.

| suffix | grows as | manifest |
|---|---|---|
| ``.parquet``, ``.csv`` | a file in ``OUT.parts``, only appended to | ``OUT.parts/manifest.db`` |
| ``.sqlite``, ``.db``, ``.duckdb`` | a database in ``OUT.parts`` | tables in that database |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from edge_runtime.errors import ConfigError
from edge_runtime.modes.batch.disk import Disk
from edge_runtime.modes.batch.job import BatchJob, Schema
from edge_runtime.modes.batch.manifest import Manifest, Position
from edge_runtime.modes.batch.outputs.codecs import CsvCodec, ParquetCodec
from edge_runtime.modes.batch.outputs.databases import DatabaseOutput
from edge_runtime.modes.batch.outputs.duckdb import DuckDb
from edge_runtime.modes.batch.outputs.files import FileOutput
from edge_runtime.modes.batch.outputs.sqlite import Sqlite
from edge_runtime.modes.batch.outputs.workspace import Workspace
from edge_runtime.types import Table

__all__ = ["Output", "Workspace", "check_output", "make_output", "targets_of"]

_FILES = (".csv", ".parquet", ".pq")
_DATABASES = (".db", ".duckdb", ".sqlite")


class Output(Protocol):
    """An output that grows part by part; used by one thread, but for `prepare`.

    Delivery: what was appended is there exactly once after the next `commit`,
    and not at all if the process dies before it.
    """

    def open(self) -> Manifest:
        """Open what is there, or make it; nobody else may have it open."""
        ...

    def begin(self, manifest: Manifest, facts: Mapping[str, str]) -> None:
        """Start a new job."""
        ...

    def resume(self, position: Position) -> None:
        """Go on at a position that was committed."""
        ...

    def prepare(self, table: str, rows: Table) -> Any:
        """Put rows into the form that `append` takes; pure, any thread."""
        ...

    def append(self, table: str, prepared: Any) -> None:
        """Add rows."""
        ...

    def commit(self, manifest: Manifest, position: Position) -> Position:
        """Make all rows durable, together with the position they lead to."""
        ...

    def seal(self, manifest: Manifest) -> None:
        """Complete it; no rows come any more."""
        ...

    def close(self) -> None:
        """Release everything; safe to call twice."""
        ...


def check_output(path: Path) -> str:
    """Return the suffix of an output.

    Raises:
        ConfigError: It is unknown, or there is no such folder.
    """
    suffix = path.suffix.lower()
    if suffix not in (*_FILES, *_DATABASES):
        raise ConfigError(
            f"the suffix is {path.suffix!r}",
            where=str(path),
            expected=f"one of {', '.join((*_FILES, *_DATABASES))}",
            remedy="The suffix chooses the kind of output.",
        )
    if not path.parent.is_dir():
        raise ConfigError(
            "there is no such folder",
            where=str(path.parent),
            expected="the folder of the output",
            remedy="Make it first.",
        )
    return suffix


def targets_of(job: BatchJob) -> dict[str, Path]:
    """Return the files to make, by table; a database is one file for all.

    Raises:
        ConfigError: The input is one of them.
    """
    path = job.output
    targets = {"estimates": path}
    if job.has_decisions and check_output(path) in _FILES:
        targets["decisions"] = path.with_suffix(f".decisions{path.suffix}")
    if job.input.resolve() in [target.resolve() for target in targets.values()]:
        raise ConfigError(
            "the output is the input",
            where=str(path),
            expected="another file",
            remedy="Choose another output; the input would be lost.",
        )
    return targets


def make_output(
    path: Path,
    workspace: Workspace,
    schemas: Mapping[str, Schema],
    facts: Mapping[str, str],
    disk: Disk,
) -> Output:
    """Choose the kind of output by its suffix.

    Raises:
        ConfigError: The suffix is unknown.
        MissingExtra: A package for it is not installed.
    """
    suffix = check_output(path)
    if suffix in _DATABASES:
        dialect = DuckDb() if suffix == ".duckdb" else Sqlite()
        return DatabaseOutput(workspace, schemas, dialect)
    codec = CsvCodec() if suffix == ".csv" else ParquetCodec(facts)
    return FileOutput(workspace, schemas, codec, disk)
