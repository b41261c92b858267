"""What a row costs in the outbox: time, bytes on the disk, and bytes written in a day.

Rows are those of four sensors with a time: decimals of two places that wander, ten in
a second. Commits are synced, as on a device.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import numpy as np
from results import Ratio, Row

from edge_runtime.clock import SystemClock
from edge_runtime.config import OutboxConfig
from edge_runtime.sync.outbox import Batch, Outbox
from edge_runtime.types import Table

__all__ = ["PARTS"]

_GROUP_ROWS = 200
_BYTES_BAR, _APPEND_BAR_US = 8.0, 5.0
_SNAPSHOT = bytes(range(256)) * 4
_DAY_COMMITS = 4 * 86_400
_SENSORS = ("temperature", "pressure", "humidity", "current")


def append(*, rounds: int) -> list[Row]:
    """A group commit of 200 rows."""
    rows = sensors(_GROUP_ROWS * 20)
    with outbox() as (opened, _):
        taken = [_committed(opened, group) for group in groups(rows) for _ in range(rounds // 20)]
    cpu_us, wall_us = (
        statistics.median(each) / _GROUP_ROWS * 1e6 for each in zip(*taken, strict=True)
    )
    peers = {"wall us": wall_us, "rows a commit": _GROUP_ROWS}
    return [Row.of("outbox_append_us_per_row", cpu_us, "us", bar=_APPEND_BAR_US, peers=peers)]


def size(*, rounds: int) -> list[Row]:
    """The file after a few hundred group commits, against the same rows as JSON lines."""
    rows = sensors(_GROUP_ROWS * max(100, rounds))
    with outbox() as (opened, path):
        for group in groups(rows):
            _committed(opened, group)
        opened.end()
        file_bytes = path.stat().st_size
    ours, lines = file_bytes / len(rows), _json_bytes(rows) / len(rows)
    raw = sum(column.nbytes for column in rows.columns.values()) / len(rows)
    return [
        Row.of(
            "outbox_bytes_per_row",
            ours,
            "bytes",
            bar=_BYTES_BAR,
            peers={"JSON lines": lines, "raw": raw, "rows a commit": _GROUP_ROWS},
            ratios=[Ratio("over JSON lines", ours / lines, at_most=0.15)],
        )
    ]


def wear(*, rounds: int) -> list[Row]:
    """Four commits a second of three rows each, acknowledged every second, for a day."""
    rows = sensors(3 * max(400, 4 * rounds))
    with outbox() as (opened, _):
        before = _kernel_bytes()
        for number, group in enumerate(groups(rows, 3), start=1):
            _committed(opened, group)
            if number % 4 == 0:
                opened.acknowledge({(1, 1, "pump"): 3 * number})
        opened.end()
        kernel = _kernel_bytes() - before
        counted = opened.stats().written_bytes
    day = _DAY_COMMITS / number
    peers = {"counted by the kernel": kernel * day, "rows": 3.0 * _DAY_COMMITS}
    return [Row.of("outbox_wear_bytes_per_day", counted * day, "bytes", bar=None, peers=peers)]


PARTS = {
    "outbox_append_us_per_row": append,
    "outbox_bytes_per_row": size,
    "outbox_wear_bytes_per_day": wear,
}


def sensors(n: int) -> Table:
    """Return rows of four sensors, float64 of two decimal places, and their times."""
    noise = np.random.default_rng(4)
    walks = {name: noise.normal(0, 0.02, n).cumsum().round(2) + 20.0 for name in _SENSORS}
    times = 1_700_000_000_000_000_000 + np.arange(n) * 100_000_000
    return Table({"end_ns": times, **{name: walk.round(2) for name, walk in walks.items()}})


def groups(rows: Table, n: int = _GROUP_ROWS) -> Iterator[Table]:
    """Cut rows into the groups of commits."""
    for first in range(0, len(rows), n):
        yield rows.rows(first, first + n)


@contextmanager
def outbox() -> Iterator[tuple[Outbox, Path]]:
    """Open an outbox on the disk that this folder is on."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        path = Path(folder) / "outbox.db"
        opened = Outbox.open(
            path,
            epoch=1,
            incarnation=1,
            config=OutboxConfig(ballast_mb=0),
            clock=SystemClock(),
        )
        with closing(opened):
            opened.begin()
            yield opened, path


def _committed(opened: Outbox, rows: Table) -> tuple[float, float]:
    """Commit rows; return processor and wall time in seconds."""
    start, cpu = time.perf_counter(), time.process_time()
    batches = [Batch("pump", "estimate", rows)]
    opened.commit(source="pump", position=0, snapshot=_SNAPSHOT, base="", batches=batches)
    return time.process_time() - cpu, time.perf_counter() - start


def _json_bytes(rows: Table) -> int:
    names = tuple(rows.columns)
    columns = [column.tolist() for column in rows.columns.values()]
    lines = zip(*columns, strict=True)
    return sum(len(msgspec.json.encode(dict(zip(names, line, strict=True)))) + 1 for line in lines)


def _kernel_bytes() -> int:
    text = Path("/proc/self/io").read_text()
    return int(dict(line.split(": ") for line in text.splitlines())["write_bytes"])
