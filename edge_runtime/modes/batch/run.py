"""The driver: shards in, results out, each exactly once, across any number of runs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator
from typing import Any

import msgspec

from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle
from edge_runtime.clock import SystemClock
from edge_runtime.config.check import check_timing
from edge_runtime.errors import SourceError
from edge_runtime.modes.batch.disk import Disk
from edge_runtime.modes.batch.flow import Ahead, in_order
from edge_runtime.modes.batch.job import (
    BatchJob,
    Schema,
    decision_schema,
    estimate_schema,
    identity,
)
from edge_runtime.modes.batch.manifest import Manifest, Position
from edge_runtime.modes.batch.outputs import (
    Output,
    Workspace,
    check_output,
    make_output,
    targets_of,
)
from edge_runtime.modes.batch.readers import Reader, open_reader
from edge_runtime.modes.batch.shard import (
    Shard,
    ShardResult,
    block_in_order,
    end_of,
    is_independent,
    score_alone,
    score_shard,
    shard_rows,
    shards_of,
)
from edge_runtime.pipeline import AnyPipeline, Pipeline, timed_if_asked
from edge_runtime.pipeline.records import decisions_table
from edge_runtime.ports import Choice, Clock, Session, Timing
from edge_runtime.spec import ModelSpec
from edge_runtime.version import __version__

__all__ = ["BatchReport", "OnProgress", "Progress", "Scorers", "run_batch"]

_READ_AHEAD = 2
_COMMIT_S = 1.0


class Progress(msgspec.Struct, frozen=True):
    """How far a run is.

    Attributes:
        rows: Rows read, those of earlier runs included.
        total: Rows in the input; None where only reading to the end tells.
        share: Share of the input that lies behind, 0 to 1.
        resumed_from: Row at which this run began.
        resumed_share: Share of the input that lay behind then.
        seconds: Time this run has taken.
    """

    rows: int
    total: int | None
    share: float
    resumed_from: int
    resumed_share: float
    seconds: float

    @property
    def rows_per_s(self) -> float:
        """Rows a second, in this run."""
        return (self.rows - self.resumed_from) / self.seconds if self.seconds > 0 else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Seconds still to go at this pace; None before there is one."""
        done = self.share - self.resumed_share
        return self.seconds * (1 - self.share) / done if done > 0 else None


OnProgress = Callable[[Progress], None]
"""Called on the caller's thread after every shard."""


class BatchReport(msgspec.Struct, frozen=True):
    """What became of a job.

    Attributes:
        bundle: ``name@version``.
        effective_id: What scored, 16 hex digits.
        input: As given.
        outputs: Files that are complete now; empty where the run was stopped.
        rows: Rows read, those of earlier runs included.
        windows: Estimates written.
        decisions: Decisions made, if they were asked for.
        discarded: Discards by reason; ``not_finite`` counts windows, others rows.
        resumed_from: Row at which this run began.
        seconds: Time this run took.
        rows_per_s: Rows a second in this run.
        block: Windows the model answered at once.
        workers: Threads that scored.
        is_complete: Whether all of the input is scored.
    """

    bundle: str
    effective_id: str
    input: str
    outputs: tuple[str, ...]
    rows: int
    windows: int
    decisions: int
    discarded: dict[str, int]
    resumed_from: int
    seconds: float
    rows_per_s: float
    block: int
    workers: int
    is_complete: bool


def run_batch(
    job: BatchJob,
    bundle: Bundle,
    *,
    is_fresh: bool = False,
    may_overwrite: bool = False,
    on_progress: OnProgress | None = None,
    is_stopping: Callable[[], bool] | None = None,
    clock: Clock | None = None,
    disk: Disk | None = None,
    commit_s: float = _COMMIT_S,
) -> BatchReport:
    """Score a file; go on where an earlier run of the same job stopped.

    One thread reads ahead, the job's workers score and encode, the caller's
    thread writes.

    Args:
        job: What to do.
        bundle: The base, without layers.
        is_fresh: Forget what an earlier run has done.
        may_overwrite: Replace a finished output when this one is complete.
        on_progress: Told after every shard.
        is_stopping: Asked after every shard; the run then ends, to be resumed.
        clock: For the time taken and the pace of commits.
        disk: Where files are written.
        commit_s: Seconds of work that a crash may cost.

    Raises:
        ConfigError: Columns, options or an output in the way.
        EdgeError: Input, model or output failed; what was committed stays.
    """
    check_output(job.output)
    disk = disk or Disk()
    scorers = Scorers(bundle, job)
    with contextlib.ExitStack() as stack:
        stack.callback(scorers.close)
        reader = open_reader(job, bundle.spec.stream)
        stack.callback(reader.close)
        run = _Run(job, bundle, scorers, reader, clock or SystemClock(), disk)
        stack.callback(run.close)
        if run.open(is_fresh=is_fresh, may_overwrite=may_overwrite):
            with contextlib.closing(run.written(commit_s)) as written:
                for _ in written:
                    if on_progress is not None:
                        on_progress(run.progress)
                    if is_stopping is not None and is_stopping():
                        break
            run.end()
        return run.report


