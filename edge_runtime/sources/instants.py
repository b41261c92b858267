"""Event times of recordings, from text and numbers to nanoseconds UTC."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime.errors import ConfigError

__all__ = ["Instant", "TimeConfig", "TimeFormat", "instant_ns", "parser_of", "to_instants"]

TimeFormat = Literal["iso", "unix_s", "unix_ms", "unix_ns"]
Instant = Annotated[datetime, Meta(tz=True)]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST = (1 << 63) - 1
_UNITS_NS = {"unix_s": 1_000_000_000, "unix_ms": 1_000_000, "unix_ns": 1}


class TimeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where event times come from: a column, or a start and a step.

    Attributes:
        column: Name or number of the column with times.
        format: How it writes them; without an offset ISO times are UTC.
        start: Time of row 0, such as ``2013-01-01T00:00:00Z``.
        step_s: Seconds from one row to the next.
    """

    column: str | int | None = None
    format: TimeFormat = "iso"
    start: Instant | None = None
    step_s: Annotated[float, Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        has_grid = self.start is not None and self.step_s is not None
        has_part = self.start is not None or self.step_s is not None
        if (self.column is None) != has_grid or (self.column is not None and has_part):
            raise ConfigError(
                "time names neither a column nor a start with a step, or both",
                expected="{column: NAME, format: iso|unix_s|unix_ms|unix_ns} "
                "or {start: TIME, step_s: S}",
                remedy="Give one of the two.",
            )

    def grid(self, rows: int, first: int = 0) -> np.ndarray:
        """Return the times of ``rows`` rows from row ``first`` on, shape (rows,), int64."""
        if self.start is None or self.step_s is None:
            raise ValueError("times come from a column")
        step_ns = self.step_s * 1e9
        steps: np.ndarray = np.arange(first, first + rows, dtype=np.int64)
        if step_ns == round(step_ns):
            steps *= round(step_ns)
        else:
            steps = np.rint(steps * step_ns).astype(np.int64)
        steps += instant_ns(self.start)
        return steps


def instant_ns(instant: datetime) -> int:
    """Return nanoseconds since the Unix epoch; a time without an offset is UTC."""
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1) * 1000


def parser_of(format: TimeFormat) -> Callable[[str], int]:  # noqa: A002
    """Return the function that reads one time as text; it raises ValueError."""
    if format == "unix_ns":
        return _from_nanoseconds
    return _from_iso if format == "iso" else partial(_from_decimal, unit_ns=_UNITS_NS[format])


def to_instants(times: np.ndarray, format: TimeFormat) -> np.ndarray:  # noqa: A002
    """Convert a column of times, shape (n,), to int64 ns.

    Args:
        times: ``datetime64``, numbers, or text.
        format: What numbers and text mean; ``datetime64`` speaks for itself.

    Raises:
        ValueError: A time is missing, out of range, or of another kind.
    """
    if times.dtype.kind == "M":
        return _from_datetime64(times)
    if times.dtype.kind in "UO":
        parse = parser_of(format)
        return np.array([parse(str(time)) for time in times], np.int64)
    if times.dtype.kind not in "iuf" or format == "iso":
        raise ValueError(f"a column of {times.dtype} is no time in format {format}")
    return _from_numbers(times, _UNITS_NS[format])


def _from_datetime64(times: np.ndarray) -> np.ndarray:
    if np.isnat(times).any():
        raise ValueError("a time is missing")
    return times.astype("datetime64[ns]").astype(np.int64)


def _from_numbers(times: np.ndarray, unit_ns: int) -> np.ndarray:
    if times.dtype.kind in "iu":
        return _from_integers(times, unit_ns)
    if not np.isfinite(times).all() or (np.abs(times.astype(np.float64)) * unit_ns >= 2**63).any():
        raise ValueError("a time is missing or out of range")
    # Whole and broken part apart: their product would lose nanoseconds.
    whole = np.floor(times)
    result: np.ndarray = np.rint((times - whole) * unit_ns).astype(np.int64)
    result += whole.astype(np.int64) * unit_ns
    return result


def _from_integers(times: np.ndarray, unit_ns: int) -> np.ndarray:
    """Multiply exactly: nanoseconds since 1970 are more than a float64 can hold."""
    if len(times) and max(-int(times.min()), int(times.max())) > _LARGEST // unit_ns:
        raise ValueError("a time is out of range")
    instants: np.ndarray = times.astype(np.int64)
    instants *= unit_ns
    return instants


def _from_iso(text: str) -> int:
    return instant_ns(datetime.fromisoformat(text.strip()))


def _from_decimal(text: str, unit_ns: int) -> int:
    try:
        return _bounded(int((Decimal(text.strip()) * unit_ns).to_integral_value()))
    except (InvalidOperation, OverflowError) as error:
        raise ValueError(f"{text!r} is no number") from error


def _from_nanoseconds(text: str) -> int:
    return _bounded(int(text))


def _bounded(time_ns: int) -> int:
    if abs(time_ns) > _LARGEST:
        raise ValueError(f"{time_ns} ns is out of range")
    return time_ns
