"""Segments: rows of one device and stream in a Parquet file, durable before named.

Columns keep the names and dtypes of the rows. A column with further axes is a
fixed-size list whose shape stands in the field's metadata. Identity columns
(`IDENTITY`) are added by the store.

Small segments that come together share a file: ``x@40+10.parquet`` is not a file but
rows 40 to 50 (exclusive) of ``x.parquet``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import MissingExtra, StoreError
from edge_runtime.pipeline import with_quality
from edge_runtime.types import Table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "IDENTITY",
    "concatenate",
    "encode_segment",
    "file_of",
    "read_segment",
    "shared_part",
    "sync_folders",
    "write_durably",
]

IDENTITY = ("device", "incarnation", "epoch", "seq", "_received_ns")
"""Columns that the store adds to every row."""

_SHAPE = b"shape"
_DEFAULTS: dict[str, np.generic] = {"revision": np.int64(0), "is_retracted": np.bool_(False)}
"""Columns that rows may lack, and what their absence means."""


def encode_segment(table: Table) -> bytes:
    """Return the Parquet file of ``table``, zstd-compressed.

    Raises:
        MissingExtra: ``pyarrow`` is not installed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(
        to_arrow(table),
        sink,
        compression="zstd",
        use_dictionary=[name for name, column in table.columns.items() if column.dtype.kind == "U"],
        write_statistics=False,
    )
    return bytes(sink.getvalue())


def read_segment(path: Path, columns: Sequence[str] | None = None) -> Table:
    """Read one file; all columns, or those of ``columns`` that it has.

    Raises:
        FileNotFoundError: It is gone, such as after a compaction.
        StoreError: It is no sound segment.
    """
    pq = _parquet()
    content = file_of(path).read_bytes()
    try:
        import pyarrow as pa

        file = pq.ParquetFile(pa.BufferReader(content))
        names = file.schema_arrow.names
        wanted = names if columns is None else [name for name in columns if name in names]
        whole = file.read(wanted, use_threads=False)
        return from_arrow(whole.slice(*_span(path, whole.num_rows)))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"the segment cannot be read: {error}",
            where=str(path),
            expected="a Parquet file that the store wrote",
            remedy="Restore it from a backup.",
        ) from error


def shared_part(file: Path, first: int, n: int) -> Path:
    """Name ``n`` rows of a file that several segments share."""
    return file.with_name(f"{file.stem}@{first}+{n}.parquet")


def file_of(path: Path) -> Path:
    """Return the file in which a segment lies."""
    file, is_part, _ = path.stem.partition("@")
    return path.with_name(f"{file}.parquet") if is_part else path


def _span(path: Path, rows: int) -> tuple[int, int]:
    """Return the first row of a segment in its file, and how many there are."""
    _, is_part, span = path.stem.partition("@")
    if not is_part:
        return 0, rows
    first, _, n = span.partition("+")
    return int(first), int(n)


def to_arrow(table: Table) -> pa.Table:
    """Return the same rows as an Arrow table."""
    import pyarrow as pa

    fields, arrays = [], []
    for name, column in table.columns.items():
        array, shape = _to_array(column)
        metadata = {_SHAPE: json.dumps(shape).encode()} if shape else None
        fields.append(pa.field(name, array.type, nullable=False, metadata=metadata))
        arrays.append(array)
    return pa.table(arrays, schema=pa.schema(fields))


def from_arrow(table: pa.Table) -> Table:
    """Return the rows of an Arrow table that `to_arrow` made."""
    columns = {}
    for field in table.schema:
        columns[field.name] = _from_array(table.column(field.name), field)
    return Table(columns)


def concatenate(tables: Sequence[Table], columns: Sequence[str] | None = None) -> Table:
    """Join rows of several segments.

    Segments in which nothing is suspect have no ``quality``: it is 0 there.

    Args:
        tables: At least one.
        columns: Which; None takes those that every table has in one shape.

    Raises:
        StoreError: A named column is missing in a table or has several shapes.
    """
    tables = with_quality(_completed(tables), is_wanted="quality" in (columns or ()))
    if columns is None:
        names = [name for name in tables[0].columns if _is_in_all(name, tables)]
    else:
        names = list(columns)
        for name in names:
            if not _is_in_all(name, tables):
                raise StoreError(
                    f"column {name!r} is not the same in all {len(tables)} segments",
                    expected="a column that every row of the range has, in one shape",
                    remedy="Ask for a shorter range or for other columns.",
                )
    return Table({name: np.concatenate([t.columns[name] for t in tables]) for name in names})


def write_durably(files: Iterable[tuple[Path, bytes]]) -> None:
    """Write files so that each is whole under its name and survives a power cut.

    Temporary file, fsync, rename, then one fsync per folder. On failure none
    of the temporary files stays.

    Raises:
        StoreError: The disk is full or not writable.
    """
    written: list[tuple[Path, Path]] = []
    try:
        for path, content in files:
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            written.append((temporary, path))
            _make_folder(path.parent)
            _write(temporary, content)
        for temporary, path in written:
            temporary.replace(path)
        sync_folders({path.parent for _, path in written})
    except OSError as error:
        for temporary, _ in written:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write: {error.strerror or error}",
            where=str(error.filename or (written[-1][1] if written else "")),
            expected="a writable disk with room",
            remedy="Free some space; devices keep their rows until then.",
        ) from error


def sync_folders(folders: Iterable[Path]) -> None:
    """Make renames and removals in these folders durable."""
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folders([folder.parent])


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _completed(tables: Sequence[Table]) -> Sequence[Table]:
    """Give all tables the columns that rows have only where they say something."""
    for name, default in _DEFAULTS.items():
        has = [name in table.columns for table in tables]
        if any(has) and not all(has):
            tables = [_with_column(table, name, default) for table in tables]
    return tables


def _with_column(table: Table, name: str, default: np.generic) -> Table:
    return Table({name: np.full(len(table), default), **table.columns})


def _is_in_all(name: str, tables: Sequence[Table]) -> bool:
    kinds = {
        (table.columns[name].dtype.kind, table.columns[name].shape[1:])
        if name in table.columns
        else None
        for table in tables
    }
    return len(kinds) == 1 and None not in kinds


def _to_array(column: np.ndarray) -> tuple[Any, tuple[int, ...]]:
    import pyarrow as pa

    flat = np.ascontiguousarray(column).reshape(-1)
    array = pa.array(flat.tolist(), pa.string()) if flat.dtype.kind == "U" else pa.array(flat)
    if column.ndim == 1:
        return array, ()
    shape = column.shape[1:]
    return pa.FixedSizeListArray.from_arrays(array, math.prod(shape)), shape


def _from_array(column: Any, field: Any) -> np.ndarray:
    array = column.combine_chunks()
    shape = json.loads((field.metadata or {}).get(_SHAPE, b"[]"))
    # A combined column may still be one chunk inside a chunked array.
    array = array.chunk(0) if hasattr(array, "chunk") else array
    flat = array.flatten() if shape else array
    if str(flat.type) == "string":
        values = np.array(flat.to_pylist(), dtype=np.str_)
    else:
        values = flat.to_numpy(zero_copy_only=False)
    return values.reshape(len(array), *shape)


def _parquet() -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra.of("the cloud's store", "pyarrow", "cloud") from error
    return pq
