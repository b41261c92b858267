"""Recordings as signals: any file that the runtime's own loaders read, and the bundled one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime import registry
from edge_runtime.bundle import load_bundle
from edge_runtime.errors import ConfigError
from edge_runtime.sources import Recording
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_simulator.places import find_places
from edge_simulator.signals.blocks import check_range
from edge_simulator.signals.part import Part, check_names

__all__ = ["GasTurbineConfig", "Recorded", "RecordedConfig", "load_gas_turbine", "load_recorded"]

AtEnd = Literal["repeat", "end"]

_FORMATS = {".csv": "csv", ".npz": "npz", ".parquet": "parquet", ".wav": "wav"}
_BLOCK = 65_536


class RecordedConfig(Part, frozen=True, kw_only=True, tag_field="kind", tag="recording"):
    """A recording; its samples are evenly spaced, whatever times the file holds.

    Attributes:
        path: A csv, npz, parquet or wav file, told by its ending.
        channels: Names and units.
        rate_hz: Samples a second.
        columns: Which column holds a channel, by name or number; None takes columns named
            like the channels.
        truth: Column that tells from 0 to 1 how bad things are; None knows nothing.
        first_row: First row to play.
        last_row: Row to stop before; None plays to the end.
        at_end: Begin again, or end.
        options: Further options of the format, such as ``delimiter``.
    """

    path: Path
    channels: Annotated[tuple[ChannelSpec, ...], Meta(min_length=1)]
    rate_hz: Annotated[float, Meta(gt=0)]
    columns: dict[str, str | int] | None = None
    truth: str | int | None = None
    first_row: Annotated[int, Meta(ge=0)] = 0
    last_row: Annotated[int, Meta(ge=1)] | None = None
    at_end: AtEnd = "repeat"
    options: dict[str, str | bool] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_names(self.channels)
        if self.path.suffix.lower() not in _FORMATS:
            raise ConfigError(
                f"the file is {str(self.path)!r}",
                expected=f"a name that ends in {', '.join(_FORMATS)}",
                remedy="Rename the file as its format is called.",
            )

    @property
    def format(self) -> str:
        """Name of the source that reads the file."""
        return _FORMATS[self.path.suffix.lower()]


class GasTurbineConfig(Part, frozen=True, kw_only=True, tag_field="kind", tag="gas_turbine"):
    """The bundled gas turbine: nine process sensors, one row an hour from 2011 to 2015.

    Attributes:
        first_row: First row to play.
        last_row: Row to stop before; None plays to the end.
        at_end: Begin again, or end.
    """

    first_row: Annotated[int, Meta(ge=0)] = 0
    last_row: Annotated[int, Meta(ge=1)] | None = None
    at_end: AtEnd = "repeat"

    @property
    def rate_hz(self) -> float:
        """Samples a second."""
        return _turbine_stream().rate_hz

    @property
    def channels(self) -> tuple[ChannelSpec, ...]:
        """Channels in order."""
        return _turbine_stream().channels


class Recorded:
    """Rows in memory, played once or again and again.

    Args:
        channels: Names and units.
        rate_hz: Samples a second.
        samples: Shape (n, channels), any real dtype; at least one row.
        truth: Shape (n,), 0 to 1; None knows nothing.
        repeats: Begin again after the last row.
    """

    def __init__(
        self,
        channels: tuple[ChannelSpec, ...],
        rate_hz: float,
        samples: np.ndarray,
        *,
        truth: np.ndarray | None = None,
        repeats: bool = True,
    ) -> None:
        self.channels = channels
        self.rate_hz = rate_hz
        self.length = None if repeats else len(samples)
        self._samples = _frozen(samples)
        self._truth = _frozen(np.full(len(samples), np.nan) if truth is None else truth)

    def read(self, first: int, count: int) -> np.ndarray:
        """Return rows of the recording; see `Signal`."""
        return self._rows(self._samples, first, count)

    def truth(self, first: int, count: int) -> np.ndarray:
        """Return what the recording tells, or NaN; see `Signal`."""
        return self._rows(self._truth, first, count)

    def _rows(self, values: np.ndarray, first: int, count: int) -> np.ndarray:
        check_range(first, count, self.length)
        begin = first % len(values)
        if begin + count <= len(values):
            return values[begin : begin + count]
        return _frozen(values[np.arange(first, first + count) % len(values)])


def load_recorded(config: RecordedConfig) -> Recorded:
    """Read a recording.

    Raises:
        ConfigError: Columns, rows, rate or options do not fit, or truth is not from 0 to 1.
        SourceError: The file cannot be read.
        MissingExtra: The format needs a package that is not installed.
    """
    samples = _loaded(config, config.channels, config.columns)
    truth = None if config.truth is None else _loaded_truth(config, config.truth)
    return Recorded(
        config.channels,
        config.rate_hz,
        samples,
        truth=truth,
        repeats=config.at_end == "repeat",
    )


def load_gas_turbine(config: GasTurbineConfig) -> Recorded:
    """Read the bundled gas turbine.

    Raises:
        ConfigError: The rows do not fit, or the file is not installed.
    """
    return load_recorded(
        RecordedConfig(
            path=find_places().turbine_rows,
            channels=config.channels,
            rate_hz=config.rate_hz,
            first_row=config.first_row,
            last_row=config.last_row,
            at_end=config.at_end,
        )
    )


@functools.cache
def _turbine_stream() -> StreamSpec:
    """Return channels and rate as the model that comes with the file declares them."""
    return load_bundle(find_places().turbine_first).spec.stream


def _loaded_truth(config: RecordedConfig, column: str | int) -> np.ndarray:
    truth = _loaded(config, (ChannelSpec("truth"),), {"truth": column})[:, 0]
    if not ((truth >= 0) & (truth <= 1) | np.isnan(truth)).all():
        raise ConfigError(
            f"truth in column {column!r} goes from {np.nanmin(truth):g} to {np.nanmax(truth):g}",
            where=str(config.path),
            expected="values from 0, healthy, to 1, and blanks where nobody knows",
            remedy="Choose another column, or scale this one.",
        )
    return truth


def _loaded(
    config: RecordedConfig, channels: tuple[ChannelSpec, ...], columns: dict[str, str | int] | None
) -> np.ndarray:
    """Read the columns of some channels with the source for this format, shape (n, channels)."""
    source = registry.create("sources", config.format, _source_options(config, columns))
    assert isinstance(source, Recording)  # noqa: S101 - all of _FORMATS are
    source.open("signal", StreamSpec(channels, config.rate_hz), 0)
    blocks = []
    while not source.is_exhausted:
        frame = source.read(0.0)
        if frame is not None:
            blocks.append(frame.samples)
    source.close()
    return np.concatenate(blocks)


def _source_options(
    config: RecordedConfig, columns: dict[str, str | int] | None
) -> dict[str, object]:
    # Times are those of the signal; what the file says about them is not asked.
    grid = {"start": "1970-01-01T00:00:00Z", "step_s": 1 / config.rate_hz}
    options: dict[str, object] = {
        "path": str(config.path),
        "columns": columns,
        "first_row": config.first_row,
        "last_row": config.last_row,
        "speed": "max",
        "block": _BLOCK,
    }
    if config.format != "wav":
        options["time"] = grid
    return _further(config, options)


def _further(config: RecordedConfig, options: dict[str, object]) -> dict[str, object]:
    """Add the options of the format to those that every recording has here."""
    for name in config.options:
        if name in options:
            raise ConfigError(
                f"options names {name!r}",
                where=str(config.path),
                expected="an option of the format alone, such as delimiter",
                remedy="Times, block and speed are the signal's; the others stand beside options.",
            )
    return options | config.options


def _frozen(values: np.ndarray) -> np.ndarray:
    frozen = np.ascontiguousarray(values, np.float32).view()
    frozen.flags.writeable = False
    return frozen
