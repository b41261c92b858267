"""The committed files the demo replays: found in the installed package or in the clone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.errors import ConfigError

__all__ = ["SENSORS", "Places", "Turbine", "find_places", "load_turbine", "read_columns"]

SENSORS = ("AT", "AP", "AH", "AFDP", "GTEP", "TIT", "TAT", "TEY", "CDP")
"""The nine process sensors; CO, which is measured beside NOx, is never an input."""

_TRAINING_YEARS = (2011, 2012)


class Places(msgspec.Struct, frozen=True):
    """Where the demo's inputs are.

    Attributes:
        turbine_rows: Five years of gas-turbine rows in time order, CSV.
        turbine_first: Base trained on 2011 and 2012, a bundle folder.
        turbine_second: The same line, trained on 2011 to 2013.
        fan_rows: Part of the fan-vibration recordings, CSV.
        fan_first: Fan-unbalance classifier, a bundle folder.
    """

    turbine_rows: Path
    turbine_first: Path
    turbine_second: Path
    fan_rows: Path
    fan_first: Path


class Turbine(msgspec.Struct, frozen=True, eq=False):
    """The gas turbine's file; element i is 0-based data row i.

    Attributes:
        year: Shape (n,), int64, as the file says.
        sensors: Shape (n, 9), float64, columns `SENSORS` in the file's units.
        nox: Shape (n,), float64, mg/m3.
    """

    year: np.ndarray
    sensors: np.ndarray
    nox: np.ndarray

    @property
    def first_row(self) -> int:
        """First row after the training years: where the replay begins."""
        return int(np.argmax(self.year > max(_TRAINING_YEARS)))

    @property
    def training_mean(self) -> float:
        """Mean NOx of the training years, mg/m3: all that is known without any model."""
        return float(self.nox[: self.first_row].mean())

    def __len__(self) -> int:
        return len(self.year)


def find_places() -> Places:
    """Return where the inputs are.

    Raises:
        ConfigError: Some are missing; the message names the first one.
    """
    here = Path(__file__).resolve()
    roots = (here.parent / "data", here.parents[3] / "examples")
    root = next((root for root in roots if (root / "gas_turbine").is_dir()), roots[0])
    places = Places(
        turbine_rows=root / "gas_turbine" / "gas_turbine_2011_2015.csv",
        turbine_first=root / "gas_turbine" / "bundles" / "turbine-nox-1.0.0",
        turbine_second=root / "gas_turbine" / "bundles" / "turbine-nox-2.0.0",
        fan_rows=root / "fan_vibration" / "fan_vibration_part.csv",
        fan_first=root / "fan_vibration" / "bundles" / "fan-unbalance-1.0.0",
    )
    _check_present(places)
    return places


def load_turbine(path: Path) -> Turbine:
    """Read the gas turbine's file.

    Raises:
        ConfigError: A column is missing or holds something else than numbers.
    """
    columns = read_columns(path, ("year", *SENSORS, "NOX"))
    return Turbine(
        year=columns["year"].astype(np.int64),
        sensors=np.stack([columns[name] for name in SENSORS], axis=1),
        nox=columns["NOX"],
    )


def read_columns(path: Path, names: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    """Read numeric columns of a CSV file as float64.

    Raises:
        ConfigError: The file does not have them.
    """
    import pyarrow as pa
    from pyarrow import csv

    types = csv.ConvertOptions(
        include_columns=list(names), column_types=dict.fromkeys(names, pa.float64())
    )
    try:
        table = csv.read_csv(path, convert_options=types)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ConfigError(
            f"it cannot be read: {error}",
            where=str(path),
            expected=f"the numeric columns {', '.join(names)}",
            remedy="Restore the file from the repository; its checksum stands beside it.",
        ) from error
    return {name: table.column(name).to_numpy() for name in names}


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
