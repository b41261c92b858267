"""From frames of many devices to frames of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edge_runtime.quality import joined_masks, masks_or_none
from edge_runtime.types import Frame

__all__ = ["LONGEST_KEY", "split"]

LONGEST_KEY = 255
"""Characters of a key; whatever is longer is none."""


def split(frames: Sequence[Frame]) -> Iterator[tuple[str | None, Frame]]:
    """Yield the samples of each device, in the order in which devices and samples come.

    Args:
        frames: Of one stream, one sample type and as many channels; at least one.

    Yields:
        The key and its samples as one frame, whose index means nothing; None for samples
        that are of no device.
    """
    keys = np.concatenate([_keys_of(frame) for frame in frames])
    time_ns = np.concatenate([frame.time_ns for frame in frames])
    samples = np.concatenate([frame.samples for frame in frames])
    quality = joined_masks((frame.quality, len(frame)) for frame in frames)
    for key, rows in _rows_by_key(keys).items():
        masks = None if quality is None else masks_or_none(quality[rows])
        yield key, Frame(frames[0].stream, 0, time_ns[rows], samples[rows], quality=masks)


def _keys_of(frame: Frame) -> np.ndarray:
    return np.full(len(frame), None) if frame.keys is None else frame.keys


def _rows_by_key(keys: np.ndarray) -> dict[str | None, list[int]]:
    found: dict[str | None, list[int]] = {}
    for row, key in enumerate(keys.tolist()):
        is_key = key is not None and 0 < len(key) <= LONGEST_KEY
        found.setdefault(key if is_key else None, []).append(row)
    return found
