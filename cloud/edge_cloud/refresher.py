"""The refresh role: watches event time, computes layers, signs them, makes jobs.

Triggered by data, never by the wall clock: when the rows of a stream reach the
next multiple of ``every_s`` since its first row. If several boundaries were
crossed at once, as after a cut, only the newest is worked out.
"""

from __future__ import annotations

import functools
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from edge_cloud.jobs import JobRow, Jobs
from edge_cloud.labels import Labels
from edge_cloud.refresh import (
    Memory,
    Outcome,
    RefreshConfig,
    Trail,
    Versions,
    choose,
    seen_by_base,
)
from edge_cloud.registry import Registry
from edge_cloud.segments import read_segment
from edge_cloud.signing import SigningKey, sign_layer
from edge_cloud.store import Extent, Segment, Store
from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle
from edge_runtime.clock import SystemClock
from edge_runtime.errors import BundleError, MissingExtra, ModelError
from edge_runtime.pipeline import BATCH, shape_of
from edge_runtime.pipeline.layers import Scales, scales_of
from edge_runtime.pipeline.score import Scorer
from edge_runtime.ports import Choice, Clock
from edge_runtime.spec import Layer, LayerBody, NormaliserLayer, PriorLayer, ResidualLayer
from edge_runtime.sync.messages import Signed
from edge_runtime.types import Table

__all__ = ["RefreshRow", "Refresher", "read_history"]

log = logging.getLogger(__name__)

_COLUMNS = ("end_ns", "inputs")


class RefreshRow(msgspec.Struct, frozen=True):
    """A refresh as it was decided.

    Attributes:
        device: For whom.
        stream: Its stream.
        line: Model line.
        base: Digest of the base.
        outcome: What was chosen, and every candidate's replay.
        job: The job that carries the set; empty if none was made.
        cpu_s: Processor time it took.
    """

    device: str
    stream: str
    line: str
    base: str
    outcome: Outcome
    job: str
    cpu_s: float


class _Report(msgspec.Struct, frozen=True):
    outcome: Outcome
    cpu_s: float


