"""What devices said their boards took, as a cloud keeps it and others read it.

A cloud's store has one JSON file for each device, base and machine, in
``boards/<device>``; ``edge-runtime cloud boards --json`` prints the same as one list.
"""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from edge_runtime.errors import StoreError
from edge_runtime.sync.messages import BoardTimes
from edge_runtime.types import check_name

__all__ = [
    "BOARDS",
    "DeviceTimes",
    "Spread",
    "forget_times",
    "is_time",
    "read_times",
    "spread_of",
]

BOARDS = "boards"
"""Folder of a cloud's store."""

_LARGEST_BYTES = 1 << 16
# So many boards tell a quartile; fewer tell their ends.
_LEAST_FOR_QUARTILES = 4


class DeviceTimes(msgspec.Struct, frozen=True):
    """What one device said.

    Attributes:
        device: Who says it.
        received_ns: When it came first, by the cloud's clock.
        times: As it said it; without files where it is refused.
        refused: Why it does not count; empty if it does.
    """

    device: str
    received_ns: int
    times: BoardTimes
    refused: str = ""


class Spread(msgspec.Struct, frozen=True):
    """What several boards of one kind took for one file, µs.

    Attributes:
        boards: How many.
        median_us: Of the boards' medians: one that is wrong or lies moves it little.
        low_us: First quartile, or of fewer than four boards the quickest.
        high_us: Third quartile, or of fewer than four boards the slowest.
    """

    boards: int
    median_us: float
    low_us: float
    high_us: float


def spread_of(runs: Mapping[str, Sequence[float]]) -> Spread:
    """Return the middle and the spread over boards; each counts once, by its median.

    Args:
        runs: Times of every board, µs, one or more; one board or more.
    """
    medians = sorted(statistics.median(times) for times in runs.values())
    low, high = medians[0], medians[-1]
    if len(medians) >= _LEAST_FOR_QUARTILES:
        low, _, high = statistics.quantiles(medians, n=4, method="inclusive")
    return Spread(len(medians), statistics.median(medians), low, high)


def read_times(store: Path) -> Iterator[DeviceTimes]:
    """Yield what is kept in a cloud's store, by device; what does not count included.

    Raises:
        StoreError: A file is damaged.
    """
    for path in sorted((store / BOARDS).glob("*/*.json")):
        try:
            if path.stat().st_size > _LARGEST_BYTES:
                raise ValueError(f"more than {_LARGEST_BYTES} bytes")
            yield msgspec.json.decode(path.read_bytes(), type=DeviceTimes)
        except FileNotFoundError:
            # A newer one has just taken its place, or the device was deleted.
            continue
        except (OSError, ValueError) as error:
            raise StoreError(
                f"cannot be read: {error}",
                where=str(path),
                expected="what a device said its board took",
                remedy="Delete the file: the device says it again at its next connection.",
            ) from error


def forget_times(store: Path, device: str) -> None:
    """Drop everything that a device said of its board; safe where it never did."""
    shutil.rmtree(store / BOARDS / check_name(device, "device"), ignore_errors=True)


def is_time(engine_us: float) -> bool:
    """Whether a number can be the time of a call: above 10 ns, and at most a minute."""
    return math.isfinite(engine_us) and 0.01 <= engine_us <= 60e6
