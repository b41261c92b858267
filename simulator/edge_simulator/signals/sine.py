"""One tone on every channel: the simplest signal."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from msgspec import Meta

from edge_runtime.spec import ChannelSpec
from edge_simulator.signals.blocks import BLOCK, Blocks
from edge_simulator.signals.part import Part, check_names

__all__ = ["Sine", "SineConfig"]


class SineConfig(Part, frozen=True, kw_only=True, tag_field="kind", tag="sine"):
    """A tone.

    Attributes:
        rate_hz: Samples a second.
        channels: Names and units; channel c comes c eighths of a period later.
        tone_hz: Its frequency.
        height: Its largest value, in the channels' units.
    """

    rate_hz: Annotated[float, Meta(gt=0, le=1e6)] = 100.0
    channels: Annotated[tuple[ChannelSpec, ...], Meta(min_length=1)] = (ChannelSpec("x"),)
    tone_hz: Annotated[float, Meta(ge=0)] = 1.0
    height: Annotated[float, Meta(ge=0)] = 1.0

    def __post_init__(self) -> None:
        check_names(self.channels)


class Sine:
    """A tone; truth is 0."""

    length: int | None = None

    def __init__(self, config: SineConfig) -> None:
        self.channels = config.channels
        self.rate_hz = config.rate_hz
        self._config = config
        self._samples = Blocks(self._block)
        self._truth = Blocks(lambda _: np.zeros(BLOCK, np.float32))

    def read(self, first: int, count: int) -> np.ndarray:
        """Return samples; see `Signal`."""
        return self._samples.read(first, count)

    def truth(self, first: int, count: int) -> np.ndarray:
        """Return 0; see `Signal`."""
        return self._truth.read(first, count)

    def _block(self, number: int) -> np.ndarray:
        rows = np.arange(number * BLOCK, (number + 1) * BLOCK)
        periods = (rows * (self._config.tone_hz / self.rate_hz))[:, None]
        later = np.arange(len(self.channels)) / 8
        values: np.ndarray = self._config.height * np.sin(2 * np.pi * np.mod(periods - later, 1))
        return values.astype(np.float32)
