"""The bundles that come with the package, behind the door for bundles of any package."""

from __future__ import annotations

from pathlib import Path

from edge_simulator.places import find_places

__all__ = ["FanUnbalance", "TurbineNox"]


class FanUnbalance:
    """Which of three weights hangs on a cooling fan: x, y, z in g, 50 Hz."""

    @property
    def path(self) -> Path:
        """Where the bundle lies."""
        return find_places().fan_first


class TurbineNox:
    """NOx of a gas turbine, from nine process values once an hour."""

    @property
    def path(self) -> Path:
        """Where the bundle lies."""
        return find_places().turbine_first
