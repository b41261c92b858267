"""Samples in the order of their event time, one for each instant."""

from __future__ import annotations

import msgspec
import numpy as np

from edge_runtime.errors import ModelError
from edge_runtime.quality import MASK, joined_masks, masks_or_none

__all__ = ["Rows", "RowsState"]


class RowsState(msgspec.Struct, frozen=True):
    """Samples as bytes.

    Attributes:
        dtype: Of the samples.
        time_ns: int64.
        samples: C order.
        quality: uint16; empty where nothing is suspect.
    """

    dtype: str
    time_ns: bytes
    samples: bytes
    quality: bytes = b""


class Rows(msgspec.Struct, eq=False):
    """Samples and their event times; nothing here is changed in place.

    Attributes:
        time_ns: Shape (n,), int64.
        samples: Shape (n, channels); NaN where a channel has no sample.
        quality: What is suspect about each, see `Frame`; None where nothing is.
    """

    time_ns: np.ndarray
    samples: np.ndarray
    quality: np.ndarray | None = None

    @classmethod
    def none(cls, channels: int, dtype: np.dtype) -> Rows:
        """Return no rows."""
        return cls(np.empty(0, np.int64), np.empty((0, channels), dtype))

    def __len__(self) -> int:
        return len(self.time_ns)

    def take(self, rows: slice | np.ndarray) -> Rows:
        """Return some of the rows."""
        quality = None if self.quality is None else self.quality[rows]
        return Rows(self.time_ns[rows], self.samples[rows], quality)

    def joined(self, other: Rows) -> Rows:
        """Return these rows, then the others."""
        if not len(self):
            return other
        return Rows(
            np.concatenate((self.time_ns, other.time_ns)),
            np.concatenate((self.samples, other.samples)),
            joined_masks((one.quality, len(one)) for one in (self, other)),
        )

    def state(self) -> RowsState:
        """Return them as bytes."""
        masks = masks_or_none(self.quality)
        return RowsState(
            self.samples.dtype.str,
            self.time_ns.tobytes(),
            self.samples.tobytes(),
            b"" if masks is None else masks.tobytes(),
        )

    @classmethod
    def of_state(cls, state: RowsState, channels: int) -> Rows:
        """Read `state`'s bytes.

        Raises:
            ModelError: They are no rows of so many channels.
        """
        try:
            time_ns = np.frombuffer(state.time_ns, np.int64)
            samples = np.frombuffer(state.samples, state.dtype).reshape(len(time_ns), channels)
            masks = np.frombuffer(state.quality, MASK).reshape(len(time_ns) if state.quality else 0)
        except (ValueError, TypeError) as error:
            raise ModelError(
                f"the rows of a snapshot do not fit: {error}", expected=f"{channels} channels"
            ) from error
        return cls(time_ns, samples, masks if state.quality else None)

    def merged(self, new: Rows, most: int, slot_ns: int) -> tuple[Rows, dict[str, int]]:
        """Return these rows and the new ones, sorted; these are sorted already.

        Of several rows of one instant the first that came counts, and the others only
        for channels it does not have; what is suspect about those counts too then.

        Args:
            new: In the order in which they came.
            most: Rows that may lie within ``slot_ns``; more are left out.
            slot_ns: Period of the grid.

        Returns:
            The rows, and how many were left out, by reason.
        """
        rows = self.joined(new)
        last_ns = self.time_ns[-1] if len(self) else None
        steps = np.diff(new.time_ns) if last_ns is None else np.diff(rows.time_ns[len(self) - 1 :])
        lost = {}
        if not (steps > 0).all():
            rows, lost["duplicate"] = _sorted(rows)
        if len(rows) > most and (rows.time_ns[most:] - rows.time_ns[:-most] < slot_ns).any():
            rows, lost["flood"] = self._thinned(rows, most, slot_ns)
        return rows, lost

    def _thinned(self, rows: Rows, most: int, slot_ns: int) -> tuple[Rows, int]:
        """Leave out what is more than ``most`` in a slot: the latest of them."""
        slots = rows.time_ns // slot_ns
        is_kept = np.arange(len(rows)) - np.searchsorted(slots, slots) < most
        return rows.take(is_kept), len(rows) - int(np.count_nonzero(is_kept))


def _sorted(rows: Rows) -> tuple[Rows, int]:
    """Sort rows by time and make those of one instant one; count what added nothing."""
    rows = rows.take(np.argsort(rows.time_ns, kind="stable"))
    is_first = np.ones(len(rows), np.bool_)
    is_first[1:] = rows.time_ns[1:] != rows.time_ns[:-1]
    if is_first.all():
        return rows, 0
    firsts = np.flatnonzero(is_first)
    place = np.cumsum(is_first) - 1
    rank = np.arange(len(rows)) - firsts[place]
    merged = rows.take(firsts)
    idle = 0
    for number in range(1, int(rank.max()) + 1):
        again = np.flatnonzero(rank == number)
        idle += _filled_up(merged, place[again], rows.take(again))
    return merged, idle


def _filled_up(rows: Rows, places: np.ndarray, others: Rows) -> int:
    """Take from others what is missing in rows; count those that had nothing of it."""
    if rows.samples.dtype.kind != "f":
        return len(others)
    samples = rows.samples
    missing = np.isnan(samples[places]) & ~np.isnan(others.samples)
    samples[places] = np.where(missing, others.samples, samples[places])
    is_used = missing.any(axis=1)
    if rows.quality is not None and others.quality is not None:
        rows.quality[places] |= np.where(is_used, others.quality, MASK.type(0))
    return len(others) - int(np.count_nonzero(is_used))