class Refresher:
    """Compute layers for every stream of some model lines; used by one thread.

    Args:
        store: Rows.
        labels: What was true.
        registry: Bases that devices run.
        jobs: Where layer sets go.
        key: Layer key; the bases' statements must name its public half.
        configs: One per model line.
        clock: For the time of making.
    """

    def __init__(
        self,
        store: Store,
        *,
        labels: Labels,
        registry: Registry,
        jobs: Jobs,
        key: SigningKey,
        configs: Sequence[RefreshConfig],
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._labels = labels
        self._registry = registry
        self._jobs = jobs
        self._key = key
        self._configs: Mapping[str, RefreshConfig] = {config.line: config for config in configs}
        self._clock = clock or SystemClock()
        self._trails: dict[tuple[str, str, str], _Follower] = {}
        self._unknown: set[str] = set()
        self._failed: set[tuple[str, str]] = set()

    def step(self) -> int:
        """Refresh whatever has crossed a boundary; return the number of jobs that are ready now.

        Raises:
            StoreError: The store fails; nothing of that stream's refresh is kept.
        """
        self._labels.scan_inbox()
        made = 0
        for row in self._jobs.open_jobs():
            if row.state == "new":
                work = functools.partial(self._complete, row)
                made += self._tried(row.job.device, row.job.stream, work)
        for life in self._jobs.lives():
            for stream, base in life.base.items():
                work = functools.partial(self._refresh, life.device, stream, base)
                made += self._tried(life.device, stream, work)
        return made

    def _tried(self, device: str, stream: str, work: Callable[[], int]) -> int:
        """Do one stream's work; a model that fails stops that stream alone, and is logged once."""
        try:
            made = work()
        except (BundleError, ModelError, MissingExtra) as error:
            if (device, stream) not in self._failed:
                log.error(
                    "refresh.failed", extra={"device": device, "stream": stream, "why": str(error)}
                )
            self._failed.add((device, stream))
            return 0
        self._failed.discard((device, stream))
        return made

    # --- deciding when ----------------------------------------------------------------

    def _refresh(self, device: str, stream: str, base: str) -> int:
        config = self._config_of(base)
        extent = self._store.extent(device, stream)
        if config is None or extent is None:
            return 0
        bundle = self._registry.bundle(base)
        if self._has_cascade(bundle):
            return 0
        boundary_ns = _newest_boundary(extent, bundle, config)
        if boundary_ns is None or boundary_ns <= self._last_boundary(device, stream, base):
            return 0
        if self._jobs.open_base(device, stream) is not None:
            # Layers for the old base would be refused once the new one is live.
            return 0
        self._make(device, stream, bundle, config, boundary_ns)
        return 1

    def _config_of(self, base: str) -> RefreshConfig | None:
        line = self._registry.line(base)
        if line is None and base not in self._unknown:
            self._unknown.add(base)
            log.warning("refresh.base_unknown", extra={"base": base})
        return None if line is None else self._configs.get(line)

    def _has_cascade(self, bundle: Bundle) -> bool:
        """Whether rows are answers of several models, none of which can be refitted on them."""
        has_cascade = bool(bundle.spec.cascade)
        if has_cascade and bundle.digest not in self._unknown:
            self._unknown.add(bundle.digest)
            log.warning("refresh.base_has_cascade", extra={"base": bundle.digest})
        return has_cascade

    def _last_boundary(self, device: str, stream: str, base: str) -> int:
        rows = self._store.database.rows(
            "SELECT max(boundary_ns) FROM refresh WHERE device=? AND stream=? AND base=?",
            (device, stream, base),
        )
        return -(2**63) if rows[0][0] is None else int(rows[0][0])

    # --- doing it -----------------------------------------------------------------------

    def _make(
        self, device: str, stream: str, bundle: Bundle, config: RefreshConfig, boundary_ns: int
    ) -> None:
        """Compute one set, and make it, its grounds and its job durable together."""
        started_s = time.thread_time()
        outcome, newest_ns = self._decide(device, stream, bundle, config, boundary_ns)
        bodies = outcome.bodies or _neutral(bundle)
        with self._store.database.transaction() as connection:
            layers = self._signed(connection, device, bundle, config, outcome, bodies, newest_ns)
            job = ""
            if layers:
                job = self._jobs.add(
                    connection,
                    device=device,
                    stream=stream,
                    model=config.line,
                    base=None,
                    layers=layers,
                    requires=bundle.digest,
                    state="ready",
                )
            cpu_s = time.thread_time() - started_s
            self._note(connection, device, stream, bundle, outcome, job, cpu_s)
        log.info("refresh.decided", extra={"device": device, "chosen": outcome.chosen, "job": job})
        self._jobs.on_added()

    def _complete(self, row: JobRow) -> int:
        """Compute the first layers of a new base from rows scored with it, and let it go."""
        job, started_s = row.job, time.thread_time()
        decided = self._decide_first(row)
        with self._store.database.transaction() as connection:
            layers: tuple[Signed, ...] = ()
            if decided is not None:
                bundle, config, outcome, newest_ns = decided
                layers = self._signed(
                    connection, job.device, bundle, config, outcome, outcome.bodies, newest_ns
                )
                cpu_s = time.thread_time() - started_s
                self._note(connection, job.device, job.stream, bundle, outcome, job.id, cpu_s)
            self._jobs.complete(connection, row, layers)
        self._jobs.on_added()
        return 1

    def _decide_first(self, row: JobRow) -> tuple[Bundle, RefreshConfig, Outcome, int] | None:
        """Decide for a base that is not live yet; None if its line is not refreshed."""
        device, stream = row.job.device, row.job.stream
        config, extent = self._config_of(row.requires), self._store.extent(device, stream)
        if config is None or extent is None:
            return None
        bundle = self._registry.bundle(row.requires)
        if self._has_cascade(bundle):
            return None
        boundary_ns = _newest_boundary(extent, bundle, config)
        if boundary_ns is None:
            return None
        return bundle, config, *self._decide(device, stream, bundle, config, boundary_ns)

    def _decide(
        self, device: str, stream: str, bundle: Bundle, config: RefreshConfig, boundary_ns: int
    ) -> tuple[Outcome, int]:
        """Return the outcome, and the event time of the newest row it knows."""
        follower = self._follower(device, stream, bundle, config)
        trail = follower.update()
        first_ns = int(trail.time_ns[0]) if len(trail) else 0
        versions = Versions(*self._labels.versions(device, stream, first_ns, boundary_ns))
        outcome = choose(
            trail,
            versions,
            boundary_ns,
            spec=bundle.spec,
            config=config,
            score=follower.score,
            memory=follower.memory,
        )
        before = trail.time_ns[: np.searchsorted(trail.time_ns, boundary_ns)]
        return outcome, int(before[-1]) if len(before) else boundary_ns

    def _follower(
        self, device: str, stream: str, bundle: Bundle, config: RefreshConfig
    ) -> _Follower:
        key = (device, stream, bundle.digest)
        if key not in self._trails:
            for other in [other for other in self._trails if other[:2] == key[:2]]:
                del self._trails[other]
            self._trails[key] = _Follower(self._store, device, stream, bundle, config)
        return self._trails[key]

    def _signed(
        self,
        connection: sqlite3.Connection,
        device: str,
        bundle: Bundle,
        config: RefreshConfig,
        outcome: Outcome,
        bodies: Sequence[LayerBody],
        newest_ns: int,
    ) -> tuple[Signed, ...]:
        return tuple(
            sign_layer(
                self._key,
                Layer(
                    body=body,
                    requires=bundle.digest,
                    seq=_next_seq(connection, device, config.line, body),
                    made_ns=_made_ns(body, outcome, newest_ns),
                    scope=f"device:{device}",
                    half_life_s=(
                        config.prior_half_life_s if isinstance(body, PriorLayer) else None
                    ),
                ),
            )
            for body in bodies
        )

    def _note(
        self,
        connection: sqlite3.Connection,
        device: str,
        stream: str,
        bundle: Bundle,
        outcome: Outcome,
        job: str,
        cpu_s: float,
    ) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO refresh VALUES (?,?,?,?,?,?,?,?,?)",
            (
                device,
                stream,
                bundle.spec.name,
                bundle.digest,
                outcome.boundary_ns,
                outcome.chosen,
                msgspec.msgpack.encode(_Report(outcome, cpu_s)),
                job,
                self._clock.now_ns(),
            ),
        )