class Scorers:
    """The pipelines of a job: several where shards are independent, else one.

    Args:
        bundle: The base.
        job: How it is run; `BatchJob.workers` is a wish.

    Attributes:
        pipelines: One for each worker.
        is_independent: Whether shards may be scored in any order.
        block: Windows the model answers at once.
        shard_rows: Rows in a shard.
        ends: Shards to be scored behind the last one, where rows wait for others.

    Raises:
        ConfigError: ``timing`` does not go with the bundle.
        EdgeError: The model does not load.
    """

    def __init__(self, bundle: Bundle, job: BatchJob) -> None:
        spec, choice = bundle.spec, job.choice
        check_timing(bundle, job.timing, "--timing")
        first = open_session(bundle, choice)
        trial = _pipeline(bundle, first, choice, job.timing)
        alone = is_independent(trial, has_times=job.time is not None)
        self.is_independent = alone and not job.has_decisions
        if not self.is_independent:
            choice = msgspec.structs.replace(choice, block=block_in_order(spec, choice.block))
        self.block = choice.block
        count = max(1, job.workers) if self.is_independent else 1
        self._sessions = [first, *(open_session(bundle, choice) for _ in range(count - 1))]
        self.pipelines = [
            _pipeline(bundle, session, choice, job.timing) for session in self._sessions
        ]
        self.shard_rows = job.shard_rows or shard_rows(spec, self.block)
        is_waiting = spec.stream.grid is not None
        self.ends = (end_of(spec, has_times=job.time is not None),) if is_waiting else ()

    def score(self, pipeline: AnyPipeline, shard: Shard) -> ShardResult:
        """Score a shard; in order unless `is_independent`."""
        if self.is_independent and isinstance(pipeline, Pipeline):
            return score_alone(shard, pipeline, self.block)
        return score_shard(shard, pipeline, model_block=self.block)

    def close(self) -> None:
        """Free the models."""
        for session in self._sessions:
            session.close()


def _pipeline(
    bundle: Bundle, session: Session, choice: Choice, timing: Timing | None
) -> AnyPipeline:
    pipeline = Pipeline(bundle.spec, session, base=bundle.digest, block=choice.block)
    return timed_if_asked(pipeline, _patient(timing or Timing()))


def _patient(timing: Timing) -> Timing:
    """Return options that wait for what a stream would revise: a file has no now.

    The same rows are too late, and each window is answered once, as it stands at last.
    """
    delay_s = timing.delay_s + timing.allowed_lateness_s
    return msgspec.structs.replace(timing, delay_s=delay_s, allowed_lateness_s=0.0)


