"""Windows that devices have uploaded, to calibrate and prove new weights with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edge_cloud.jobs import Jobs
from edge_cloud.registry import Registry
from edge_cloud.segments import read_segment
from edge_cloud.store import Store
from edge_runtime.spec import ModelSpec

__all__ = ["LEAST_WINDOWS", "stored_windows"]

LEAST_WINDOWS = 64
"""Below it ranges are not sound: the base's golden windows are taken instead."""

_MOST_WINDOWS = 256
_COLUMNS = ("inputs",)


def stored_windows(
    store: Store, registry: Registry, jobs: Jobs, spec: ModelSpec
) -> np.ndarray | None:
    """Return the newest windows of all streams that run a model line, spread over the streams.

    Args:
        store: Rows.
        registry: Knows which line a device's base is of.
        jobs: Know what devices run.
        spec: Of the base; uploaded features are no windows and do not count.

    Returns:
        Shape (n, length, channels), n from `LEAST_WINDOWS` to 256; None where there are fewer.
    """
    streams = [
        (life.device, stream)
        for life in jobs.lives()
        for stream, base in life.base.items()
        if registry.line(base) == spec.name
    ]
    if not streams:
        return None
    share = -(-_MOST_WINDOWS // len(streams))
    found = [part for one in streams for part in _newest(store, *one, spec, share)]
    if sum(map(len, found)) < LEAST_WINDOWS:
        return None
    windows: np.ndarray = np.concatenate(found)[:_MOST_WINDOWS]
    return windows


def _newest(
    store: Store, device: str, stream: str, spec: ModelSpec, most: int
) -> Iterator[np.ndarray]:
    """Yield windows of one stream, newest first, up to a number."""
    shape = spec.window.length, len(spec.stream.channels)
    for segment in reversed(store.segments(device, stream, "estimate")):
        inputs = read_segment(segment.path, _COLUMNS).columns.get("inputs")
        if inputs is None or inputs.shape[1:] != shape:
            continue
        yield inputs[-most:]
        most -= min(most, len(inputs))
        if not most:
            return
