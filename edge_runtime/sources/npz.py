"""Recordings in NumPy archives."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_runtime.errors import EdgeError, SourceError
from edge_runtime.sources.columns import (
    check_columns,
    choose,
    keys_of,
    position,
    stack,
    times,
    unreadable,
)
from edge_runtime.sources.recording import Recording, TableConfig, Track
from edge_runtime.spec import StreamSpec

__all__ = ["NpzConfig", "NpzSource", "read_npz"]

_READABLE = "an .npz archive of numbers, without pickled objects"


class NpzConfig(TableConfig, frozen=True, kw_only=True):
    """Options of a NumPy archive.

    Attributes:
        array: Array of shape (n, channels) that holds all channels; ``columns``
            then gives their places, in the model's order by default. None
            takes one array of shape (n,) for each channel.
    """

    array: str | None = None


class NpzSource(Recording):
    """Replays arrays of an ``.npz`` file in their own dtype."""

    Config = NpzConfig

    def __init__(self, config: NpzConfig) -> None:
        super().__init__(config, lambda need: read_npz(config, need))


def read_npz(config: NpzConfig, need: StreamSpec) -> Track:
    """Read the needed arrays.

    Raises:
        ConfigError: There are no such arrays.
        SourceError: The file cannot be read, or arrays do not fit each other.
    """
    try:
        archive = np.load(config.path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with archive as arrays:
            return _track(arrays, config, need)
    except EdgeError:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise unreadable(config.path, error, _READABLE) from error


def _track(arrays: Mapping[str, Any], config: NpzConfig, need: StreamSpec) -> Track:
    samples = _joined(arrays, config, need) if config.array else _apart(arrays, config, need)
    column = None if config.time.column is None else _array(arrays, config.time.column, config)
    time_ns = times(config.time, column, len(samples), config.path)
    return Track(time_ns, samples, keys=_keys(arrays, config, len(samples)))


def _keys(arrays: Mapping[str, Any], config: NpzConfig, rows: int) -> np.ndarray | None:
    if config.key is None:
        return None
    array = _array(arrays, config.key, config)
    if array.shape != (rows,):
        raise SourceError(
            f"array {config.key!r} has shape {array.shape}",
            where=str(config.path),
            expected=f"({rows},), the device of each row",
            remedy="Choose another array.",
        )
    return keys_of(array.tolist())


def _apart(arrays: Mapping[str, Any], config: NpzConfig, need: StreamSpec) -> np.ndarray:
    columns = choose(config, need)
    return stack([_array(arrays, name, config) for name in columns], columns, config.path)


def _joined(arrays: Mapping[str, Any], config: NpzConfig, need: StreamSpec) -> np.ndarray:
    array = _array(arrays, config.array or "", config)
    if array.ndim != 2:
        raise SourceError(
            f"array {config.array!r} has shape {array.shape}",
            where=str(config.path),
            expected="(rows, channels)",
            remedy="Choose another array.",
        )
    places = choose(config, need) if config.columns else list(range(len(need.names)))
    names = [str(i) for i in range(array.shape[1])]
    order = [position(place, names, config.path) for place in places]
    chosen = [array[:, place] for place in order]
    if order != list(range(len(names))):
        return stack(chosen, places, config.path)
    # As it should be already: a copy would take the memory of the recording once more.
    check_columns(chosen, places, config.path)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _array(arrays: Mapping[str, Any], name: str | int, config: NpzConfig) -> np.ndarray:
    names = list(arrays)
    array: np.ndarray = arrays[names[position(name, names, config.path)]]
    return array
