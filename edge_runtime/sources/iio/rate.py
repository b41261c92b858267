"""Sets how often a part samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edge_runtime.errors import ConfigError
from edge_runtime.sources.iio.find import shared
from edge_runtime.sources.iio.kernel import Attributes, decimal

__all__ = ["check_not_slower", "rate_attributes", "set_rate"]

_RATE_TOLERANCE = 1e-3
_FREQUENCY = "sampling_frequency"


def rate_attributes(attributes: Attributes, elements: Sequence[str], folder: str) -> list[str]:
    """Return the attributes that set the pace of these elements; often none or one.

    Args:
        attributes: Of the device.
        elements: Those that are captured.
        folder: Of the buffer, where some drivers keep it.
    """
    for name in (_FREQUENCY, f"{folder}/{_FREQUENCY}"):
        if attributes.has(name):
            return [name]
    found = (shared(attributes, element, _FREQUENCY) for element in elements)
    return list(dict.fromkeys(name for name in found if name is not None))


def set_rate(attributes: Attributes, name: str, rate_hz: float) -> None:
    """Let a part, or a trigger, sample ``rate_hz`` times a second.

    Raises:
        ConfigError: It cannot; the message names the nearest rate it can.
        SourceError: The attribute cannot be written.
    """
    choice_hz = _choice(attributes, name, rate_hz)
    if not _is_close(choice_hz, rate_hz):
        raise _cannot(attributes, name, rate_hz, choice_hz)
    if not _is_close(attributes.numbers(name)[0], rate_hz):
        attributes.set(name, decimal(choice_hz))
        # A driver may round without a word.
        actual_hz = attributes.numbers(name)[0]
        if not _is_close(actual_hz, rate_hz):
            raise _cannot(attributes, name, rate_hz, actual_hz)


def check_not_slower(attributes: Attributes, name: str, rate_hz: float) -> None:
    """Check that a part samples at least as often as its trigger asks.

    Raises:
        ConfigError: It does not, and would give every sample several times.
    """
    own_hz = attributes.numbers(name)[0]
    if own_hz < rate_hz and not _is_close(own_hz, rate_hz):
        raise ConfigError(
            f"the part samples at {own_hz:g} Hz",
            where=str(attributes.path(name)),
            expected=f"at least the {rate_hz:g} Hz of its trigger",
            remedy=f"Set it in attributes: {{{name}: …}}.",
        )


def _choice(attributes: Attributes, name: str, rate_hz: float) -> float:
    """Return the nearest rate that the part offers; the wanted one where it does not tell."""
    available = f"{name}_available"
    if not attributes.has(available):
        return rate_hz
    rates_hz = attributes.numbers(available)
    if attributes.get(available).startswith("["):
        # A range: [lowest step highest].
        return min(max(rate_hz, rates_hz[0]), rates_hz[-1])
    return min(rates_hz, key=lambda offered_hz: abs(offered_hz - rate_hz), default=rate_hz)


def _cannot(attributes: Attributes, name: str, rate_hz: float, nearest_hz: float) -> ConfigError:
    return ConfigError(
        f"the part cannot sample at {rate_hz:g} Hz",
        where=str(attributes.path(name)),
        expected=f"a rate it offers; the nearest is {nearest_hz:g} Hz",
        remedy=f"Convert the model with --rate-hz {nearest_hz:g}, or pace the part by a trigger.",
    )


def _is_close(rate_hz: float, other_hz: float) -> bool:
    return math.isclose(rate_hz, other_hz, rel_tol=_RATE_TOLERANCE)
