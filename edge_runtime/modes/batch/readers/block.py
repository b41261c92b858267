"""What readers give: blocks of consecutive rows, and the port they fit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Protocol

import msgspec
import numpy as np

from edge_runtime.modes.batch.job import BatchJob, Schema
from edge_runtime.sources.instants import TimeConfig
from edge_runtime.spec import StreamSpec

__all__ = ["Block", "Reader", "as_kept_dtype", "grid_of", "time_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Block(msgspec.Struct, frozen=True, eq=False):
    """Consecutive rows of the input.

    Attributes:
        samples: Shape (n, channels), channels as the model needs them; one dtype
            for the whole input, float32 for every kind of float.
        time_ns: Event times, shape (n,), int64; None without a time column.
        kept: Columns to pass through, each of shape (n,); object arrays hold
            text and None.
        share: Share of the input that lies behind this block, 0 to 1.
    """

    samples: np.ndarray
    time_ns: np.ndarray | None
    kept: dict[str, np.ndarray]
    share: float

    def __len__(self) -> int:
        return len(self.samples)


class Reader(Protocol):
    """An open input file; used by one thread.

    Attributes:
        rows: Rows in the file; None where only reading to the end tells.
        kept: Columns to pass through and their types.
    """

    rows: int | None
    kept: Schema

    def blocks(self, first: int, rows: int) -> Iterator[Block]:
        """Yield all rows from row ``first`` on, best about ``rows`` at a time.

        Raises:
            SourceError: The file is damaged or holds something else.
        """
        ...

    def close(self) -> None:
        """Release the file; safe to call twice."""
        ...


def time_of(job: BatchJob, need: StreamSpec) -> TimeConfig:
    """Return where times come from: the time column, or the model's rate."""
    if job.time is None:
        return grid_of(need)
    return TimeConfig(column=job.time, format=job.time_format)


def grid_of(need: StreamSpec) -> TimeConfig:
    """Return the times of rows that have none: the model's rate, from 1970 on."""
    return TimeConfig(start=_EPOCH, step_s=1 / need.rate_hz)


def as_kept_dtype(samples: np.ndarray) -> np.ndarray:
    """Return floats as float32, as every window has them; other numbers as they are."""
    with np.errstate(over="ignore"):  # Too large is infinite, and counted as such.
        return samples.astype(np.float32, copy=False) if samples.dtype.kind == "f" else samples
