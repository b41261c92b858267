"""The storage writer: records, positions and what resumable sinks take, in one commit."""

from __future__ import annotations

import itertools
import logging
import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from edge_runtime.modes.serving import Commit
from edge_runtime.modes.showing import Files
from edge_runtime.pipeline.records import decisions_table
from edge_runtime.spec import ModelSpec
from edge_runtime.sync.outbox import Batch, LossReason, Outbox, OutboxFullError, Resume
from edge_runtime.tape import Recorder, Taken, answers_of
from edge_runtime.types import Table, Upload

__all__ = ["Writer", "batches_of", "gaps_of", "most_windows", "taken_of"]

log = logging.getLogger(__name__)

# Group commits that may wait for a slow disk; when full, the pipeline waits (policy: block).
_QUEUE_COMMITS = 64
_RETRY_S = 1.0
# How often a full disk is tried again before rows that may be dropped become gaps.
_PATIENCE = 5


class Writer:
    """Take commits from the pipeline thread and make them durable, in order.

    Thread: its own. Raw frames go to the tape and results to the files first, and how
    far the files have come is part of the commit. Commits that wait already are made
    durable together, so that a slow disk syncs less often. The outbox is retried until
    it takes them or the device ends; a recording then resumes where the last commit
    was, and so do the files.

    Args:
        outbox: Open.
        files: Take results with their commit.
        uploads: What may leave the device, by stream.
        on_committed: Called with every commit that is durable.
        is_stopping: Whether the device is about to end.
        tapes: Of the streams whose raw frames are kept.
    """

    def __init__(
        self,
        outbox: Outbox,
        files: Files,
        uploads: Mapping[str, Upload],
        on_committed: Callable[[Commit], None],
        is_stopping: Callable[[], bool],
        tapes: Mapping[str, Recorder] | None = None,
    ) -> None:
        self._outbox = outbox
        self._files = files
        self._uploads = uploads
        self._on_committed = on_committed
        self._queue: queue.Queue[Commit | None] = queue.Queue(_QUEUE_COMMITS)
        self._is_stopping = is_stopping
        self._tapes = tapes or {}
        self._closing = threading.Event()
        self._has_ended = False
        self._is_full = False
        self._is_last = False

    def put(self, commit: Commit, on_wait: Callable[[], None]) -> None:
        """Hand over a commit; waits while the disk is behind, but not for a writer that ended.

        Args:
            commit: What is to be written.
            on_wait: Called every second while it waits.
        """
        while not self._has_ended:
            with suppress(queue.Full):
                self._queue.put(commit, timeout=_RETRY_S)
                return
            on_wait()

    @property
    def is_idle(self) -> bool:
        """Whether everything handed over is durable."""
        return self._queue.unfinished_tasks == 0

    def finish(self) -> None:
        """Let ``run`` return once everything handed over is durable, or can not become so."""
        self._closing.set()
        while not self._has_ended:
            with suppress(queue.Full):
                self._queue.put(None, timeout=_RETRY_S)
                return

    def run(self) -> None:
        """Write until `finish`.

        Raises:
            OutboxFullError: The disk is still full when the device has to end.
        """
        try:
            while not self._is_last:
                commits = self._waiting()
                for commit in commits:
                    self._record(commit)
                self._commit(commits)
                for commit in commits:
                    self._on_committed(commit)
                    self._queue.task_done()
        finally:
            self._has_ended = True

    def _waiting(self) -> list[Commit]:
        """Return what waits, in order; waits for the first, or the end."""
        commits: list[Commit] = []
        while not (self._is_last or (commits and self._queue.empty())):
            commit = self._queue.get()
            if commit is None:
                self._is_last = True
            else:
                commits.append(commit)
            if len(commits) == _QUEUE_COMMITS:
                break
        return commits

    def _record(self, commit: Commit) -> None:
        """Keep the raw frames first: what anybody has seen can then be explained."""
        tape = self._tapes.get(commit.stream)
        if tape is not None:
            tape.write(taken_of(commit))

    def _commit(self, commits: Sequence[Commit]) -> None:
        if not commits:
            return
        batches = [
            batch for each in commits for batch in batches_of(each, self._uploads[each.stream])
        ]
        resumes = {each.stream: Resume(each.position, each.snapshot, each.base) for each in commits}
        outputs = [output for each in commits for output in each.outputs]
        marks = self._files.write(outputs) if outputs else {}
        for attempt in itertools.count():
            try:
                self._outbox.commit_all(resumes, batches, marks, must_fit=attempt >= _PATIENCE)
            except OutboxFullError:
                if not self._wait_for_room(commits[0].stream):
                    raise
            else:
                self._note_room(commits[0].stream)
                return

    def _wait_for_room(self, stream: str) -> bool:
        """Keep a commit in memory while somebody else fills the disk; False if the device ends."""
        if not self._is_full:
            self._is_full = True
            log.error("outbox.full", extra={"stream": stream})
        for tape in self._tapes.values():
            tape.give_back()
        return not (self._closing.wait(_RETRY_S) or self._is_stopping())

    def _note_room(self, stream: str) -> None:
        if self._is_full:
            self._is_full = False
            log.info("outbox.has_room", extra={"stream": stream})


def taken_of(commit: Commit) -> Taken:
    """Return what goes to the tape."""
    answers = answers_of(commit.estimates, commit.decisions)
    return Taken(commit.taped, commit.position, commit.next_index, commit.snapshot, answers)


def batches_of(commit: Commit, upload: Upload) -> list[Batch]:
    """Return what may leave the device: its estimates, and its decisions in a stream of their own.

    Args:
        commit: Of one stream.
        upload: What the stream's privacy setting lets out.
    """
    stream = commit.stream
    batches = []
    if upload not in ("none", "decisions"):
        tables = [rows.table() for rows in commit.estimates]
        batches = [Batch(stream=stream, kind="estimate", table=table) for table in tables]
    if upload != "none" and commit.decisions:
        table = decisions_table(commit.decisions)
        batches.append(Batch(stream=f"{stream}-decisions", kind="decision", table=table))
    return batches


def gaps_of(stream: str, upload: Upload, windows: int, reason: LossReason) -> list[Batch]:
    """Return what tells the cloud that rows of a stream may be missing here.

    Args:
        stream: A live one.
        upload: What the stream's privacy setting lets out.
        windows: So many may be missing. Nobody knows how many decisions were among
            them: their gap has one row.
        reason: Why.
    """
    streams = {} if upload == "none" else {f"{stream}-decisions": 1}
    if upload in ("features", "windows"):
        streams = {stream: windows, **streams}
    return [
        Batch(stream=name, kind="gap", table=Table({}), lost=lost, reason=reason)
        for name, lost in streams.items()
    ]


def most_windows(spec: ModelSpec, passed_s: float) -> int:
    """Return how many windows a stream can have answered in so many seconds, at least 1."""
    return max(1, math.ceil(passed_s * spec.stream.rate_hz / spec.window.hop))
