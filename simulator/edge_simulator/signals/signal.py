"""The one port of the simulator: a signal is a pure function of the sample's number."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edge_runtime.spec import ChannelSpec

__all__ = ["Signal"]


class Signal(Protocol):
    """What a sensor would read, and what is true meanwhile.

    The same configuration and seed give the same bytes, in any chunks and any order:
    a device that loses power and starts again sees the world go on as if it had been
    there. Nothing may be drawn from a generator that remembers where it is.

    Attributes:
        channels: Names and units, in order.
        rate_hz: Samples a second.
        length: Samples until it ends, such as a recording's; None for what never ends.
    """

    channels: tuple[ChannelSpec, ...]
    rate_hz: float
    length: int | None

    def read(self, first: int, count: int) -> np.ndarray:
        """Return samples ``first`` to ``first + count``, shape (count, channels), float32.

        The array is read-only and may be shared.

        Raises:
            ValueError: They begin before 0 or end after ``length``.
        """
        ...

    def truth(self, first: int, count: int) -> np.ndarray:
        """Return how bad things truly are at each sample, shape (count,), float32, 0 to 1.

        0 is healthy; a recording without labels is NaN.

        Raises:
            ValueError: As for `read`.
        """
        ...
