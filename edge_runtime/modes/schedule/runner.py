"""Does what is due, one job after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from edge_runtime.errors import EdgeError
from edge_runtime.modes.schedule.history import History
from edge_runtime.modes.schedule.when import When
from edge_runtime.ports import Clock

__all__ = ["Job", "Scheduler"]

log = logging.getLogger(__name__)

_MOST_CAUGHT_UP = 10_000
# A job that begins this late was not missed.
_ON_TIME_NS = 60 * 10**9


class Job(msgspec.Struct, frozen=True, eq=False):
    """Something to be done by the clock.

    Attributes:
        name: Of the job, as in topics and paths.
        when: Its instants.
        run: Does it for one planned instant, ns, and returns what there is to tell; an
            `EdgeError` is a failed run.
    """

    name: str
    when: When
    run: Callable[[int], str]


class Scheduler:
    """Jobs, their instants, and a history of both; used by one thread.

    Guarantee: an instant is done once by all processes that share the history, and
    again only if the one that did it has died in the middle. Instants count from when
    the history first heard of a job. A wall clock that goes back repeats nothing.

    Args:
        jobs: What is to be done; of several that are due, the earliest instant is first.
        history: Where it is kept.
        clock: Tells wall time.
    """

    def __init__(self, jobs: Sequence[Job], history: History, clock: Clock) -> None:
        self._jobs = jobs
        self._history = history
        self._clock = clock
        for job in jobs:
            history.known_since(job.name)

    def run_due(self, should_stop: Callable[[], bool] = lambda: False) -> int:
        """Do what is due now and return how many instants were done.

        Args:
            should_stop: Asked between two of them.
        """
        done = 0
        due = [(planned_ns, job) for job in self._jobs for planned_ns in self._due(job)]
        for planned_ns, job in sorted(due, key=lambda one: one[0]):
            if should_stop():
                break
            done += self._done(job, planned_ns)
        return done

    def next_ns(self) -> int | None:
        """Return when something is due next; None if nothing ever is."""
        instants = [self.next_of(job) for job in self._jobs]
        return min((instant for instant in instants if instant is not None), default=None)

    def next_of(self, job: Job) -> int | None:
        """Return the job's next instant, or the first of those that wait."""
        return next(job.when.after(self._settled(job)), None)

    def _settled(self, job: Job) -> int:
        settled_ns = self._history.settled_upto(job.name)
        known_ns = self._history.known_since(job.name)
        return known_ns if settled_ns is None else max(settled_ns, known_ns)

    def _due(self, job: Job) -> list[int]:
        """Return the instants to be done, and note those that are let go."""
        with self._history.locked(job.name) as is_mine:
            if not is_mine:
                return []
            interrupted = self._history.find_interrupted(job.name)
            missed = list(job.when.between(self._settled(job), self._clock.now_ns()))
            missed = [instant for instant in missed if instant not in interrupted]
            kept = self._kept(job, missed)
            if len(kept) < len(missed):
                last_ns = max(instant for instant in missed if instant not in kept)
                self._history.skip(job.name, last_ns, len(missed) - len(kept))
        return [*interrupted, *kept]

    def _kept(self, job: Job, missed: list[int]) -> list[int]:
        if job.when.catch_up == "each":
            return missed[-_MOST_CAUGHT_UP:]
        if job.when.catch_up == "none":
            on_time_ns = self._clock.now_ns() - _ON_TIME_NS
            return [instant for instant in missed[-1:] if instant >= on_time_ns]
        return missed[-1:]

    def _done(self, job: Job, planned_ns: int) -> bool:
        with self._history.locked(job.name) as is_mine:
            # Somebody else may have done it since it was found due.
            if not is_mine or self._history.is_settled(job.name, planned_ns):
                return False
            self._history.begin(job.name, planned_ns)
            log.info("job.started", extra={"job": job.name, "planned_ns": planned_ns})
            try:
                told = job.run(planned_ns)
            except EdgeError as error:
                self._history.end(job.name, planned_ns, "failed", str(error))
                log.error("job.failed", extra={"job": job.name, "why": str(error)})
            else:
                self._history.end(job.name, planned_ns, "ok", told)
                log.info("job.done", extra={"job": job.name, "told": told})
        return True
