"""What a device keeps on its tapes: who it is, how its streams stand, where bundles lie."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.config import DeviceConfig, RecordConfig, RingConfig
from edge_runtime.modes.serving import Serving
from edge_runtime.pipeline import AnyPipeline, TimedPipeline
from edge_runtime.ports import Choice, Clock
from edge_runtime.tape import Change, Limits, Origin, Recorder, Ring, Standing
from edge_runtime.tape.entries import VERSION

__all__ = ["open_recorder", "standing_of"]

_MB = 1 << 20


def standing_of(pipeline: AnyPipeline, position: int, change: Change, choice: Choice) -> Standing:
    """Say how a pipeline stands before sample ``position``, right after a change."""
    spec = pipeline.spec
    timed = pipeline if isinstance(pipeline, TimedPipeline) else None
    return Standing(
        position,
        timed.next_index if timed else position,
        pipeline.base,
        f"{spec.name}@{spec.version}",
        choice,
        tuple(layer.encode() for layer in pipeline.layers),
        pipeline.snapshot(),
        timed.timing if timed else None,
        change,
    )


def open_recorder(
    config: DeviceConfig, serving: Serving, *, epoch: int, incarnation: int, clock: Clock
) -> Recorder | None:
    """Return what records a stream from here on; None if its frames are not kept."""
    name = serving.pipeline.stream
    ring, standing = config.ring(name), serving.standing()
    if ring is None or standing is None:
        return None
    bundles = (config.streams[name].model.bundle, Path(config.state) / "slots" / name)
    places = tuple(str(place.absolute()) for place in bundles)
    origin = Origin(VERSION, config.device, name, epoch, incarnation, places, clock.now_ns())
    limits = _limits(ring, config)
    return Recorder(Ring(config.recording / name, limits, clock), origin, standing)


def _limits(ring: RingConfig, config: DeviceConfig) -> Limits:
    free_mb = (config.record or RecordConfig()).keep_free_mb
    return Limits(ring.quota_mb * _MB, ring.max_age_s, free_mb * _MB)