class _Follower:
    """The newest rows of one stream, scored by one base as they come.

    Reads each new segment once; starts afresh when a compaction has replaced
    segments that were not read yet.
    """

    def __init__(
        self, store: Store, device: str, stream: str, bundle: Bundle, config: RefreshConfig
    ) -> None:
        self._store, self._device, self._stream = store, device, stream
        self._spec = bundle.spec
        self._scorer = Scorer(bundle.spec, open_session(bundle, Choice(backend=config.backend)))
        shape = self._scorer.feature_shape
        normalise = bundle.spec.normalise
        self._scales = None if normalise is None else scales_of(normalise, shape, "normalise")
        self._capacity = _capacity(bundle, config)
        self._read_up_to = 0
        self._trail = self._empty()
        self.memory = Memory()

    def update(self) -> Trail:
        """Take in what is new and return the rows."""
        segments = self._store.segments(
            self._device, self._stream, "estimate", after=self._read_up_to
        )
        if self._read_up_to and any(segment.is_compacted for segment in segments):
            self._trail, self._read_up_to = self._empty(), 0
            return self.update()
        for segment in _newest(segments, self._capacity):
            self._take(read_segment(segment.path, _COLUMNS))
        if segments:
            self._read_up_to = segments[-1].id
        return self._trail

    def score(self, features: np.ndarray, normaliser: NormaliserLayer) -> np.ndarray:
        """Answer features (n, …) under another normaliser, shape (n,)."""
        scales = scales_of(normaliser, self._scorer.feature_shape, "normaliser")
        return self._scored(features, scales)

    def _take(self, table: Table) -> None:
        features = self._features(table)
        if features is None or not len(features):
            return
        self._trail = _joined(
            self._trail,
            Trail(
                time_ns=table.columns["end_ns"],
                features=features,
                seen=seen_by_base(features, self._spec),
                score=self._scored(features, self._scales),
            ),
            self._capacity,
        )

    def _features(self, table: Table) -> np.ndarray | None:
        """Return the features of uploaded windows or features; None if they are neither."""
        inputs = table.columns.get("inputs")
        window = (self._spec.window.length, len(self._spec.stream.channels))
        if inputs is None:
            return None
        if inputs.shape[1:] == window:
            return self._scorer.features(inputs)
        return inputs if inputs.shape[1:] == self._scorer.feature_shape else None

    def _scored(self, features: np.ndarray, scales: Scales | None) -> np.ndarray:
        # Whole batches only: the session answers the rest one by one, which is slower.
        n = len(features)
        padding = -n % BATCH
        padded = np.concatenate([features, np.repeat(features[-1:], padding, axis=0)])
        score: np.ndarray = self._scorer.score_features(padded, scales)[:n, 0]
        return score

    def _empty(self) -> Trail:
        shape = self._scorer.feature_shape
        return Trail(
            time_ns=np.empty(0, np.int64),
            features=np.empty((0, *shape), np.float32),
            seen=np.empty((0, math.prod(shape))),
            score=np.empty(0),
        )


