"""How long the device has run, what it wrote meanwhile, and whether a run ended as it should.

Times are the monotonic clock's, added up over runs: a wall clock that jumps ages nothing,
and time that the device was off counts for nothing.
"""

from __future__ import annotations

import sqlite3

import msgspec

from edge_runtime.ports import Clock

__all__ = ["Run", "Runs", "wear_bytes_per_day"]

# Runs whose wear is remembered.
_KEPT = 16
# How long a device runs before it notes that it has.
_NOTE_NS = 600 * 10**9
_DAY_NS = 86_400 * 10**9
# In less, a commit more or less decides about a day.
_LEAST_NS = 60 * 10**9


class Run(msgspec.Struct, frozen=True):
    """One run of the device.

    Attributes:
        incarnation: Of ``state.db``.
        epoch: Of the run.
        opened_monotonic_ns: When it began.
        ran_before_ns: How long all runs before it took.
        ran_ns: How long it took, as last noted.
        written_bytes: What ``outbox.db`` wrote meanwhile.
        state_written_bytes: What ``state.db`` wrote meanwhile.
        has_ended: Whether everything was committed that was made.
    """

    incarnation: int
    epoch: int
    opened_monotonic_ns: int
    ran_before_ns: int = 0
    ran_ns: int = 0
    written_bytes: int = 0
    state_written_bytes: int = 0
    has_ended: bool = False


class Runs:
    """The runs of one outbox, of which the last is this one.

    Args:
        connection: To the outbox, with rows by name.
        incarnation: Of ``state.db``.
        epoch: Of this run.
        clock: Tells how long it takes.

    Attributes:
        was_cut_off: Whether the run before did not come to its end.
    """

    def __init__(
        self, connection: sqlite3.Connection, incarnation: int, epoch: int, clock: Clock
    ) -> None:
        self._connection = connection
        self._clock = clock
        known = self.known(connection)
        before_ns = max((run.ran_before_ns + run.ran_ns for run in known), default=0)
        self._run = Run(incarnation, epoch, clock.monotonic_ns(), before_ns)
        self._noted_ns = self._run.opened_monotonic_ns
        self._offsets_ns = {
            (run.incarnation, run.epoch): run.ran_before_ns - run.opened_monotonic_ns
            # Whoever opens the file of the last run again does not begin it anew.
            for run in (self._run, *known)
        }
        self.was_cut_off = bool(known) and not known[-1].has_ended

    @staticmethod
    def known(connection: sqlite3.Connection) -> list[Run]:
        """Return what is known of runs, oldest first."""
        rows = connection.execute(
            f"SELECT {', '.join(Run.__struct_fields__)} FROM run ORDER BY number"  # noqa: S608
        )
        return [msgspec.convert(dict(row), Run, strict=False) for row in rows]

    def begin(self) -> None:
        """Write down that this run has begun; inside a transaction."""
        self._connection.execute(
            "DELETE FROM run WHERE number <= (SELECT max(number) FROM run) - ? AND NOT EXISTS ("
            "SELECT 1 FROM block WHERE block.incarnation = run.incarnation "
            "AND block.epoch = run.epoch)",
            (_KEPT,),
        )
        self._connection.execute(
            "INSERT INTO run (incarnation, epoch, opened_monotonic_ns, ran_before_ns) "
            "VALUES (?, ?, ?, ?)",
            msgspec.structs.astuple(self._run)[:4],
        )

    def note(self, written_bytes: int, state_written_bytes: int = 0, *, has_ended: bool) -> None:
        """Write down how this run stands; inside a transaction."""
        self._noted_ns = self._clock.monotonic_ns()
        self._connection.execute(
            "UPDATE run SET ran_ns = ?, written_bytes = ?, "
            "state_written_bytes = state_written_bytes + ?, has_ended = ? "
            "WHERE number = (SELECT max(number) FROM run) AND incarnation = ? AND epoch = ?",
            (
                self.ran_ns,
                written_bytes,
                state_written_bytes,
                has_ended,
                self._run.incarnation,
                self._run.epoch,
            ),
        )

    @property
    def ran_ns(self) -> int:
        """How long this run has taken."""
        return self._clock.monotonic_ns() - self._run.opened_monotonic_ns

    @property
    def is_due(self) -> bool:
        """Whether it is time for a `note`."""
        return self._clock.monotonic_ns() - self._noted_ns > _NOTE_NS

    def age_ns(self, block: sqlite3.Row) -> int:
        """Return for how long the device has run since a block was made."""
        offset_ns = self._offsets_ns.get((block["incarnation"], block["epoch"]))
        if offset_ns is None:
            return self.ran_ns
        made_ns = offset_ns + block["monotonic_ns"]
        return int(self._run.ran_before_ns + self.ran_ns - made_ns)


def wear_bytes_per_day(runs: list[Run]) -> int | None:
    """Return what both databases write in a day of running; None before there is a minute."""
    ran_ns = sum(run.ran_ns for run in runs)
    if ran_ns < _LEAST_NS:
        return None
    written = sum(run.written_bytes + run.state_written_bytes for run in runs)
    return written * _DAY_NS // ran_ns
