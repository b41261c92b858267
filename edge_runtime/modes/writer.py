"""The storage writer: results to the sinks, records and position to the outbox."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np

from edge_runtime.errors import SinkError
from edge_runtime.modes.serving import Commit
from edge_runtime.pipeline.records import decisions_table, estimates_table
from edge_runtime.ports import Sink
from edge_runtime.sync.outbox import Batch, Outbox, OutboxFullError
from edge_runtime.types import Output, Table, Upload

__all__ = ["Writer", "batches_of"]

log = logging.getLogger(__name__)

# Group commits that may wait for a slow disk; when full, the pipeline waits (policy: block).
_QUEUE_COMMITS = 64
_RETRY_S = 1.0


class Writer:
    """Take commits from the pipeline thread and make them durable, in order.

    Thread: its own. A sink that fails loses that block and is counted
    (``sink_blocks_lost``); the outbox is retried until it takes the commit or the
    device ends, and a recording then resumes where the last commit was.
    """

    def __init__(
        self,
        outbox: Outbox,
        sinks: Sequence[Sink],
        uploads: Mapping[str, Upload],
        on_committed: Callable[[Commit], None],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._outbox = outbox
        self._sinks = sinks
        self._uploads = uploads
        self._on_committed = on_committed
        self._queue: queue.Queue[Commit | None] = queue.Queue(_QUEUE_COMMITS)
        self._is_stopping = is_stopping
        self._closing = threading.Event()
        self._has_ended = False
        self._is_full = False
        self.sink_blocks_lost = 0

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
            while (commit := self._queue.get()) is not None:
                self._commit(commit)
                for output in commit.outputs:
                    self._show(output)
                self._on_committed(commit)
                self._queue.task_done()
        finally:
            self._has_ended = True

    def _commit(self, commit: Commit) -> None:
        batches = batches_of(commit.outputs, self._uploads[commit.stream])
        while True:
            try:
                self._outbox.commit(
                    source=commit.stream,
                    position=commit.position,
                    snapshot=commit.snapshot,
                    base=commit.base,
                    batches=batches,
                )
            except OutboxFullError:
                if not self._wait_for_room(commit.stream):
                    raise
            else:
                self._note_room(commit.stream)
                return

    def _wait_for_room(self, stream: str) -> bool:
        """Keep a commit in memory while somebody else fills the disk; False if the device ends."""
        if not self._is_full:
            self._is_full = True
            log.error("outbox.full", extra={"stream": stream})
        return not (self._closing.wait(_RETRY_S) or self._is_stopping())

    def _note_room(self, stream: str) -> None:
        if self._is_full:
            self._is_full = False
            log.info("outbox.has_room", extra={"stream": stream})

    def _show(self, output: Output) -> None:
        for sink in self._sinks:
            try:
                sink.write(output)
            except SinkError as error:
                self.sink_blocks_lost += 1
                log.warning("sink.failed", extra={"sink": type(sink).__name__, "why": str(error)})


def batches_of(outputs: Sequence[Output], upload: Upload) -> list[Batch]:
    """Return what may leave the device, one batch per kind of record.

    Args:
        outputs: Results of one stream, in order.
        upload: What the stream's privacy setting lets out.
    """
    if upload == "none" or not outputs:
        return []
    stream = outputs[0].stream
    batches = []
    if upload != "decisions":
        tables = [estimates_table(output.estimates) for output in outputs if len(output.estimates)]
        if tables:
            batches.append(Batch(stream=stream, kind="estimate", table=_joined(tables)))
    decisions = [decision for output in outputs for decision in output.decisions]
    if decisions:
        name = f"{stream}-decisions"
        batches.append(Batch(stream=name, kind="decision", table=decisions_table(decisions)))
    return batches


def _joined(tables: Sequence[Table]) -> Table:
    names = tables[0].columns
    return Table({name: np.concatenate([t.columns[name] for t in tables]) for name in names})
