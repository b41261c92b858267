"""Frames that follow each other, as one: the same samples in fewer calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from edge_runtime.quality import joined_masks
from edge_runtime.types import Frame

__all__ = ["follows", "joined", "joined_many"]

_MANY_SAMPLES = 8192


def follows(frame: Frame, before: Frame) -> bool:
    """Tell whether a frame goes on where the one before ended, and is of its kind."""
    return (
        frame.index == before.index + len(before)
        and frame.stream == before.stream
        and frame.samples.dtype == before.samples.dtype
        and frame.samples.shape[1] == before.samples.shape[1]
        and frame.clock == before.clock
        and frame.keys is None
        and before.keys is None
    )


def joined(frames: Sequence[Frame]) -> Frame:
    """Return one frame of the samples of several, each of which follows the one before.

    Args:
        frames: At least one; a single one is returned as it is.
    """
    if len(frames) == 1:
        return frames[0]
    return Frame(
        stream=frames[0].stream,
        index=frames[0].index,
        time_ns=np.concatenate([frame.time_ns for frame in frames]),
        samples=np.concatenate([frame.samples for frame in frames]),
        clock=frames[0].clock,
        quality=joined_masks((frame.quality, len(frame)) for frame in frames),
    )


def joined_many(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Join any number of frames into larger ones, where they follow each other."""
    waiting: list[Frame] = []
    count = 0
    for frame in frames:
        if waiting and (count >= _MANY_SAMPLES or not follows(frame, waiting[-1])):
            yield joined(waiting)
            waiting, count = [], 0
        waiting.append(frame)
        count += len(frame)
    if waiting:
        yield joined(waiting)
