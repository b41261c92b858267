"""What a device is doing right now, for whoever asks."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from edge_runtime.modes.serving import Serving
from edge_runtime.ports import SourceHealth
from edge_runtime.quality import names_of_mask

__all__ = ["DeviceStatus", "Made", "StreamStatus", "stream_status"]


class StreamStatus(msgspec.Struct):
    """One stream right now.

    Attributes:
        position: Index of the next sample to read.
        base: Digest of the live base.
        effective_id: Identity of base and layers.
        layers_made_ns: Event time up to which the live layers know; None without layers.
        estimates: Windows scored since start.
        decisions: Decisions made since start.
        discarded: Samples and windows that gave no result, by reason.
        withheld: Windows that were too uncertain to start or end a label, by label.
        stages: Windows of a cascade since start, by the stage that answered them.
        restarts: Times the source failed and was opened again.
        suspect: Windows scored since start with something suspect, by what it is.
        source: What a live source has noticed: losses, jitter, faults of the sensor.
    """

    position: int = 0
    base: str = ""
    effective_id: str = ""
    layers_made_ns: int | None = None
    estimates: int = 0
    decisions: int = 0
    discarded: dict[str, int] = {}
    withheld: dict[str, int] = {}
    stages: dict[str, int] = {}
    restarts: int = 0
    suspect: dict[str, int] = {}
    source: SourceHealth = SourceHealth()


class DeviceStatus(msgspec.Struct):
    """The whole device right now.

    Attributes:
        device: Its id.
        streams: By name.
        backlog_rows: Rows in the outbox that the cloud has not acknowledged.
        is_connected: Whether the link to the broker is up.
        counters: Everything the link and the writer count.
    """

    device: str
    streams: dict[str, StreamStatus]
    backlog_rows: int
    is_connected: bool
    counters: dict[str, int]


class Made(msgspec.Struct):
    """What one stream has made since start.

    Attributes:
        frames: That the source delivered.
        estimates: Windows scored.
        decisions: Decisions made.
        restarts: Times the source failed and was opened again.
        suspect: Windows scored with something suspect, by what it is.
        health: Asks the source what it has noticed; a recording notices nothing.
    """

    frames: int = 0
    estimates: int = 0
    decisions: int = 0
    restarts: int = 0
    suspect: dict[str, int] = {}
    health: Callable[[], SourceHealth] = SourceHealth

    def note_suspect(self, masks: np.ndarray) -> None:
        """Count the windows of a block that have something suspect, shape (n,)."""
        found, counts = np.unique(masks, return_counts=True)
        # A new dictionary, so that a reader on another thread always sees a whole one.
        suspect = dict(self.suspect)
        for mask, count in zip(found.tolist(), counts.tolist(), strict=True):
            for name in names_of_mask(mask):
                suspect[name] = suspect.get(name, 0) + count
        self.suspect = suspect


def stream_status(made: Made, serving: Serving | None, lost: dict[str, int]) -> StreamStatus:
    """Return what a stream is doing.

    Args:
        made: Since start.
        serving: None before it is booted.
        lost: What gave no result for want of a model, by reason.
    """
    counts = {**msgspec.structs.asdict(made), "source": made.health()}
    del counts["health"], counts["frames"]
    if serving is None:
        return StreamStatus(**counts)
    pipeline = serving.pipeline
    return StreamStatus(
        position=serving.position,
        base=pipeline.base,
        effective_id=pipeline.effective_id,
        layers_made_ns=max((layer.made_ns for layer in pipeline.layers), default=None),
        discarded=pipeline.discarded | lost,
        withheld=pipeline.withheld,
        stages=pipeline.answered,
        **counts,
    )
