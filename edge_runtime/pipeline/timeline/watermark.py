"""Which stamps are believed, and how far the time of a stream has come."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np

from edge_runtime.ports import Timing

__all__ = ["NEVER_NS", "Admitted", "BackState", "Setback", "Watermark", "WatermarkState"]

NEVER_NS = -(1 << 62)
"""Before every event time; its opposite is behind every one."""


class Admitted(NamedTuple):
    """What became of samples, by their position.

    Attributes:
        believed: In the order in which they count, int64.
        future: With stamps that no neighbour confirmed.
        watermark_ns: After each believed one, int64.
    """

    believed: np.ndarray
    future: np.ndarray
    watermark_ns: np.ndarray


class WatermarkState(msgspec.Struct, frozen=True):
    """What a `Watermark` must remember.

    Attributes:
        newest_ns: Latest believed event time; None before the first.
        held_ns: Stamps that wait for others to confirm them.
        at_ns: The watermark.
    """

    newest_ns: int | None = None
    held_ns: tuple[int, ...] = ()
    at_ns: int = NEVER_NS


class Watermark:
    """Follows the event time of one stream; knows no clock.

    A stamp further ahead than ``skew_ns`` is held. If the next ``confirm_rows - 1``
    samples agree with it, each within ``skew_ns`` of the one before, the stream has
    jumped; if not, it was wild. A stream begins the same way. So neither a wild
    stamp nor a clock that is wrong altogether can starve a stream, and no other
    stream is asked.

    Args:
        timing: Delay, skew and confirmation.
        period_ns: Of the grid; the skew is at least four of them.
    """

    def __init__(self, timing: Timing, period_ns: int) -> None:
        self._delay_ns = round(timing.delay_s * 1e9)
        self._skew_ns = max(round(timing.future_skew_s * 1e9), 4 * period_ns)
        self._confirm = timing.confirm_rows
        self.state = WatermarkState()

    @property
    def at_ns(self) -> int:
        """Everything up to here is taken to have come."""
        return self.state.at_ns

    def admit(self, time_ns: np.ndarray) -> Admitted:
        """Take the stamps of samples as they come; those held so far come first.

        Args:
            time_ns: Shape (n,), int64: first the stamps that are held, then new ones.
        """
        walk = _Walk(time_ns, self.state, self._skew_ns, self._confirm)
        walk.run(len(self.state.held_ns))
        believed = np.concatenate(walk.believed) if walk.believed else np.empty(0, np.int64)
        latest = np.maximum.accumulate(time_ns[believed])
        marks = np.maximum(latest - self._delay_ns, self.state.at_ns)
        if self.state.newest_ns is not None:
            marks = np.maximum(marks, self.state.newest_ns - self._delay_ns)
        self.state = WatermarkState(
            walk.newest_ns,
            tuple(time_ns[walk.held].tolist()),
            int(marks[-1]) if len(marks) else self.state.at_ns,
        )
        return Admitted(believed, np.array(walk.future, np.int64), marks)

    def believe_held(self) -> int:
        """Take what is held for true, at the end of a stream that was too short to tell.

        Returns:
            How many stamps; 0 where there are others to believe.
        """
        held, newest_ns = self.state.held_ns, self.state.newest_ns
        if newest_ns is None and held:
            newest_ns = max(held)
            self.state = WatermarkState(newest_ns, (), newest_ns - self._delay_ns)
            return len(held)
        self.state = msgspec.structs.replace(self.state, held_ns=())
        return 0

    def pass_time(self, passed_ns: int) -> None:
        """Go on with the newest stamp's clock, so long after that sample came."""
        if self.state.newest_ns is not None:
            self.raise_to(self.state.newest_ns + passed_ns - self._delay_ns)

    def raise_to(self, time_ns: int) -> None:
        """Take everything up to an event time to have come."""
        at_ns = max(self.state.at_ns, min(time_ns, -NEVER_NS))
        self.state = msgspec.structs.replace(self.state, at_ns=at_ns)


