"""What the demo replays: rows of a gas turbine, and columns of any recording."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.errors import ConfigError

__all__ = ["SENSORS", "Turbine", "load_turbine", "read_columns"]

SENSORS = ("AT", "AP", "AH", "AFDP", "GTEP", "TIT", "TAT", "TEY", "CDP")
"""The nine process sensors; CO, which is measured beside NOx, is never an input."""

_TRAINING_YEARS = (2011, 2012)


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
