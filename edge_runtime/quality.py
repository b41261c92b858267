"""What a source says about single samples: a few bits beside each of them.

A mask is an unsigned integer of 16 bits; 0 says that nothing is known against a
sample. A window has the bits of all its samples, and so has its result. Masks of a
block that are all 0 are left out altogether: None stands for them everywhere.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

import numpy as np

__all__ = ["MASK", "Quality", "bits_of", "joined_masks", "marked", "masks_or_none", "names_of_mask"]

MASK = np.dtype(np.uint16)
"""Dtype of masks in arrays."""

_BITS = 8 * MASK.itemsize


class Quality(enum.IntFlag):
    """What may be wrong with a sample; new bits are added at the end, none is used again.

    Attributes:
        SATURATED: A channel is at the end of its scale: the true value lies beyond.
        FROZEN: All channels have repeated their raw reading for too long.
        LOST_BEFORE: Samples that were due right before this one never came.
        FILLED: It was not measured, but put in where one was missing.
    """

    SATURATED = 1
    FROZEN = 2
    LOST_BEFORE = 4
    FILLED = 8


_NAMES = {flag.value: (flag.name or "").lower() for flag in Quality}


def names_of_mask(mask: int) -> list[str]:
    """Return the names of the bits that are set, such as ``["saturated"]``.

    A bit that this version does not know, from a newer one, is named by its place.
    """
    return [_NAMES.get(bit, f"bit_{bit.bit_length() - 1}") for bit in bits_of(mask)]


def bits_of(mask: int) -> Iterator[int]:
    """Yield the bits that are set, each as a mask of its own."""
    return (1 << place for place in range(_BITS) if mask >> place & 1)


def marked(*flags: tuple[np.ndarray, Quality]) -> np.ndarray | None:
    """Return masks of samples for which these things hold; None if nothing does.

    Args:
        flags: Whether something holds for each sample, shape (n,), bool, and what it is.
    """
    found = [(holds, flag) for holds, flag in flags if holds.any()]
    if not found:
        return None
    masks = np.zeros(len(found[0][0]), MASK)
    for holds, flag in found:
        masks[holds] |= MASK.type(flag)
    return masks


def masks_or_none(masks: np.ndarray | None) -> np.ndarray | None:
    """Return the masks, or None where all of them are 0."""
    return masks if masks is not None and masks.any() else None


def joined_masks(blocks: Iterable[tuple[np.ndarray | None, int]]) -> np.ndarray | None:
    """Join the masks of several blocks, each with its number of samples or windows."""
    parts = list(blocks)
    if all(masks is None for masks, _ in parts):
        return None
    return np.concatenate([np.zeros(n, MASK) if masks is None else masks for masks, n in parts])