class _Run:
    """One run of a job."""

    def __init__(
        self,
        job: BatchJob,
        bundle: Bundle,
        scorers: Scorers,
        reader: Reader,
        clock: Clock,
        disk: Disk,
    ) -> None:
        self._job = job
        self._bundle = bundle
        self._scorers = scorers
        self._reader = reader
        self._clock = clock
        self._started_ns = clock.monotonic_ns()
        self._identity = identity(job, bundle, scorers.shard_rows)
        self._targets = targets_of(job)
        self._schemas = _schemas(job, bundle.spec, reader.kept)
        self._workspace = Workspace(self._targets, disk)
        facts = self._identity | {"effective_id": self.effective_id, "edge_runtime": __version__}
        self._facts = facts
        self._output: Output = make_output(job.output, self._workspace, self._schemas, facts, disk)
        self._manifest: Manifest | None = None
        self._begun = self._position = Position()
        self._is_complete = False

    @property
    def effective_id(self) -> str:
        """What scores."""
        return self._scorers.pipelines[0].effective_id

    @property
    def progress(self) -> Progress:
        """How far it is now."""
        return Progress(
            self._position.rows,
            self._reader.rows,
            self._position.share,
            self._begun.rows,
            self._begun.share,
            self._seconds,
        )

    @property
    def _seconds(self) -> float:
        return (self._clock.monotonic_ns() - self._started_ns) / 1e9

    def open(self, *, is_fresh: bool, may_overwrite: bool) -> bool:
        """Begin or resume; False where only the names were missing."""
        workspace = self._workspace
        if not workspace.folder.exists():
            workspace.check_free(may_overwrite=may_overwrite)
        workspace.open(is_fresh=is_fresh)
        manifest = self._manifest = self._output.open()
        if not manifest.exists:
            self._output.begin(manifest, self._facts)
        manifest.check(self._identity, str(workspace.folder))
        self._begun = self._position = manifest.position()
        is_sealed = manifest.is_sealed
        workspace.check_free(may_overwrite=may_overwrite, is_sealed=is_sealed)
        if is_sealed:
            self._publish()
            return False
        self._output.resume(self._position)
        if self._position.snapshot is not None:
            self._scorers.pipelines[0].restore(self._position.snapshot)
        return True

    def written(self, commit_s: float) -> Generator[None, None, None]:
        """Score and write shard by shard; control comes back after each."""
        begun = self._begun
        rows = self._scorers.shard_rows
        blocks = self._reader.blocks(begun.rows, rows)
        shards = shards_of(blocks, rows, first=begun.rows, latest_ns=begun.latest_ns)
        committed_s = self._seconds
        with contextlib.closing(Ahead(shards, _READ_AHEAD)) as ahead:
            shards_and_end = itertools.chain(ahead, self._scorers.ends)
            done = in_order(shards_and_end, self._worked, self._scorers.pipelines)
            with contextlib.closing(done):
                for result, prepared in done:
                    for table, part in prepared.items():
                        self._output.append(table, part)
                    self._position = _after(self._position, result)
                    if self._seconds - committed_s >= commit_s:
                        self._commit()
                        committed_s = self._seconds
                    yield
        self._is_complete = True

    def end(self) -> None:
        """Commit; where everything is scored, complete the output and name it.

        Raises:
            SourceError: The input was changed while it was read.
        """
        self._commit()
        self._check_unchanged()
        if self._is_complete and self._manifest is not None:
            self._output.seal(self._manifest)
            self._publish()

    def close(self) -> None:
        """Release the output."""
        self._output.close()

    @property
    def report(self) -> BatchReport:
        """What became of it."""
        position, seconds = self._position, self._seconds
        return BatchReport(
            bundle=self._bundle.ref,
            effective_id=self.effective_id,
            input=str(self._job.input),
            outputs=tuple(map(str, self._targets.values())) if self._is_complete else (),
            rows=position.rows,
            windows=position.windows,
            decisions=position.decisions,
            discarded=position.discarded,
            resumed_from=self._begun.rows,
            seconds=seconds,
            rows_per_s=(position.rows - self._begun.rows) / seconds if seconds > 0 else 0.0,
            block=self._scorers.block,
            workers=len(self._scorers.pipelines),
            is_complete=self._is_complete,
        )

    def _worked(self, pipeline: AnyPipeline, shard: Shard) -> tuple[ShardResult, dict[str, Any]]:
        result = self._scorers.score(pipeline, shard)
        tables = {"estimates": result.estimates, "decisions": result.decisions}
        prepared = {
            table: self._output.prepare(table, rows)
            for table, rows in tables.items()
            if table in self._schemas and len(rows)
        }
        return result, prepared

    def _check_unchanged(self) -> None:
        found = identity(self._job, self._bundle, self._scorers.shard_rows)["input"]
        if found != self._identity["input"]:
            raise SourceError(
                f"was changed while it was read; it is {found}",
                where=str(self._job.input),
                expected=self._identity["input"],
                remedy="Wait until it is complete, and start over with --fresh.",
            )

    def _commit(self) -> None:
        if self._manifest is not None:
            self._position = self._output.commit(self._manifest, self._position)

    def _publish(self) -> None:
        self._output.close()
        self._workspace.publish()
        self._is_complete = True


def _schemas(job: BatchJob, spec: ModelSpec, kept: Schema) -> dict[str, Schema]:
    schemas = {"estimates": estimate_schema(job, spec, kept)}
    if job.has_decisions:
        schemas["decisions"] = decision_schema(decisions_table([]), spec)
    return schemas


def _after(position: Position, result: ShardResult) -> Position:
    discarded = dict(position.discarded)
    for reason, count in result.discarded.items():
        discarded[reason] = discarded.get(reason, 0) + count
    return msgspec.structs.replace(
        position,
        rows=position.rows + result.rows,
        windows=position.windows + len(result.estimates),
        decisions=position.decisions + len(result.decisions),
        discarded=discarded,
        snapshot=result.snapshot,
        latest_ns=result.latest_ns,
        share=result.share,
    )
