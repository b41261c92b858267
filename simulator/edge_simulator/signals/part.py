"""What all parts of a simulation's configuration have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from edge_runtime.errors import ConfigError
from edge_runtime.spec import ChannelSpec

__all__ = ["NotNegative", "Part", "Positive", "check_names"]

NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything a configuration declares: unknown keys are errors."""


def check_names(channels: Sequence[ChannelSpec]) -> None:
    """Check that every channel has a name of its own.

    Raises:
        ConfigError: Two have the same.
    """
    names = [channel.name for channel in channels]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"the channels are named {', '.join(names)}",
            expected="a name of its own for each",
            remedy="Rename one of those that are alike.",
        )
