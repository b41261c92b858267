"""The clock grid: from sorted samples to one value for each slot and channel.

What a slot holds is a pure function of the samples around it, and it is asked for
only once no sample on time can change it: how samples came in does not matter.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from edge_runtime.pipeline.timeline.rows import Rows
from edge_runtime.quality import MASK, Quality, bits_of
from edge_runtime.spec import GridSpec, StreamSpec

__all__ = ["Grid", "Slots"]

_NONE = np.empty(0, np.int64)
_FAR = np.iinfo(np.int64).max
_LOST = MASK.type(Quality.LOST_BEFORE)


class Slots(msgspec.Struct, frozen=True, eq=False):
    """Slots that have a value.

    Attributes:
        number: Of each, ascending, shape (n,), int64.
        samples: Shape (n, channels), C order.
        is_bridged: Which got a value from the gap policy, in any channel, shape (n,).
        quality: What is suspect about each, see `Frame`: the bits of the samples that
            make it, ``FILLED`` where the gap policy gave the value, ``LOST_BEFORE`` on
            the first slot at or behind such a sample. None where nothing is.
        incomplete: Numbers of slots that are left out because some channels have a value
            there and others none, ascending; not passed on by `take`.
    """

    number: np.ndarray
    samples: np.ndarray
    is_bridged: np.ndarray
    quality: np.ndarray | None = None
    incomplete: np.ndarray = _NONE

    def __len__(self) -> int:
        return len(self.number)

    def take(self, rows: slice | np.ndarray) -> Slots:
        """Return some of them."""
        quality = None if self.quality is None else self.quality[rows]
        return Slots(self.number[rows], self.samples[rows], self.is_bridged[rows], quality)


class _Made(NamedTuple):
    """Values for slots, and of which samples they are made.

    Attributes:
        values: Shape (n, channels).
        can: Which slots get one, shape (n,).
        first: First sample of each.
        last: Last sample of each.
    """

    values: np.ndarray
    can: np.ndarray
    first: np.ndarray
    last: np.ndarray


class Grid:
    """Puts samples on slots; keeps nothing.

    Args:
        stream: Rate, channels and grid.
        gap_periods: Longest step between samples that is no gap.

    Attributes:
        period_ns: Between two slots.
        reach_ns: How far from a slot a sample may be that decides its value.
    """

    def __init__(self, stream: StreamSpec, gap_periods: float) -> None:
        spec = stream.grid or GridSpec()
        self.period_ns = stream.period_ns
        self._spec = spec
        self._near_ns = int(gap_periods * self.period_ns)
        self._limit_ns = round(spec.longest_gap_s * 1e9)
        self.reach_ns = max(self._near_ns, self._limit_ns) + self.period_ns
        self._looks_ahead = spec.resample == "linear" or spec.gaps == "fill"
        self._takes_closest = spec.resample in ("nearest", "mean")

    def dtype(self, source: np.dtype) -> np.dtype:
        """Return the dtype of slots for samples of a source."""
        keeps = self._spec.resample in ("nearest", "hold") and self._spec.gaps in ("skip", "hold")
        return source if keeps and source.kind != "f" else np.dtype(np.float32)

    def slot_of(self, time_ns: int) -> int:
        """Return the slot in whose half period an instant lies."""
        return (time_ns + self.period_ns // 2) // self.period_ns

    def earliest(self, time_ns: int) -> int:
        """Return a slot before which no sample from this instant on changes anything."""
        return (time_ns - self.reach_ns) // self.period_ns

    def oldest_ns(self, slot: int) -> int:
        """Return before when samples no longer matter to this slot and those after it."""
        return slot * self.period_ns - self.reach_ns

    def known(self, rows: Rows, watermark_ns: int) -> int:
        """Return the last slot that samples after the watermark cannot change.

        Args:
            rows: Sorted; may reach beyond the watermark.
            watermark_ns: Everything up to here has come.
        """
        last = self.slot_of(watermark_ns + 1) - 1 if self._takes_closest else 0
        if not self._takes_closest:
            last = watermark_ns // self.period_ns
        if not self._looks_ahead:
            return last
        come = _within(rows, watermark_ns - self.reach_ns, watermark_ns)
        return min(self._known_of(own.time_ns, last, watermark_ns) for _, own in _groups(come))

    def _known_of(self, time_ns: np.ndarray, last: int, watermark_ns: int) -> int:
        """Return the last slot known of channels that came together."""
        if not len(time_ns):
            return last
        newest_ns = time_ns.item(-1)
        if watermark_ns - newest_ns >= self.reach_ns:
            return last
        own = self.slot_of(newest_ns) if self._takes_closest else newest_ns // self.period_ns
        return min(last, own)

    def between(self, rows: Rows, first: int, last: int) -> Slots:
        """Return the slots from ``first`` to ``last`` that have a value in every channel."""
        near = _within(rows, self.oldest_ns(first), last * self.period_ns + self.reach_ns)
        groups = list(_groups(near))
        covered = [self._covered(own, first, last) for _, own in groups]
        number = functools.reduce(_common, covered)
        samples = np.empty((len(number), rows.samples.shape[1]), self.dtype(rows.samples.dtype))
        has_value = np.ones(len(number), np.bool_)
        is_bridged = np.zeros(len(number), np.bool_)
        quality = None
        for channels, own in groups:
            made, is_filled = self._values(own, number)
            samples[:, channels] = made.values
            has_value &= made.can
            is_bridged |= is_filled
            masks = self._masks(own, number, made, is_filled)
            quality = masks if quality is None or masks is None else quality | masks
        slots = Slots(number, samples, is_bridged, quality).take(has_value)
        if len(groups) == 1:
            return slots
        parts = [(own, cover) for (_, own), cover in zip(groups, covered, strict=True)]
        return msgspec.structs.replace(slots, incomplete=self._incomplete(parts, slots.number))

    def _incomplete(self, parts: list[tuple[Rows, np.ndarray]], complete: np.ndarray) -> np.ndarray:
        """Return slots in which some channels have a value and others none.

        Args:
            parts: Samples of channels that came together, and slots that may have one.
            complete: Slots with a value in every channel.
        """
        if all(len(covered) == len(complete) for _, covered in parts):
            return _NONE
        some = [covered[self._values(own, covered)[0].can] for own, covered in parts]
        return np.setdiff1d(np.concatenate(some), complete)

    # --- where there may be values ------------------------------------------------------

    def _covered(self, rows: Rows, first: int, last: int) -> np.ndarray:
        """Return slots from first to last that are not too far behind a sample."""
        time_ns = rows.time_ns
        if not len(time_ns) or last < first:
            return np.empty(0, np.int64)
        breaks = np.flatnonzero(np.diff(time_ns) > self.reach_ns) + 1
        begins = time_ns[np.concatenate(([0], breaks))]
        ends = time_ns[np.concatenate((breaks, [len(time_ns)])) - 1]
        if not self._takes_closest or self._spec.gaps in ("hold", "mark"):
            ends = ends + self.reach_ns
        half_ns = self.period_ns // 2
        from_slot = np.maximum((begins + half_ns) // self.period_ns, first)
        to_slot = np.minimum((ends + half_ns) // self.period_ns, last)
        # Neighbouring stretches may reach for the same slots.
        from_slot[1:] = np.maximum(from_slot[1:], np.maximum.accumulate(to_slot)[:-1] + 1)
        return _ranges(from_slot, to_slot)

    # --- values ------------------------------------------------------------------------

    def _values(self, rows: Rows, number: np.ndarray) -> tuple[_Made, np.ndarray]:
        """Return what slots get, and which of them get it from the gap policy."""
        at_ns = number * self.period_ns
        is_bridged = np.zeros(len(number), np.bool_)
        if not len(rows) or not len(number):
            values = np.zeros((len(number), rows.samples.shape[1]))
            return _Made(values, is_bridged, number, number), is_bridged
        left = np.searchsorted(rows.time_ns, at_ns, "right") - 1
        made = self._sampled(rows, number, at_ns, left)
        missing = np.flatnonzero(~made.can)
        if len(missing) and self._spec.gaps != "skip":
            bridge = self._bridge(rows, at_ns[missing], left[missing])
            is_bridged[missing] = bridge.can
            made = _put_in(made, missing, bridge)
        return made, is_bridged

    def _sampled(
        self, rows: Rows, number: np.ndarray, at_ns: np.ndarray, left: np.ndarray
    ) -> _Made:
        match self._spec.resample:
            case "nearest":
                return self._nearest(rows, number, at_ns, left)
            case "mean":
                return self._mean(rows, number)
            case "hold":
                return _held(rows, at_ns, left, self._near_ns)
            case "linear":
                return _on_line(rows, at_ns, left, self._near_ns)

    def _cells(self, rows: Rows) -> np.ndarray:
        cells: np.ndarray = (rows.time_ns + self.period_ns // 2) // self.period_ns
        return cells

    def _nearest(
        self, rows: Rows, number: np.ndarray, at_ns: np.ndarray, left: np.ndarray
    ) -> _Made:
        cells = self._cells(rows)
        right = np.minimum(left + 1, len(rows) - 1)
        is_before = (left >= 0) & (cells[left] == number)
        before = np.where(is_before, np.abs(at_ns - rows.time_ns[left]), _FAR)
        after = np.where(cells[right] == number, np.abs(rows.time_ns[right] - at_ns), _FAR)
        closest = np.where(after < before, right, left)
        return _Made(rows.samples[closest], np.minimum(before, after) < _FAR, closest, closest)

    def _mean(self, rows: Rows, number: np.ndarray) -> _Made:
        cells = self._cells(rows)
        low = np.searchsorted(cells, number, "left")
        high = np.searchsorted(cells, number, "right")
        is_sampled = high > low
        values = np.zeros((len(number), rows.samples.shape[1]))
        bounds = np.stack((low[is_sampled], high[is_sampled]), axis=1).ravel()
        # A row of zeros behind the last one: no bound may lie outside.
        padded = np.vstack((rows.samples.astype(np.float64), np.zeros((1, values.shape[1]))))
        if len(bounds):
            sums = np.add.reduceat(padded, bounds, axis=0)[::2]
            values[is_sampled] = sums / (high - low)[is_sampled, None]
        return _Made(values, is_sampled, low, high - 1)

    def _bridge(self, rows: Rows, at_ns: np.ndarray, left: np.ndarray) -> _Made:
        """Return what the gap policy puts in slots, and where it may."""
        if self._spec.gaps == "fill":
            return _on_line(rows, at_ns, left, self._limit_ns)
        held = _held(rows, at_ns, left, self._limit_ns)
        if self._spec.gaps == "hold":
            return held
        return held._replace(values=np.full(held.values.shape, np.nan))

    # --- what is suspect ------------------------------------------------------------------

    def _masks(
        self, rows: Rows, number: np.ndarray, made: _Made, is_bridged: np.ndarray
    ) -> np.ndarray | None:
        """Return what is suspect about slots, shape (n,); None where nothing can be."""
        has_filled = self._spec.gaps in ("hold", "fill") and is_bridged.any()
        if rows.quality is None and not has_filled:
            return None
        masks = np.zeros(len(number), MASK)
        if has_filled:
            masks[is_bridged] = Quality.FILLED
        if rows.quality is not None:
            # A value that is used again does not come after lost samples again.
            masks |= _bits_between(rows.quality & ~_LOST, made.first, made.last + 1)
            masks |= _bits_between(rows.quality & _LOST, *self._came_for(rows, number))
        return masks

    def _came_for(self, rows: Rows, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first sample of each slot's own period, and the first behind it."""
        if self._takes_closest:
            cells = self._cells(rows)
            return np.searchsorted(cells, number, "left"), np.searchsorted(cells, number, "right")
        at_ns = number * self.period_ns
        first = np.searchsorted(rows.time_ns, at_ns - self.period_ns, "right")
        return first, np.searchsorted(rows.time_ns, at_ns, "right")