class _Walk:
    """One pass over stamps, from one that stands out to the next."""

    def __init__(
        self, time_ns: np.ndarray, state: WatermarkState, skew_ns: int, confirm: int
    ) -> None:
        self._time_ns = time_ns
        self._skew_ns = skew_ns
        self._confirm = confirm
        self.newest_ns = state.newest_ns
        self.held = list(range(len(state.held_ns)))
        self.believed: list[np.ndarray] = []
        self.future: list[int] = []

    def run(self, first: int) -> None:
        row = first
        while row < len(self._time_ns):
            is_followed = self.newest_ns is not None
            if is_followed and not self.held:
                row = self._believe_until_ahead(row)
            elif is_followed and not self._is_ahead(row):
                self._give_up_held()
            else:
                self._hold(row)
                row += 1

    def _is_ahead(self, row: int) -> bool:
        assert self.newest_ns is not None  # noqa: S101 - for the type checker
        return int(self._time_ns[row]) - self.newest_ns > self._skew_ns

    def _believe_until_ahead(self, row: int) -> int:
        """Believe stamps up to the first that is far ahead, which is held."""
        assert self.newest_ns is not None  # noqa: S101 - for the type checker
        time_ns = self._time_ns[row:]
        latest = np.maximum.accumulate(np.concatenate(([self.newest_ns], time_ns)))
        ahead = time_ns - latest[:-1] > self._skew_ns
        count = int(ahead.argmax()) if ahead.any() else len(time_ns)
        self.believed.append(np.arange(row, row + count))
        self.newest_ns = int(latest[count])
        if count < len(time_ns):
            self._hold(row + count)
            count += 1
        return row + count

    def _hold(self, row: int) -> None:
        """Keep a stamp with those before it that it agrees with; enough of them are believed."""
        time_ns = self._time_ns
        if self.held and abs(time_ns.item(row) - time_ns.item(self.held[-1])) > self._skew_ns:
            self._give_up_held()
        self.held.append(row)
        if len(self.held) >= self._confirm:
            latest_ns = max(time_ns[self.held].tolist())
            self.newest_ns = latest_ns if self.newest_ns is None else max(self.newest_ns, latest_ns)
            self.believed.append(np.array(self.held))
            self.held = []

    def _give_up_held(self) -> None:
        self.future.extend(self.held)
        self.held = []


class BackState(msgspec.Struct, frozen=True):
    """Samples in a row that were all too late.

    Attributes:
        first_ns: Event time of the first.
        latest_ns: Latest of them.
        count: How many.
    """

    first_ns: int
    latest_ns: int
    count: int = 0


class Setback:
    """Tells a clock that was set back from a few samples that are too late.

    Args:
        timing: Says how many samples, over how much event time, make the difference.
    """

    def __init__(self, timing: Timing) -> None:
        self._limit_s = timing.clock_back_s
        self._least = timing.confirm_rows
        self.state: BackState | None = None

    def where(self, time_ns: np.ndarray, is_too_late: np.ndarray) -> int | None:
        """Return the position of the sample that is one too many; None if none is.

        Args:
            time_ns: The next believed stamps, shape (n,), int64.
            is_too_late: Which of them come too late to change anything, shape (n,).
        """
        if not len(time_ns):
            return None
        state = self.state
        edges = np.flatnonzero(np.diff(is_too_late, prepend=False, append=False)).tolist()
        runs = zip(edges[::2], edges[1::2], strict=True) if self._limit_s is not None else ()
        for first, last in runs:
            before = state if first == 0 and state else BackState(time_ns.item(first), NEVER_NS)
            found, state = self._lengthened(before, time_ns[first:last])
            if found is not None:
                return int(first + found)
        self.state = state if is_too_late[-1] else None
        return None

    def _lengthened(
        self, before: BackState, time_ns: np.ndarray
    ) -> tuple[int | None, BackState | None]:
        """Go on with samples that are too late; say which is one too many, or what they make."""
        limit_ns = round((self._limit_s or 0.0) * 1e9)
        latest = np.maximum(np.maximum.accumulate(time_ns), before.latest_ns)
        counts = before.count + 1 + np.arange(len(time_ns))
        is_clock = (latest - before.first_ns >= limit_ns) & (counts >= self._least)
        if is_clock.any():
            return int(is_clock.argmax()), None
        return None, BackState(before.first_ns, latest.item(-1), counts.item(-1))
