"""The recordings and bundles that come along: in the installed package or in the clone."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_runtime.errors import ConfigError

__all__ = ["Places", "find_places"]


class Places(msgspec.Struct, frozen=True):
    """Where they are.

    Attributes:
        root: Folder that paths in shipped fleets are relative to.
        turbine_rows: Five years of gas-turbine rows in time order, CSV.
        turbine_first: Base trained on 2011 and 2012, a bundle folder.
        turbine_second: The same line, trained on 2011 to 2013.
        fan_rows: Part of the fan-vibration recordings, CSV.
        fan_first: Fan-unbalance classifier, a bundle folder.
    """

    root: Path
    turbine_rows: Path
    turbine_first: Path
    turbine_second: Path
    fan_rows: Path
    fan_first: Path


def find_places() -> Places:
    """Return where the inputs are.

    Raises:
        ConfigError: Some are missing; the message names the first one.
    """
    here = Path(__file__).resolve()
    roots = (here.parent / "demo" / "data", here.parents[2] / "examples")
    root = next((root for root in roots if (root / "gas_turbine").is_dir()), roots[0])
    places = Places(
        root=root,
        turbine_rows=root / "gas_turbine" / "gas_turbine_2011_2015.csv",
        turbine_first=root / "gas_turbine" / "bundles" / "turbine-nox-1.0.0",
        turbine_second=root / "gas_turbine" / "bundles" / "turbine-nox-2.0.0",
        fan_rows=root / "fan_vibration" / "fan_vibration_part.csv",
        fan_first=root / "fan_vibration" / "bundles" / "fan-unbalance-1.0.0",
    )
    _check_present(places)
    return places


def _check_present(places: Places) -> None:
    for name in places.__struct_fields__:
        path: Path = getattr(places, name)
        if not path.exists():
            raise ConfigError(
                f"{name.replace('_', ' ')} is missing",
                where=str(path),
                expected="the files that come with the package or the clone",
                remedy="Reinstall edge-runtime[demo], or clone the repository whole.",
            )
