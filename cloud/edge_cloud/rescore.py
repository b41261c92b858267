"""Scores what was received once more, with any base, shard by shard.

A shard is one segment. `score_shard` is a pure function of the segment's bytes
and the bundle: it reads, scores with the same `Pipeline` as the device, and
writes the result under a name that depends on nothing else. The manifest in
the store gives resume, and counts every shard once, on every engine.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import msgspec
import numpy as np

from edge_cloud.revisions import not_retracted
from edge_cloud.segments import encode_segment, read_segment, write_durably
from edge_cloud.store import Segment, Store
from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import Bundle
from edge_runtime.clock import SystemClock
from edge_runtime.errors import EdgeError
from edge_runtime.pipeline import AnyPipeline
from edge_runtime.ports import Choice, Clock
from edge_runtime.types import Table, Windows

__all__ = ["RescoreReport", "ShardResult", "rescore", "score_shard"]

log = logging.getLogger(__name__)

_KEPT = ("device", "incarnation", "epoch", "seq", "index", "start_ns", "end_ns", "quality")

OnShard = Callable[[int, int], None]
"""Called with shards done and shards in all."""


class ShardResult(msgspec.Struct, frozen=True):
    """What became of one shard.

    Attributes:
        path: The result file; empty when there is nothing to score.
        rows: Rows in it.
        reason: Why there is nothing to score; empty otherwise.
    """

    path: str
    rows: int
    reason: str = ""


class RescoreReport(msgspec.Struct, frozen=True):
    """What one run did.

    Attributes:
        bundle: ``name@version``.
        shards: Shards looked at.
        resumed: Of these, done by an earlier run.
        rows: Rows scored by this run.
        left_out: Shards without anything to score, by reason.
        seconds: Time taken.
    """

    bundle: str
    shards: int
    resumed: int
    rows: int
    left_out: dict[str, int]
    seconds: float


def score_shard(
    segment: Path, bundle: Bundle, out_dir: Path, *, backend: str | None = None
) -> ShardResult:
    """Score one segment's windows and write the result durably.

    The result has the rows' identity, ``index``, ``start_ns``, ``end_ns``,
    ``quality`` if the segment has it, ``score`` and ``value`` (n, k) float64,
    ``effective_id`` and ``tier`` ``cloud``: byte-equal to a device's scores on the
    same machine, artefact and backend. Doing it again, or twice at once, writes the
    same file.

    Args:
        segment: A Parquet file of the store. Rows that were uploaded as
            features hold no windows and are not scored.
        bundle: The base, without layers.
        out_dir: Where to.
        backend: Model runtime; None takes the bundle's preference.

    Raises:
        StoreError: The segment or the disk fails.
        ModelError: The model fails.
    """
    table = not_retracted(read_segment(segment, [*_KEPT, "inputs", "is_retracted"]))
    table.columns.pop("is_retracted", None)
    reason = _why_not(table, bundle)
    if reason:
        return ShardResult("", 0, reason)
    columns = table.columns
    windows = Windows(
        columns["index"], columns["start_ns"], columns["end_ns"], columns.pop("inputs")
    )
    estimates = _own_pipeline(bundle, backend).score_windows(windows)
    n = len(estimates)
    answers = {
        "score": estimates.score,
        "value": estimates.value,
        "effective_id": np.full(n, estimates.effective_id),
        "tier": np.full(n, "cloud"),
    }
    path = out_dir / f"{_name_of(segment, bundle, backend)}.parquet"
    write_durably([(path, encode_segment(Table({**columns, **answers})))])
    return ShardResult(str(path), n)


def rescore(
    store: Store,
    bundle: Bundle,
    *,
    streams: Sequence[str] | None = None,
    backend: str | None = None,
    workers: int = 2,
    on_shard: OnShard | None = None,
    clock: Clock | None = None,
) -> RescoreReport:
    """Score everything received with one base; go on where an earlier run stopped.

    The local engine: threads, each with a single-threaded session of its own.

    Args:
        store: Where the segments are.
        bundle: The base.
        streams: Outbox streams; None for all of them.
        backend: Model runtime; None takes the bundle's preference.
        workers: Threads.
        on_shard: Told about progress, on the caller's thread.
        clock: For the manifest and the time taken.

    Raises:
        EdgeError: A shard failed; the others are done and stay done.
    """
    clock = clock or SystemClock()
    started_ns = clock.monotonic_ns()
    segments = [
        segment
        for segment in store.segments(kind="estimate")
        if streams is None or segment.stream in streams
    ]
    manifest = _Manifest(store, bundle, clock)
    waiting = [segment for segment in segments if not manifest.is_done(segment)]
    resumed = done = len(segments) - len(waiting)
    results: list[ShardResult] = []
    for segment, result in _scored(waiting, manifest.folder, bundle, backend, workers):
        manifest.add(segment, result)
        results.append(result)
        done += 1
        if on_shard is not None:
            on_shard(done, len(segments))
    return RescoreReport(
        bundle=bundle.ref,
        shards=len(segments),
        resumed=resumed,
        rows=sum(result.rows for result in results),
        left_out=_counted(result.reason for result in results if result.reason),
        seconds=(clock.monotonic_ns() - started_ns) / 1e9,
    )


class _Manifest:
    """Which shards are done with one base."""

    def __init__(self, store: Store, bundle: Bundle, clock: Clock) -> None:
        self.folder = store.folder / "rescored" / bundle.digest[:16]
        self._store = store
        self._digest = bundle.digest
        self._clock = clock
        rows = store.database.rows(
            "SELECT segment, path FROM shard WHERE bundle=?", (self._digest,)
        )
        self._done = dict(rows)

    def is_done(self, segment: Segment) -> bool:
        """Whether the shard is in the manifest and its result still there."""
        path = self._done.get(self._name(segment))
        return path is not None and (not path or (self._store.folder / path).is_file())

    def add(self, segment: Segment, result: ShardResult) -> None:
        """Count a shard, unless its segment was compacted or deleted meanwhile."""
        path = Path(result.path).relative_to(self._store.folder).as_posix() if result.path else ""
        name = self._name(segment)
        with self._store.database.transaction() as connection:
            found = connection.execute("SELECT 1 FROM segment WHERE path=?", (name,)).fetchone()
            if found:
                connection.execute(
                    "INSERT OR REPLACE INTO shard VALUES (?,?,?,?,?,?,?)",
                    (
                        name,
                        self._digest,
                        path,
                        "left_out" if result.reason else "done",
                        result.rows,
                        result.reason,
                        self._clock.now_ns(),
                    ),
                )
        if not found and path:
            Path(result.path).unlink(missing_ok=True)

    def _name(self, segment: Segment) -> str:
        return segment.path.relative_to(self._store.folder).as_posix()


class _Loaded(threading.local):
    """One loaded base per thread: sessions are not thread-safe."""

    key: tuple[str, str | None] = ("", None)
    pipeline: AnyPipeline | None = None


_loaded = _Loaded()


def _own_pipeline(bundle: Bundle, backend: str | None) -> AnyPipeline:
    key = (bundle.digest, backend)
    if _loaded.pipeline is None or _loaded.key != key:
        _loaded.pipeline, _loaded.key = open_pipeline(bundle, Choice(backend=backend)), key
    return _loaded.pipeline


def _scored(
    segments: Sequence[Segment], folder: Path, bundle: Bundle, backend: str | None, workers: int
) -> Iterator[tuple[Segment, ShardResult]]:
    """Yield results as they come; raise the first failure after all others are done."""
    failure: EdgeError | None = None
    with ThreadPoolExecutor(workers, thread_name_prefix="rescore") as pool:
        futures = {
            pool.submit(score_shard, segment.path, bundle, folder, backend=backend): segment
            for segment in segments
        }
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except FileNotFoundError:
                # Compacted or deleted meanwhile; its successor is a shard of the next run.
                yield futures[future], ShardResult("", 0, "segment gone")
            except EdgeError as error:
                log.error("rescore.shard_failed", extra={"why": str(error)})
                failure = failure or error
    if failure is not None:
        raise failure


def _why_not(table: Table, bundle: Bundle) -> str:
    spec = bundle.spec
    inputs = table.columns.get("inputs")
    if inputs is None:
        return "no inputs were uploaded"
    if inputs.shape[1:] != (spec.window.length, len(spec.stream.channels)):
        return "inputs are no windows of this model"
    return ""


def _name_of(segment: Path, bundle: Bundle, backend: str | None) -> str:
    identity = f"{segment.stem}\n{bundle.digest}\n{backend or ''}"
    return f"{segment.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _counted(reasons: Iterator[str] | Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return counts
