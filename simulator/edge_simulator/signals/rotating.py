"""A rotating machine as accelerometers on its bearing housing see it."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from msgspec import Meta

from edge_runtime.errors import ConfigError
from edge_runtime.spec import ChannelSpec
from edge_simulator.signals.bearing import BearingConfig, GrowthConfig, Impacts
from edge_simulator.signals.blocks import BLOCK, Blocks
from edge_simulator.signals.noise import Noise
from edge_simulator.signals.part import NotNegative, Part, Positive, check_names
from edge_simulator.signals.schedule import PointConfig, Running, Schedule, check_points

__all__ = [
    "AdcConfig",
    "GearConfig",
    "MountConfig",
    "Rotating",
    "RotatingConfig",
    "TemperatureConfig",
]


_DAY_S = 86_400.0
_TURN = 2 * np.pi


class MountConfig(Part, frozen=True, kw_only=True):
    """How one axis of a sensor is mounted.

    Attributes:
        name: Name of the channel.
        angle_deg: Direction around the shaft in which it measures.
        axial: Direction cosine along the shaft: 0 measures across it, 1 along it.
        reach: Share of the housing's vibration that arrives here.
        offset_g: Constant part: gravity and zero error.
    """

    name: Annotated[str, Meta(min_length=1)]
    angle_deg: float = 0.0
    axial: Annotated[float, Meta(ge=0, le=1)] = 0.0
    reach: NotNegative = 1.0
    offset_g: float = 0.0


class GearConfig(Part, frozen=True, kw_only=True):
    """A gear on the shaft; harmonic k of its mesh has 1/k of the height.

    Attributes:
        teeth: Of the wheel on this shaft; they mesh ``teeth`` times a turn.
        mesh_g: Height of the first harmonic at rated load.
        harmonics: How many there are.
        eccentricity: Share by which the mesh is stronger and weaker in each turn.
    """

    teeth: Annotated[int, Meta(ge=2, le=1000)] = 23
    mesh_g: NotNegative = 0.1
    harmonics: Annotated[int, Meta(ge=1, le=10)] = 2
    eccentricity: Annotated[float, Meta(ge=0, le=1)] = 0.2


class TemperatureConfig(Part, frozen=True, kw_only=True):
    """The sensor's temperature, and what it does to its numbers.

    The temperature is that of a day, highest a quarter of a day after the first sample,
    and of a housing that warms up.

    Attributes:
        mean_celsius: Of the surroundings.
        swing_celsius: From the mean to the highest of a day.
        rise_celsius: How much warmer the machine makes it in the end.
        rise_s: Time constant of that.
        reference_celsius: Where the sensor is exact.
        offset_g_per_k: Added for each kelvin above the reference.
        sensitivity_per_k: Share by which values grow for each kelvin above the reference.
    """

    mean_celsius: float = 25.0
    swing_celsius: NotNegative = 0.0
    rise_celsius: float = 0.0
    rise_s: Positive = 1800.0
    reference_celsius: float = 25.0
    offset_g_per_k: float = 0.0
    sensitivity_per_k: float = 0.0

    def above_k(self, time_s: np.ndarray) -> np.ndarray:
        """Return how far the sensor is above the reference, K; same shape as ``time_s``."""
        day = self.swing_celsius * np.sin(_TURN * time_s / _DAY_S)
        warm = self.rise_celsius * -np.expm1(-time_s / self.rise_s)
        above: np.ndarray = self.mean_celsius - self.reference_celsius + day + warm
        return above


class AdcConfig(Part, frozen=True, kw_only=True):
    """The converter; what lies beyond its full scale is clipped.

    Attributes:
        full_scale_g: Largest value; the smallest is its negative.
        bits: Of a sample, sign included.
    """

    full_scale_g: Positive = 16.0
    bits: Annotated[int, Meta(ge=4, le=24)] = 16

    @property
    def step_g(self) -> float:
        """From one value to the next."""
        return math.ldexp(self.full_scale_g, 1 - self.bits)

    def convert(self, values: np.ndarray) -> np.ndarray:
        """Return values as the converter gives them, same shape, float32, g."""
        highest = 2 ** (self.bits - 1)
        codes = np.clip(np.rint(values / self.step_g), -highest, highest - 1)
        return (codes * self.step_g).astype(np.float32)


_MOUNTS = (
    MountConfig(name="x"),
    MountConfig(name="y", angle_deg=90.0),
    MountConfig(name="z", axial=1.0),
)


class RotatingConfig(Part, frozen=True, kw_only=True, tag_field="kind", tag="rotating"):
    """A rotating machine.

    Attributes:
        rate_hz: Samples a second.
        mounts: One for each channel, in order.
        schedule: How fast it turns, and under which load.
        repeats: The schedule begins again at its last point.
        rated_hz: Speed at which heights are meant; forces of inertia grow with its square.
        unbalance_g: Height of the line at the shaft's speed.
        misalignment_g: Height of the line at twice that.
        gear: A gear on the shaft; None for none.
        bearing: The bearing beside the sensor.
        fault: How its outer race breaks; None keeps it healthy.
        noise_g: Noise of the sensor, root mean square.
        temperature: What the sensor's temperature does.
        adc: The converter; None keeps all digits.
    """

    rate_hz: Annotated[float, Meta(gt=0, le=1e6)] = 3200.0
    mounts: Annotated[tuple[MountConfig, ...], Meta(min_length=1, max_length=64)] = _MOUNTS
    schedule: Annotated[tuple[PointConfig, ...], Meta(min_length=1)] = (PointConfig(shaft_hz=25.0),)
    repeats: bool = False
    rated_hz: Positive = 25.0
    unbalance_g: NotNegative = 0.2
    misalignment_g: NotNegative = 0.08
    gear: GearConfig | None = None
    bearing: BearingConfig = BearingConfig()
    fault: GrowthConfig | None = None
    noise_g: NotNegative = 0.02
    temperature: TemperatureConfig = TemperatureConfig()
    adc: AdcConfig | None = AdcConfig()

    def __post_init__(self) -> None:
        check_names(self.channels)
        check_points(self.schedule, repeats=self.repeats)
        if self.fault is not None and self.bearing.resonance_hz >= self.rate_hz / 2:
            raise ConfigError(
                f"bearing.resonance_hz is {self.bearing.resonance_hz:g}",
                expected=f"below half the rate, {self.rate_hz / 2:g} Hz",
                remedy="Lower it, or raise rate_hz.",
            )

    @property
    def channels(self) -> tuple[ChannelSpec, ...]:
        """Channels in order."""
        return tuple(ChannelSpec(mount.name, "g") for mount in self.mounts)


class Rotating:
    """A rotating machine; truth is how far the bearing's fault has grown.

    Lines at once and twice the shaft's speed follow from unbalance and misalignment, lines
    at the tooth mesh from a gear, and a resonance that is struck from a broken bearing.
    A line above half the rate is filtered away, as a real converter's filter does.
    Source of the lines: Randall 2011, "Vibration-based condition monitoring".

    Args:
        config: The machine.
        seed: 0 to 2**64 - 1.
    """

    length: int | None = None

    def __init__(self, config: RotatingConfig, seed: int) -> None:
        self.channels = config.channels
        self.rate_hz = config.rate_hz
        self._config = config
        self._schedule = Schedule(config.schedule, repeats=config.repeats)
        self._paths = _paths(config.mounts)
        self._offsets = np.array([mount.offset_g for mount in config.mounts])
        self._noise = Noise(seed, "accelerometer", columns=len(config.mounts))
        self._impacts = _impacts(config, self._schedule, seed)
        self._samples = Blocks(self._block)
        self._severity = Blocks(self._truth_block)

    def read(self, first: int, count: int) -> np.ndarray:
        """Return samples in g; see `Signal`."""
        return self._samples.read(first, count)

    def truth(self, first: int, count: int) -> np.ndarray:
        """Return the severity of the bearing's fault; see `Signal`."""
        return self._severity.read(first, count)

    def _time_s(self, number: int) -> np.ndarray:
        return np.arange(number * BLOCK, (number + 1) * BLOCK) / self.rate_hz

    def _truth_block(self, number: int) -> np.ndarray:
        fault = self._config.fault
        if fault is None:
            return np.zeros(BLOCK, np.float32)
        return fault.severity(self._time_s(number)).astype(np.float32)

    def _block(self, number: int) -> np.ndarray:
        first = number * BLOCK
        time_s = self._time_s(number)
        # Not a matrix product: its rounding may depend on the number of threads.
        felt = np.einsum("np,pc->nc", self._forces(first, time_s), self._paths)
        return self._measured(felt, time_s, self._noise.normal(first, BLOCK))

    def _forces(self, first: int, time_s: np.ndarray) -> np.ndarray:
        """Return what shakes the housing, shape (BLOCK, 5), g, in the order of `_paths`."""
        config = self._config
        running = self._schedule.at(time_s)
        angle = _TURN * np.mod(running.turns, 1.0)
        inertia = (running.shaft_hz / config.rated_hz) ** 2
        once = config.unbalance_g * inertia * self._passes(running.shaft_hz)
        twice = config.misalignment_g * inertia * self._passes(2 * running.shaft_hz)
        return np.stack(
            (
                once * np.cos(angle),
                once * np.sin(angle),
                twice * np.cos(2 * angle),
                twice * np.sin(2 * angle),
                self._carried(first, running, angle),
            ),
            axis=1,
        )

    def _carried(self, first: int, running: Running, angle: np.ndarray) -> np.ndarray:
        """Return what the structure carries to every direction, shape (BLOCK,), g."""
        felt = np.zeros(BLOCK)
        if self._impacts is not None:
            felt += self._impacts.block(first, BLOCK)
        if self._config.gear is not None:
            felt += self._meshing(self._config.gear, running, angle)
        return felt

    def _meshing(self, gear: GearConfig, running: Running, angle: np.ndarray) -> np.ndarray:
        felt = np.zeros(BLOCK)
        for harmonic in range(1, gear.harmonics + 1):
            teeth = harmonic * gear.teeth
            felt += self._passes(teeth * running.shaft_hz) * np.cos(teeth * angle) / harmonic
        felt *= gear.mesh_g * running.load * (1 + gear.eccentricity * np.cos(angle))
        return felt

    def _passes(self, hz: np.ndarray) -> np.ndarray:
        """Return which frequencies pass the sensor's filter against aliasing, shape of ``hz``."""
        passes: np.ndarray = hz < self.rate_hz / 2
        return passes

    def _measured(self, felt: np.ndarray, time_s: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return what the sensor makes of the housing's movement, shape (BLOCK, channels)."""
        config = self._config
        above_k = config.temperature.above_k(time_s)[:, None]
        values = (felt + self._offsets) * (1 + config.temperature.sensitivity_per_k * above_k)
        values += config.temperature.offset_g_per_k * above_k + config.noise_g * noise
        return values.astype(np.float32) if config.adc is None else config.adc.convert(values)


def _impacts(config: RotatingConfig, schedule: Schedule, seed: int) -> Impacts | None:
    if config.fault is None:
        return None
    return Impacts(
        config.bearing,
        config.fault,
        schedule=schedule,
        rated_hz=config.rated_hz,
        rate_hz=config.rate_hz,
        seed=seed,
    )


def _paths(mounts: tuple[MountConfig, ...]) -> np.ndarray:
    """Return how each force reaches each channel, shape (5, channels).

    A force that turns by an angle is felt in a direction at θ as its cosine less θ; what
    the structure carries, as gear mesh and impacts, is felt in every direction.
    """
    theta = np.radians([mount.angle_deg for mount in mounts])
    axial = np.array([mount.axial for mount in mounts])
    radial = np.sqrt(1 - axial**2)
    reach = np.array([mount.reach for mount in mounts])
    cosine, sine = radial * np.cos(theta), radial * np.sin(theta)
    paths: np.ndarray = np.stack((cosine, sine, cosine + axial, sine, np.ones(len(mounts))))
    paths *= reach
    return paths
