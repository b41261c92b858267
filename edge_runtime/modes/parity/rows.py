"""The rows that every mode is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_runtime.bundle import Bundle
from edge_runtime.errors import SourceError
from edge_runtime.modes.batch import BatchJob
from edge_runtime.modes.batch.readers import open_reader
from edge_runtime.modes.batch.readers.block import grid_of
from edge_runtime.types import Frame

__all__ = ["SAMPLES", "TIMES", "Rows", "golden_rows", "read_rows"]

SAMPLES, TIMES = "samples", "time_ns"
"""Arrays of the archive that `Rows.save` writes."""

_READ_ROWS = 8192
_GOLDEN_WINDOWS = 50


class Rows(msgspec.Struct, frozen=True, eq=False):
    """Samples and their times.

    Attributes:
        samples: Shape (n, channels).
        time_ns: Shape (n,), int64.
    """

    samples: np.ndarray
    time_ns: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)

    def frame(self, first: int, last: int, stream: str = "main") -> Frame:
        """Return rows ``first`` to ``last`` (exclusive) as one frame."""
        return Frame(stream, first, self.time_ns[first:last], self.samples[first:last])

    def frames(self, bounds: np.ndarray) -> Iterator[Frame]:
        """Return the frames between ascending bounds."""
        return (
            self.frame(a, b) for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        )

    def save(self, path: Path) -> None:
        """Write them as an ``.npz`` archive."""
        arrays: dict[str, Any] = {SAMPLES: self.samples, TIMES: self.time_ns}
        np.savez(path, **arrays)


def read_rows(job: BatchJob, bundle: Bundle, limit: int) -> Rows:
    """Read the first rows of a file, as batch mode does.

    Args:
        job: Names the file and its columns; its output is not used.
        bundle: Whose channels are needed.
        limit: Most rows.

    Raises:
        ConfigError: Columns do not fit.
        SourceError: The file cannot be read, or holds no row.
    """
    need = bundle.spec.stream
    samples: list[np.ndarray] = []
    times: list[np.ndarray] = []
    count = 0
    with closing(open_reader(job, need)) as reader:
        for block in reader.blocks(0, _READ_ROWS):
            samples.append(block.samples[: limit - count])
            if block.time_ns is not None:
                times.append(block.time_ns[: limit - count])
            count += len(samples[-1])
            if count >= limit:
                break
    if not count:
        raise SourceError(
            "holds no row", where=str(job.input), expected="rows", remedy="Name another file."
        )
    joined = np.concatenate(samples)
    return Rows(joined, np.concatenate(times) if times else grid_of(need).grid(count))


def golden_rows(bundle: Bundle, limit: int) -> Rows:
    """Return the bundle's golden windows, one after the other and again, as rows.

    Raises:
        BundleError: The golden vectors are unsound.
    """
    windows = bundle.golden().inputs
    once = windows.reshape(-1, windows.shape[-1])
    window = bundle.spec.window
    wanted = min(limit, max(len(once), window.length + _GOLDEN_WINDOWS * window.hop))
    samples = np.resize(once, (wanted, once.shape[1]))
    return Rows(samples, grid_of(bundle.spec.stream).grid(wanted))
