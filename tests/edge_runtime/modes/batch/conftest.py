"""A small dense network as a bundle, rows with faults, and files of every kind."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.bundle import Bundle, Golden, assemble, write_golden

CHANNELS = ("a", "b", "c")

MANIFEST = """\
name: pump
version: "1"
kind: classifier
stream: {{channels: [{{name: a}}, {{name: b}}, {{name: c}}], rate_hz: 100{grid}}}
window: {{length: {length}, hop: {hop}}}
artefacts: [{{backend: reference, file: model.npz, precision: float32}}]
labels: [ok, worn]
output: {{activation: softmax}}
smoothing: {{windows: 2}}
limits: [{{label: worn, on: 0.6, off: 0.4}}]
"""

Rows = dict[str, np.ndarray]


def bundle_of(length: int = 1, hop: int = 1, grid: str = "") -> Bundle:
    """Make a bundle whose windows have ``length`` rows of three channels."""
    random = np.random.default_rng(5)
    size = length * len(CHANNELS)
    model = io.BytesIO()
    np.savez(
        model,
        w0=random.normal(size=(size, 8)).astype("f4"),
        b0=random.normal(size=8).astype("f4"),
        w1=random.normal(size=(8, 2)).astype("f4"),
        b1=random.normal(size=2).astype("f4"),
    )
    inputs = random.normal(size=(4, length, len(CHANNELS))).astype("f4")
    files = {
        "bundle.yaml": MANIFEST.format(
            length=length, hop=hop, grid=f", grid: {grid}" if grid else ""
        ).encode(),
        "model.npz": model.getvalue(),
        "golden.npz": write_golden(Golden(inputs, np.full((4, 2), 0.5))),
    }
    return assemble(files, "bundle")


def rows_of(count: int = 300, *, is_clean: bool = False) -> Rows:
    """Draw rows with missing values, a gap and late rows."""
    random = np.random.default_rng(count)
    rows = {name: random.normal(size=count) for name in CHANNELS}
    steps = np.full(count, 10_000_000)
    if not is_clean:
        rows["b"][[count // 7, count // 2]] = np.nan
        rows["c"][count // 3] = np.inf
        steps[count // 5] = 90_000_000
        steps[count // 4] = -5_000_000
    rows["t"] = 1_700_000_000_000_000_000 + np.cumsum(steps)
    rows["machine"] = np.array([f"m{i % 7}" for i in range(count)])
    return rows


def write_rows(path: Path, rows: Rows) -> Path:
    """Write the rows in the format that the suffix names."""
    match path.suffix:
        case ".csv":
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(rows)
                writer.writerows(zip(*(column.tolist() for column in rows.values()), strict=True))
        case ".jsonl":
            lines = zip(*(column.tolist() for column in rows.values()), strict=True)
            text = [
                json.dumps(
                    {n: v for n, v in zip(rows, line, strict=True) if v == v and v != np.inf}
                )
                for line in lines
            ]
            path.write_text("\n".join(text) + "\n")
        case ".npz":
            np.savez(path, **rows)
        case ".parquet":
            import pyarrow as pa
            from pyarrow import parquet

            parquet.write_table(pa.table(dict(rows)), path, row_group_size=70)
    return path


def read_table(path: Path, table: str = "estimates") -> dict[str, list[Any]]:
    """Read an output of any kind as lists."""
    match path.suffix:
        case ".csv":
            with path.open(newline="") as file:
                header, *lines = csv.reader(file)
            return {
                name: [_value(line[place]) for line in lines] for place, name in enumerate(header)
            }
        case ".parquet":
            from pyarrow import parquet

            found: dict[str, list[Any]] = parquet.ParquetFile(path).read().to_pydict()
            return found
        case ".duckdb":
            import duckdb

            connection: Any = duckdb.connect(str(path), read_only=True)
        case _:
            connection = sqlite3.connect(path)
    cursor = connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")
    names = [entry[0] for entry in cursor.description]
    lines = cursor.fetchall()
    connection.close()
    return {name: [line[place] for line in lines] for place, name in enumerate(names)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text or None


@pytest.fixture
def make_bundle() -> Callable[..., Bundle]:
    """Give `bundle_of`."""
    return bundle_of


@pytest.fixture
def make_rows() -> Callable[..., Rows]:
    """Give `rows_of`."""
    return rows_of


@pytest.fixture
def write() -> Callable[[Path, Rows], Path]:
    """Give `write_rows`."""
    return write_rows


@pytest.fixture
def read() -> Callable[..., dict[str, list[Any]]]:
    """Give `read_table`."""
    return read_table
