"""NumPy archives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edge_runtime.errors import SourceError
from edge_runtime.modes.batch.job import BatchJob, Schema
from edge_runtime.modes.batch.readers.block import Block, as_kept_dtype, time_of
from edge_runtime.sources.columns import position
from edge_runtime.sources.npz import NpzConfig, read_npz
from edge_runtime.spec import StreamSpec

__all__ = ["NpzReader"]


class NpzReader:
    """Reads an ``.npz`` archive as a whole into memory. See `Reader`."""

    def __init__(self, job: BatchJob, need: StreamSpec) -> None:
        columns: dict[str, str | int] | None = None
        if job.array is None:
            columns = {name: job.columns.get(name, name) for name in need.names}
        config = NpzConfig(
            path=job.input, columns=columns, time=time_of(job, need), array=job.array
        )
        track = read_npz(config, need)
        self._samples = as_kept_dtype(track.samples)
        self._time_ns = None if job.time is None else track.time_ns
        self._kept = _kept(job, len(self._samples)) if job.keep else {}
        self.rows: int | None = len(self._samples)
        self.kept: Schema = {
            name: "text" if array.dtype.kind == "O" else array.dtype.name
            for name, array in self._kept.items()
        }

    def blocks(self, first: int, rows: int) -> Iterator[Block]:
        """Yield views of the arrays."""
        count = len(self._samples)
        for begin in range(first, count, rows):
            part = slice(begin, begin + rows)
            yield Block(
                self._samples[part],
                None if self._time_ns is None else self._time_ns[part],
                {name: array[part] for name, array in self._kept.items()},
                min(begin + rows, count) / count,
            )

    def close(self) -> None:
        """Nothing is open."""


def _kept(job: BatchJob, rows: int) -> dict[str, np.ndarray]:
    kept: dict[str, np.ndarray] = {}
    with np.load(job.input, allow_pickle=False) as archive:
        for name in job.keep:
            array = archive[list(archive)[position(name, list(archive), job.input)]]
            if array.shape != (rows,) or array.dtype.kind not in "biufU":
                raise SourceError(
                    f"array {name!r} is {array.dtype} of shape {array.shape}",
                    where=str(job.input),
                    expected=f"numbers or text of shape ({rows},)",
                    remedy="Leave it out of --keep.",
                )
            kept[name] = array.astype(object) if array.dtype.kind == "U" else array
    return kept