def _common(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.intersect1d(one, two, assume_unique=True)


def _put_in(made: _Made, places: np.ndarray, bridge: _Made) -> _Made:
    """Return what was made, with something else in some places."""
    values = made.values.astype(bridge.values.dtype, copy=False)
    values[places] = bridge.values
    can, first, last = (column.copy() for column in made[1:])
    can[places], first[places], last[places] = bridge[1:]
    return _Made(values, can, first, last)


def _bits_between(quality: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the bits of samples from each first to each end (exclusive), shape (n,)."""
    found = np.zeros(len(first), MASK)
    for bit in bits_of(int(np.bitwise_or.reduce(quality, initial=0))):
        so_far = np.concatenate(([0], np.cumsum((quality & bit) != 0)))
        found[so_far[end] > so_far[first]] |= MASK.type(bit)
    return found


def _held(rows: Rows, at_ns: np.ndarray, left: np.ndarray, limit_ns: int) -> _Made:
    """Return the last sample, where it is not too old."""
    is_near = (left >= 0) & (at_ns - rows.time_ns[left] <= limit_ns)
    return _Made(rows.samples[left], is_near, left, left)


def _on_line(rows: Rows, at_ns: np.ndarray, left: np.ndarray, limit_ns: int) -> _Made:
    """Return values between the samples before and after, where these are near enough."""
    past_ns = at_ns - rows.time_ns[left]
    # On a sample itself the next one does not matter, and may not have come.
    right = np.minimum(left + (past_ns > 0), len(rows) - 1)
    step_ns = rows.time_ns[right] - rows.time_ns[left]
    is_between = (left >= 0) & (step_ns <= limit_ns) & (past_ns <= step_ns)
    share = past_ns / np.maximum(step_ns, 1)
    before = rows.samples[left].astype(np.float64)
    values: np.ndarray = before + (rows.samples[right] - before) * share[:, None]
    return _Made(values, is_between, left, right)


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return all integers from each first to each last one, both included."""
    counts = np.maximum(last - first + 1, 0)
    starts = np.repeat(first - (np.cumsum(counts) - counts), counts)
    return starts + np.arange(len(starts))


def _within(rows: Rows, first_ns: int, last_ns: int) -> Rows:
    """Return rows between two instants, both included."""
    first = int(np.searchsorted(rows.time_ns, first_ns, "left"))
    return rows.take(slice(first, int(np.searchsorted(rows.time_ns, last_ns, "right"))))


def _groups(rows: Rows) -> Iterator[tuple[slice | np.ndarray, Rows]]:
    """Yield channels whose samples came together, and those samples alone."""
    whole = slice(0, rows.samples.shape[1])
    is_there = None if rows.samples.dtype.kind != "f" else ~np.isnan(rows.samples)
    if is_there is None or is_there.all():
        yield whole, rows
        return
    alike: dict[bytes, list[int]] = {}
    for channel in range(is_there.shape[1]):
        alike.setdefault(is_there[:, channel].tobytes(), []).append(channel)
    for channels in alike.values():
        own = is_there[:, channels[0]]
        places = np.array(channels)
        some = rows.take(own)
        yield places, Rows(some.time_ns, some.samples[:, places], some.quality)
