"""Which samples of the windows to come are suspect."""

from __future__ import annotations

import numpy as np

from edge_runtime.quality import MASK, bits_of, masks_or_none

__all__ = ["Marks"]


class Marks:
    """Masks of samples that a window may still contain.

    They are found by event time: that of accepted samples only grows, so it tells them
    apart wherever a buffer moves them, and however long a filter holds them back. What
    is not suspect takes no room. Used by one thread.
    """

    def __init__(self) -> None:
        self._times = np.empty(0, np.int64)
        self._masks = np.empty(0, MASK)

    def __len__(self) -> int:
        """Return how many samples are suspect."""
        return len(self._times)

    def add(self, time_ns: np.ndarray, masks: np.ndarray) -> None:
        """Take the masks of the next samples.

        Args:
            time_ns: Shape (n,), int64, growing, later than all before.
            masks: Shape (n,), uint16.
        """
        suspect = np.flatnonzero(masks)
        if len(suspect):
            self._times = np.concatenate((self._times, time_ns[suspect]))
            self._masks = np.concatenate((self._masks, masks[suspect]))

    def over(self, start_ns: np.ndarray, end_ns: np.ndarray) -> np.ndarray | None:
        """Return the bits of all samples of each window, shape (n,); None if there are none.

        Args:
            start_ns: Time of each window's first sample, shape (n,).
            end_ns: Time of its last one, shape (n,).
        """
        found = np.zeros(len(start_ns), MASK)
        every = int(np.bitwise_or.reduce(self._masks, initial=0))
        for bit in bits_of(every):
            times = self._times[(self._masks & bit) != 0]
            behind = np.searchsorted(times, end_ns, side="right")
            found[behind > np.searchsorted(times, start_ns)] |= MASK.type(bit)
        return masks_or_none(found)

    def forget_before(self, time_ns: int) -> None:
        """Forget samples that no window to come contains."""
        first = int(np.searchsorted(self._times, time_ns))
        self._times, self._masks = self._times[first:], self._masks[first:]

    def along(self, time_ns: np.ndarray) -> np.ndarray:
        """Return the mask of each of these samples, shape (n,).

        Args:
            time_ns: Shape (n,), int64, growing; all that are kept are among them.
        """
        masks = np.zeros(len(time_ns), MASK)
        places = np.searchsorted(time_ns, self._times)
        # Only in what a damaged snapshot has left behind do times not grow.
        are_known = places < len(time_ns)
        masks[places[are_known]] = self._masks[are_known]
        return masks
