"""What was planned and what became of it, and the lock on each job."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge_runtime.ports import Clock
from edge_runtime.sync.database import open_database, translated
from edge_runtime.types import check_name

__all__ = ["History", "Outcome", "Run"]

Outcome = Literal["running", "ok", "failed", "interrupted", "skipped"]

_KEPT_RUNS = 1000
_MIGRATIONS = (
    """
    CREATE TABLE job (name TEXT PRIMARY KEY, known_ns INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE run (
        job TEXT NOT NULL, planned_ns INTEGER NOT NULL, started_ns INTEGER NOT NULL,
        ended_ns INTEGER, outcome TEXT NOT NULL, told TEXT NOT NULL,
        PRIMARY KEY (job, planned_ns)) WITHOUT ROWID
    """,
)


class Run(msgspec.Struct, frozen=True):
    """One instant of a job.

    Attributes:
        job: Its name.
        planned_ns: When it was to begin.
        started_ns: When it did.
        ended_ns: When it was over; None while it runs.
        outcome: What became of it; ``interrupted`` runs are done again, ``skipped``
            ones were missed and are not made up for.
        told: What it had to say, or how many instants were skipped.
    """

    job: str
    planned_ns: int
    started_ns: int
    ended_ns: int | None
    outcome: Outcome
    told: str


class History:
    """The file ``schedule.db``: SQLite, every change synced.

    Args:
        path: The file; its folder is created, locks lie beside it.
        clock: Tells wall time.

    Raises:
        StoreError: It cannot be opened.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        opened = open_database(path, _MIGRATIONS, clock=clock)
        self._connection = opened.connection

    def known_since(self, job: str) -> int:
        """Return when this job was first heard of; from then on its instants count."""
        rows = self._all("SELECT known_ns FROM job WHERE name = ?", job)
        if rows:
            return int(rows[0][0])
        with self._changed() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO job VALUES (?, ?)", (job, self._clock.now_ns())
            )
        return self.known_since(job)

    def settled_upto(self, job: str) -> int | None:
        """Return the latest planned instant that needs no more work; None if there is none."""
        found = self._one(
            "SELECT max(planned_ns) FROM run WHERE job = ? "
            "AND outcome IN ('ok', 'failed', 'skipped')",
            job,
        )[0]
        return None if found is None else int(found)

    def is_settled(self, job: str, planned_ns: int) -> bool:
        """Whether this instant needs no more work."""
        rows = self._all(
            "SELECT 1 FROM run WHERE job = ? AND planned_ns = ? "
            "AND outcome IN ('ok', 'failed', 'skipped')",
            job,
            planned_ns,
        )
        return bool(rows)

    def begin(self, job: str, planned_ns: int) -> None:
        """Note that a run has begun; one that was interrupted begins again."""
        self._write(job, planned_ns, "running", "", is_over=False)

    def end(self, job: str, planned_ns: int, outcome: Outcome, told: str) -> None:
        """Note what became of a run."""
        with self._changed() as connection:
            connection.execute(
                "UPDATE run SET ended_ns = ?, outcome = ?, told = ? "
                "WHERE job = ? AND planned_ns = ?",
                (self._clock.now_ns(), outcome, told, job, planned_ns),
            )
            connection.execute(
                "DELETE FROM run WHERE job = ? AND planned_ns <= (SELECT planned_ns FROM run "
                "WHERE job = ? ORDER BY planned_ns DESC LIMIT 1 OFFSET ?)",
                (job, job, _KEPT_RUNS),
            )

    def skip(self, job: str, planned_ns: int, count: int) -> None:
        """Note that instants up to this one were missed and are not made up for."""
        self._write(job, planned_ns, "skipped", f"{count} missed", is_over=True)

    def find_interrupted(self, job: str) -> list[int]:
        """Return runs whose process has died, and note that; call it with the job's lock."""
        rows = self._all("SELECT planned_ns FROM run WHERE job = ? AND outcome = 'running'", job)
        for (planned_ns,) in rows:
            self.end(job, planned_ns, "interrupted", "the process ended in the middle")
        again = self._all(
            "SELECT planned_ns FROM run WHERE job = ? AND outcome = 'interrupted' "
            "ORDER BY planned_ns",
            job,
        )
        return [int(row[0]) for row in again]

    def runs(self, job: str | None = None, limit: int = 20) -> list[Run]:
        """Return the latest runs, newest first."""
        rows = self._all(
            "SELECT job, planned_ns, started_ns, ended_ns, outcome, told FROM run "
            "WHERE ? IS NULL OR job = ? ORDER BY planned_ns DESC, job LIMIT ?",
            job,
            job,
            limit,
        )
        return [Run(*row) for row in rows]

    @contextlib.contextmanager
    def locked(self, job: str) -> Iterator[bool]:
        """Hold the job's lock, if nobody else has it; the kernel frees it if the process dies."""
        path = self._path.with_name(f"{self._path.name}.{check_name(job, 'job')}.lock")
        with translated(path, "lock"):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(file)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._connection.close()

    def _write(
        self, job: str, planned_ns: int, outcome: Outcome, told: str, *, is_over: bool
    ) -> None:
        now_ns = self._clock.now_ns()
        with self._changed() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?, ?)",
                (job, planned_ns, now_ns, now_ns if is_over else None, outcome, told),
            )

    @contextlib.contextmanager
    def _changed(self) -> Iterator[sqlite3.Connection]:
        with translated(self._path, "write"), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection

    def _one(self, statement: str, *values: object) -> tuple[Any, ...]:
        return self._all(statement, *values)[0]

    def _all(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with translated(self._path, "read"):
            return self._connection.execute(statement, values).fetchall()
