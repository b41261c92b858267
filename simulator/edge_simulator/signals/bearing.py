"""A rolling bearing whose outer race breaks: geometry, growth, and the impacts on the housing."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta

from edge_runtime.errors import ConfigError
from edge_simulator.signals.noise import Noise
from edge_simulator.signals.part import Part
from edge_simulator.signals.schedule import Schedule

__all__ = ["BearingConfig", "GrowthConfig", "Impacts"]

# An impact is followed until its ringing has fallen below this share of its height.
_SILENCE = 1e-4
_LARGEST_JITTER = 3.0


class GrowthConfig(Part, frozen=True, kw_only=True):
    """How a fault grows: slowly first, then ever faster.

    Attributes:
        starts_s: Seconds since the first sample until it begins.
        fails_s: Seconds until it is complete.
        ratio: How many times faster it grows at the end than at the start.
    """

    starts_s: Annotated[float, Meta(ge=0)]
    fails_s: Annotated[float, Meta(gt=0)]
    ratio: Annotated[float, Meta(gt=1, le=1e6)] = 100.0

    def __post_init__(self) -> None:
        if self.fails_s <= self.starts_s:
            raise ConfigError(
                f"the fault starts at {self.starts_s:g} s and fails at {self.fails_s:g} s",
                expected="fails_s above starts_s",
                remedy="Correct one of the two.",
            )

    def severity(self, time_s: np.ndarray) -> np.ndarray:
        """Return how far the fault has grown, 0 to 1, same shape as ``time_s``.

        s = (r^u - 1) / (r - 1) with u from 0 at the start to 1 at the failure.
        Source: the exponential degradation of Gebraeel et al. 2005, "Residual-life
        distributions from component degradation signals", from 0 instead of a threshold.
        """
        share = np.clip((time_s - self.starts_s) / (self.fails_s - self.starts_s), 0, 1)
        grown: np.ndarray = np.expm1(share * math.log(self.ratio)) / (self.ratio - 1)
        return grown


class BearingConfig(Part, frozen=True, kw_only=True):
    """Geometry of a bearing, and how its housing answers an impact; by default a 6205.

    Attributes:
        elements: Number of balls or rollers.
        element_mm: Their diameter.
        pitch_mm: Diameter of the circle of their centres.
        contact_deg: Contact angle.
        slip: Share by which the cage lags behind pure rolling, on average.
        jitter: How far a ball strays from its place in the cage: standard deviation as a
            share of the distance between two balls.
        impact_g: Height of an impact at severity 1, rated load and rated speed.
        uneven: How much the heights differ, standard deviation as a share.
        modulation: Share of the load that turns with the shaft, as an unbalance does; it
            puts sidebands at the shaft's speed beside every line of the fault.
        resonance_hz: Natural frequency that the impacts excite.
        damping: Its damping ratio.
    """

    elements: Annotated[int, Meta(ge=3, le=200)] = 9
    element_mm: Annotated[float, Meta(gt=0)] = 7.94
    pitch_mm: Annotated[float, Meta(gt=0)] = 39.04
    contact_deg: Annotated[float, Meta(ge=0, lt=90)] = 0.0
    slip: Annotated[float, Meta(ge=0, le=0.1)] = 0.01
    jitter: Annotated[float, Meta(ge=0, le=0.2)] = 0.01
    impact_g: Annotated[float, Meta(ge=0)] = 4.0
    uneven: Annotated[float, Meta(ge=0, le=0.3)] = 0.1
    modulation: Annotated[float, Meta(ge=0, le=1)] = 0.3
    resonance_hz: Annotated[float, Meta(gt=0)] = 1000.0
    damping: Annotated[float, Meta(gt=0, lt=1)] = 0.05

    def __post_init__(self) -> None:
        if self.element_mm >= self.pitch_mm:
            raise ConfigError(
                f"element_mm is {self.element_mm:g} and pitch_mm {self.pitch_mm:g}",
                expected="element_mm below pitch_mm",
                remedy="The pitch circle goes through the centres of the balls.",
            )

    @property
    def outer_order(self) -> float:
        """Balls that pass a point of the outer race in one turn of the shaft, without slip.

        BPFO / f = n/2 (1 - d/D cos φ).
        Source: Randall and Antoni 2011, "Rolling element bearing diagnostics: a tutorial".
        """
        share = self.element_mm / self.pitch_mm * math.cos(math.radians(self.contact_deg))
        return self.elements / 2 * (1 - share)

    @property
    def impact_order(self) -> float:
        """Impacts in one turn of the shaft: `outer_order` less the slip."""
        return self.outer_order * (1 - self.slip)


class _Strikes(NamedTuple):
    """Some impacts: when they come, s, and how high they are, g; shape (n,), float64."""

    time_s: np.ndarray
    height_g: np.ndarray


class Impacts:
    """What the housing does while balls roll over a fault of the outer race.

    Impact k comes when the shaft has made (k + jitter) / order turns, and lets the
    resonance ring: h exp(-ζ ω t) sin(ω √(1 - ζ²) t). Its place is known without the
    impacts before it; so the cage's straying does not add up, as it slowly does in a real
    bearing. That the height is proportional to load and speed is this model's choice.
    Source of the impulse model: McFadden and Smith 1984; of jitter and slip: Randall and
    Antoni 2011.

    Args:
        bearing: Geometry and housing.
        growth: Severity.
        schedule: How the shaft turns.
        rated_hz: Speed at which ``impact_g`` is meant.
        rate_hz: Samples a second.
        seed: As for `Noise`.
    """

    def __init__(
        self,
        bearing: BearingConfig,
        growth: GrowthConfig,
        *,
        schedule: Schedule,
        rated_hz: float,
        rate_hz: float,
        seed: int,
    ) -> None:
        self._bearing = bearing
        self._growth = growth
        self._schedule = schedule
        self._rated_hz = rated_hz
        self._rate_hz = rate_hz
        self._noise = Noise(seed, "impacts", columns=2)
        omega = 2 * math.pi * bearing.resonance_hz
        self._decay = bearing.damping * omega
        self._omega = omega * math.sqrt(1 - bearing.damping**2)
        self._ringing = math.ceil(-math.log(_SILENCE) / self._decay * rate_hz)

    def block(self, first: int, count: int) -> np.ndarray:
        """Return acceleration at ``count`` samples from ``first`` on, shape (count,), g."""
        strikes = self._strikes(first, count)
        if not len(strikes.time_s):
            return np.zeros(count)
        start = np.ceil(strikes.time_s * self._rate_hz).astype(np.int64)
        place = (start - first)[:, None] + np.arange(self._ringing)
        inside = (place >= 0) & (place < count)
        rung = self._rung(strikes, start / self._rate_hz - strikes.time_s)
        return np.bincount(place[inside], weights=rung[inside], minlength=count)

    def _strikes(self, first: int, count: int) -> _Strikes:
        """Return the impacts that can be felt in these samples."""
        begin, end = max(first - self._ringing, 0) / self._rate_hz, (first + count) / self._rate_hz
        if end <= self._growth.starts_s:
            return _Strikes(np.empty(0), np.empty(0))
        order = self._bearing.impact_order
        turns = self._schedule.at(np.array([begin, end])).turns * order
        lowest, highest = max(math.floor(turns[0]) - 1, 0), math.ceil(turns[1]) + 1
        drawn = self._noise.normal(lowest, highest - lowest + 1).astype(np.float64)
        strays = self._bearing.jitter * np.clip(drawn[:, 0], -_LARGEST_JITTER, _LARGEST_JITTER)
        at_turns = np.maximum(np.arange(lowest, highest + 1) + strays, 0) / order
        return self._felt(at_turns, drawn[:, 1], end)

    def _felt(self, turns: np.ndarray, uneven: np.ndarray, end_s: float) -> _Strikes:
        time_s = self._schedule.when(turns)
        comes = time_s < end_s
        time_s, turns, uneven = time_s[comes], turns[comes], uneven[comes]
        running = self._schedule.at(time_s)
        bearing = self._bearing
        height = bearing.impact_g * self._growth.severity(time_s)
        height *= running.load * running.shaft_hz / self._rated_hz
        height *= 1 + bearing.modulation * np.cos(2 * np.pi * turns)
        return _Strikes(time_s, height * np.maximum(1 + bearing.uneven * uneven, 0))

    def _rung(self, strikes: _Strikes, late_s: np.ndarray) -> np.ndarray:
        """Return the ringing at each strike's samples, of which the first comes ``late_s`` after.

        Angles are added instead of computed one by one.
        """
        begun = strikes.height_g * np.exp(-self._decay * late_s)
        later_s = np.arange(self._ringing) / self._rate_hz
        falling = np.exp(-self._decay * later_s)
        across = np.outer(
            begun * np.sin(self._omega * late_s), falling * np.cos(self._omega * later_s)
        )
        along = np.outer(
            begun * np.cos(self._omega * late_s), falling * np.sin(self._omega * later_s)
        )
        return across + along