def _newest_boundary(extent: Extent, bundle: Bundle, config: RefreshConfig) -> int | None:
    """Return the newest boundary that the rows reach; None before the first."""
    spec = bundle.spec
    # A row stands for the time until the next one; half a hop allows for jitter.
    reach_ns = extent.last_ns + spec.window.hop * spec.stream.period_ns * 3 // 2
    periods = (reach_ns - extent.first_ns) // config.every_ns
    return extent.first_ns + periods * config.every_ns if periods >= 1 else None


def _capacity(bundle: Bundle, config: RefreshConfig) -> int:
    """Return the rows that fits and replays look back on."""
    spec = bundle.spec
    hop_ns = spec.window.hop * spec.stream.period_ns
    per_period = max(1, config.every_ns // hop_ns)
    periods = config.judged_periods + 2 * config.lag_periods
    return config.trailing_rows + periods * per_period


def _newest(segments: Sequence[Segment], rows: int) -> list[Segment]:
    """Return the last segments that hold so many rows, in order."""
    chosen: list[Segment] = []
    for segment in reversed(segments):
        if rows <= 0:
            break
        chosen.append(segment)
        rows -= segment.rows
    return chosen[::-1]


def _joined(before: Trail, more: Trail, capacity: int) -> Trail:
    """Add rows in order of event time; of two at one instant the newer counts."""
    time_ns = np.concatenate([before.time_ns, more.time_ns])
    order = np.argsort(time_ns, kind="stable")
    is_last = np.append(np.diff(time_ns[order]) > 0, True)
    kept = order[is_last][-capacity:]
    return Trail(
        time_ns=time_ns[kept],
        features=np.concatenate([before.features, more.features])[kept],
        seen=np.concatenate([before.seen, more.seen])[kept],
        score=np.concatenate([before.score, more.score])[kept],
    )


def _neutral(bundle: Bundle) -> tuple[LayerBody, ...]:
    """Return a set that changes no answer: it takes the place of the one before.

    A base that allows no residual gets none at all.
    """
    spec = bundle.spec
    if "residual" not in spec.clamps.kinds:
        return ()
    shape = shape_of(spec.features, (spec.window.length, len(spec.stream.channels)))
    return (ResidualLayer(0.0, (0.0,) * math.prod(shape)),)


def _made_ns(body: LayerBody, outcome: Outcome, newest_ns: int) -> int:
    """Return the event time up to which a layer knows: for a prior, its newest label."""
    if isinstance(body, PriorLayer) and outcome.known_ns is not None:
        return outcome.known_ns
    return newest_ns


def _next_seq(connection: sqlite3.Connection, device: str, line: str, body: LayerBody) -> int:
    kind = str(body.__struct_config__.tag)
    rows = connection.execute(
        "INSERT INTO layer_seq VALUES (?,?,?,1)"
        " ON CONFLICT (device, line, kind) DO UPDATE SET seq = seq + 1 RETURNING seq",
        (device, line, kind),
    )
    return int(rows.fetchone()[0])


def read_history(store: Store) -> list[RefreshRow]:
    """Return every refresh that was decided, oldest first."""
    rows = store.database.rows(
        "SELECT device, stream, line, base, report, job FROM refresh ORDER BY made_ns, boundary_ns"
    )
    return [_history_row(*row) for row in rows]


def _history_row(
    device: str, stream: str, line: str, base: str, report: bytes, job: str
) -> RefreshRow:
    decoded = msgspec.msgpack.decode(report, type=_Report)
    return RefreshRow(device, stream, line, base, decoded.outcome, job, decoded.cpu_s)
