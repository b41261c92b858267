"""What an operating point makes of recordings: events found and missed, false alarms."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from edge_runtime.pipeline.gate import Gate, Mark
from edge_runtime.spec import Limit
from edge_runtime.thresholds.truth import Event

__all__ = ["Outcome", "Track", "outcome_of", "track_of"]

_NS_PER_S = 1e9


class Track(msgspec.Struct, frozen=True, eq=False):
    """The smoothed values of one label in one recording, and its events.

    Attributes:
        values: Shape (n,), float64.
        end_ns: End of each window, shape (n,), int64.
        start_ns: Of each event, ascending, shape (m,), int64.
        until_ns: Up to when a start still counts for that event, shape (m,), int64.
        belongs: Which event each window belongs to, shape (n,), int64; -1 for none.
        quiet_hours: Time covered by windows that belong to none.
    """

    values: np.ndarray
    end_ns: np.ndarray
    start_ns: np.ndarray
    until_ns: np.ndarray
    belongs: np.ndarray
    quiet_hours: float


class Outcome(msgspec.Struct, frozen=True):
    """What a limit makes of all recordings.

    Attributes:
        found: Events in which the label started.
        missed: The others.
        false_alarms: Starts outside of events.
        repeats: Further starts within an event.
        delay_s: Median time from the start of an event to the label's; None without any.
    """

    found: int
    missed: int
    false_alarms: int
    repeats: int
    delay_s: float | None


def track_of(
    values: np.ndarray,
    end_ns: np.ndarray,
    events: Iterable[Event],
    *,
    tolerance_s: float,
    window_s: float,
) -> Track:
    """Lay values and events of one label side by side.

    Args:
        values: Smoothed, shape (n,).
        end_ns: End of each window, shape (n,).
        events: Of this label, apart from each other.
        tolerance_s: How long after an event a start still counts for it.
        window_s: Time from one window to the next.
    """
    ordered = sorted(events)
    start_ns = np.array([event.start_ns for event in ordered], np.int64)
    until_ns = np.array([event.end_ns for event in ordered], np.int64)
    until_ns += round(tolerance_s * _NS_PER_S)
    # The last event that had begun; where tolerance overlaps the next one, that one counts.
    belongs = np.searchsorted(start_ns, end_ns, side="right") - 1
    if len(ordered):
        belongs[end_ns > until_ns[belongs]] = -1
    quiet_hours = float(np.count_nonzero(belongs < 0)) * window_s / 3600.0
    return Track(values, end_ns, start_ns, until_ns, belongs, quiet_hours)


def outcome_of(limit: Limit, tracks: Iterable[Track]) -> Outcome:
    """Let the device's own gate decide, and count what becomes of the events."""
    found = events = alarms = starts = 0
    delays: list[np.ndarray] = []
    for track in tracks:
        gate = Gate(limit, Mark(), 0)
        crossed = gate.crossings(track.values, track.end_ns, 0, has_started=False)
        rows = np.array([row for row, is_start in crossed if is_start], np.int64)
        belongs = track.belongs[rows]
        hit, first = np.unique(belongs[belongs >= 0], return_index=True)
        times = track.end_ns[rows][belongs >= 0][first]
        delays.append((times - track.start_ns[hit]) / _NS_PER_S)
        events += len(track.start_ns)
        found += len(hit)
        alarms += int(np.count_nonzero(belongs < 0))
        starts += len(rows)
    late = np.concatenate(delays) if delays else np.empty(0)
    return Outcome(
        found,
        events - found,
        alarms,
        starts - alarms - found,
        float(np.median(late)) if len(late) else None,
    )
