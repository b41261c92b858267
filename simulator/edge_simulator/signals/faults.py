"""What can happen to a sensor, each as a wrapper around a signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from edge_runtime.errors import ConfigError
from edge_runtime.registry import closest
from edge_runtime.spec import ChannelSpec
from edge_simulator.signals.interval import ALWAYS, Interval, active, indicator, stretches
from edge_simulator.signals.noise import Noise
from edge_simulator.signals.part import Part, Positive
from edge_simulator.signals.signal import Signal

__all__ = [
    "Drift",
    "Dropout",
    "Faulty",
    "NoiseFault",
    "Saturation",
    "SensorFault",
    "Spikes",
    "Stuck",
    "Swap",
    "Unplug",
    "distort",
    "lost_rows",
]

Share = Annotated[float, Meta(gt=0, le=1)]
Names = Annotated[tuple[str, ...], Meta(min_length=1)]


class _SensorFault(Part, frozen=True, kw_only=True, tag_field="kind"):
    """Something that is wrong with a sensor.

    Attributes:
        active: When, in seconds since the first sample.
    """

    active: Annotated[tuple[Interval, ...], Meta(min_length=1)] = ALWAYS


class Stuck(_SensorFault, frozen=True, kw_only=True, tag="stuck"):
    """Channels freeze at their last value.

    Attributes:
        channels: Which; None for all.
    """

    channels: Names | None = None


class Drift(_SensorFault, frozen=True, kw_only=True, tag="drift"):
    """Channels move away, evenly in time; afterwards they are right again.

    Attributes:
        per_hour: What a channel gains in an hour, in its unit.
    """

    per_hour: Annotated[dict[str, float], Meta(min_length=1)]


class NoiseFault(_SensorFault, frozen=True, kw_only=True, tag="noise"):
    """Channels get noisier.

    Attributes:
        rms: Added noise, root mean square, in the channels' unit.
        channels: Which; None for all.
    """

    rms: Positive
    channels: Names | None = None


class Saturation(_SensorFault, frozen=True, kw_only=True, tag="saturation"):
    """Channels are clipped at a lower full scale.

    Attributes:
        full_scale: Largest value; the smallest is its negative.
        channels: Which; None for all.
    """

    full_scale: Positive
    channels: Names | None = None


class Dropout(_SensorFault, frozen=True, kw_only=True, tag="dropout"):
    """Samples get lost, each by itself.

    Attributes:
        share: How many of them, 0 to 1.
        leaves: ``nan`` in their place, or nothing: the samples are ``missing``.
        channels: Which become NaN; None for all. Missing samples are missing on all.
    """

    share: Share
    leaves: Literal["nan", "missing"] = "nan"
    channels: Names | None = None

    def __post_init__(self) -> None:
        if self.leaves == "missing" and self.channels is not None:
            raise ConfigError(
                f"dropout leaves samples missing on {', '.join(self.channels)}",
                expected="all channels",
                remedy="Leave channels out, or set leaves: nan.",
            )
        if self.leaves == "missing" and self.share == 1:
            raise ConfigError(
                "dropout leaves all samples missing",
                expected="a share below 1",
                remedy="A sensor that is not there at all is a fault of the kind unplug.",
            )


class Unplug(_SensorFault, frozen=True, kw_only=True, tag="unplug"):
    """The sensor is not there: no samples at all."""


class Spikes(_SensorFault, frozen=True, kw_only=True, tag="spikes"):
    """Single samples jump up or down.

    Attributes:
        share: How many of them, 0 to 1.
        height: By how much, in the channels' unit.
        channels: Which, each by itself; None for all.
    """

    share: Share
    height: Positive
    channels: Names | None = None


class Swap(_SensorFault, frozen=True, kw_only=True, tag="swap"):
    """Two channels are exchanged.

    Attributes:
        channels: Which two.
    """

    channels: tuple[str, str]


SensorFault = Stuck | Drift | NoiseFault | Saturation | Dropout | Unplug | Spikes | Swap

_Change = Callable[[np.ndarray, int, int], None]
"""Changes samples, shape (n, channels), in place: they begin at a sample's number, and the
fault at another."""


class Faulty:
    """A signal through a sensor with one fault; nothing is changed outside its intervals.

    Samples that do not exist, because the sensor is unplugged or they are lost, are NaN here;
    the simulated source leaves them out. Truth is the worse of the signal's own and of the
    sensor's, which is 1 while the fault is active.

    Args:
        signal: What the sensor should read.
        fault: What is wrong with it.
        seed: 0 to 2**64 - 1.
        number: Place among the faults of one sensor, so that two alike ones differ.

    Raises:
        ConfigError: The fault names a channel that there is not.
    """

    def __init__(self, signal: Signal, fault: SensorFault, *, seed: int, number: int = 0) -> None:
        self.channels: tuple[ChannelSpec, ...] = signal.channels
        self.rate_hz = signal.rate_hz
        self.length = signal.length
        self._signal = signal
        self._stretches = stretches(fault.active, signal.rate_hz)
        self._change = _change(fault, signal, seed=seed, number=number)

    def read(self, first: int, count: int) -> np.ndarray:
        """Return samples as the sensor gives them; see `Signal`."""
        samples = self._signal.read(first, count)
        parts = active(self._stretches, first, count)
        if parts:
            samples = samples.copy()
        for begin, end, began in parts:
            self._change(samples[begin - first : end - first], begin, began)
        samples.flags.writeable = False
        return samples

    def truth(self, first: int, count: int) -> np.ndarray:
        """Return how bad signal and sensor truly are; see `Signal`."""
        truth = self._signal.truth(first, count)
        # Where the sensor works, what is unknown of the signal stays unknown.
        return np.where(self.sensor_truth(first, count) > 0, np.float32(1), truth)

    def sensor_truth(self, first: int, count: int) -> np.ndarray:
        """Return 1 while this fault is active, else 0, shape (count,), float32."""
        return indicator(self._stretches, first, count)


def distort(signal: Signal, faults: Sequence[SensorFault], *, seed: int) -> Signal:
    """Return a signal through a sensor with these faults, the first nearest to the world.

    Raises:
        ConfigError: A fault names a channel that there is not.
    """
    for number, fault in enumerate(faults):
        signal = Faulty(signal, fault, seed=seed, number=number)
    return signal


def lost_rows(fault: Dropout, *, seed: int, number: int) -> Callable[[int, int], np.ndarray]:
    """Return the function that tells which of ``count`` samples from ``first`` on are lost.

    It does not ask when the fault is active. Shape (count,), bool.
    """
    noise = Noise(seed, f"fault {number}")
    return lambda first, count: noise.uniform(first, count)[:, 0] < fault.share


def _change(fault: SensorFault, signal: Signal, *, seed: int, number: int) -> _Change:
    columns = _columns(fault, signal)
    noise = Noise(seed, f"fault {number}", columns=len(signal.channels))
    match fault:
        case Stuck():
            return _stuck(signal, columns)
        case Drift():
            return _drift(signal.rate_hz, np.array(list(fault.per_hour.values())), columns)
        case NoiseFault():
            return _noise(noise, fault.rms, columns)
        case Saturation():
            return _saturation(fault.full_scale, columns)
        case Dropout():
            return _dropout(lost_rows(fault, seed=seed, number=number), columns)
        case Unplug():
            return _unplug
        case Spikes():
            return _spikes(noise, fault, columns)
        case Swap():
            return _swap(columns)


def _columns(fault: SensorFault, signal: Signal) -> list[int]:
    """Return which columns a fault concerns."""
    known = tuple(channel.name for channel in signal.channels)
    if isinstance(fault, Unplug):
        names: tuple[str, ...] | None = None
    else:
        names = tuple(fault.per_hour) if isinstance(fault, Drift) else fault.channels
    for name in names or ():
        if name not in known:
            raise ConfigError(
                f"a fault of the kind {fault.__struct_config__.tag!r} names the channel {name!r}",
                expected=f"one of {', '.join(known)}",
                remedy=closest(name, known),
            )
    return [known.index(name) for name in names or known]


def _stuck(signal: Signal, columns: list[int]) -> _Change:
    def change(samples: np.ndarray, first: int, began: int) -> None:  # noqa: ARG001
        samples[:, columns] = signal.read(max(began - 1, 0), 1)[:, columns]

    return change


def _drift(rate_hz: float, per_hour: np.ndarray, columns: list[int]) -> _Change:
    def change(samples: np.ndarray, first: int, began: int) -> None:
        hours = np.arange(first - began, first - began + len(samples)) / (3600 * rate_hz)
        samples[:, columns] += np.outer(hours, per_hour).astype(np.float32)

    return change


def _noise(noise: Noise, rms: float, columns: list[int]) -> _Change:
    def change(samples: np.ndarray, first: int, began: int) -> None:  # noqa: ARG001
        drawn = noise.normal(first, len(samples))
        samples[:, columns] += drawn[:, columns] * np.float32(rms)

    return change


def _saturation(full_scale: float, columns: list[int]) -> _Change:
    def change(samples: np.ndarray, first: int, began: int) -> None:  # noqa: ARG001
        samples[:, columns] = np.clip(samples[:, columns], -full_scale, full_scale)

    return change


def _dropout(lost: Callable[[int, int], np.ndarray], columns: list[int]) -> _Change:
    def change(samples: np.ndarray, first: int, began: int) -> None:  # noqa: ARG001
        rows = np.flatnonzero(lost(first, len(samples)))
        samples[rows[:, None], columns] = np.nan

    return change


def _unplug(samples: np.ndarray, first: int, began: int) -> None:  # noqa: ARG001
    samples[:] = np.nan


def _spikes(noise: Noise, fault: Spikes, columns: list[int]) -> _Change:
    def change(samples: np.ndarray, first: int, began: int) -> None:  # noqa: ARG001
        drawn = noise.uniform(first, len(samples))[:, columns]
        up, down = drawn < fault.share / 2, (drawn >= fault.share / 2) & (drawn < fault.share)
        samples[:, columns] += np.float32(fault.height) * (up.astype(np.float32) - down)

    return change


def _swap(columns: list[int]) -> _Change:
    def change(samples: np.ndarray, first: int, began: int) -> None:  # noqa: ARG001
        samples[:, columns] = samples[:, columns[::-1]]

    return change
