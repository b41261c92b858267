"""Offline replays beside the live run: what each layer brings, and what late labels cost.

The same `choose` as the cloud's refresh and the same `Pipeline` as the device,
without processes, link or faults, so that one thing is varied at a time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from multiprocessing import get_context
from multiprocessing.pool import AsyncResult, Pool
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from edge_cloud.refresh import (
    Memory,
    RefreshConfig,
    Trail,
    Versions,
    choose,
    fit_layers,
    seen_by_base,
)
from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.pipeline import Pipeline
from edge_runtime.pipeline.layers import scales_of
from edge_runtime.pipeline.score import Scorer
from edge_runtime.spec import Layer, LayerBody, LayerKind, ModelSpec, NormaliserLayer, PriorLayer
from edge_runtime.types import Windows
from edge_simulator.demo.data import load_turbine
from edge_simulator.demo.evaluate import DAY_ROWS
from edge_simulator.demo.outcome import Replay

__all__ = ["Case", "Inputs", "Replays", "ridge_answers", "run_case"]

_HOUR_NS = 3_600_000_000_000
_LOOK_BACK_ROWS = 1000

_LADDER: tuple[tuple[str, tuple[LayerKind, ...]], ...] = (
    ("network alone", ()),
    ("+ residual", ("residual",)),
    ("+ prior", ("residual", "prior", "fusion")),
    ("+ normaliser", ("residual", "prior", "fusion", "normaliser")),
)
_DELAYS = (0, 24, 48)


class Case(msgspec.Struct, frozen=True):
    """One replay.

    Attributes:
        name: For the report.
        kinds: Layers that may be used.
        delay_rows: Rows by which labels are late.
        has_ridge: Whether the ridge without the network is replayed as well.
    """

    name: str
    kinds: tuple[LayerKind, ...]
    delay_rows: int = 24
    has_ridge: bool = False


class Inputs(msgspec.Struct, frozen=True):
    """What every case shares.

    Attributes:
        rows_path: The turbine's CSV.
        bundles: First and second base.
        last_row: Data row to stop before.
        swap_row: Data row from which the second base is live.
        refresh: What the live run's cloud refreshes with.
    """

    rows_path: Path
    bundles: tuple[Path, Path]
    last_row: int
    swap_row: int
    refresh: RefreshConfig


class Replays:
    """All cases in one background process of low priority, while the context lasts.

    ``results`` waits for what is not done yet; leaving the context drops it.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._pool: Pool | None = None
        self._ladder: list[AsyncResult[Replay]] = []
        self._delays: list[AsyncResult[Replay]] = []

    def __enter__(self) -> Self:
        # A fresh interpreter: forking a process with threads is not safe.
        pool = self._pool = get_context("spawn").Pool(1, initializer=_be_humble)
        everything = _LADDER[-1][1]
        ladder = [Case(name, kinds) for name, kinds in _LADDER]
        delays = [Case(str(delay), everything, delay, has_ridge=True) for delay in _DELAYS]
        self._ladder = [pool.apply_async(run_case, (self._inputs, case)) for case in ladder]
        self._delays = [pool.apply_async(run_case, (self._inputs, case)) for case in delays]
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()

    @property
    def is_done(self) -> bool:
        """Whether ``results`` returns at once."""
        return all(case.ready() for case in (*self._ladder, *self._delays))

    def results(self) -> tuple[list[Replay], list[Replay]]:
        """Return the replays by layer and by label delay."""
        return [case.get() for case in self._ladder], [case.get() for case in self._delays]


def run_case(inputs: Inputs, case: Case) -> Replay:
    """Replay one case and return its errors by year."""
    turbine = load_turbine(inputs.rows_path)
    rows = np.arange(turbine.first_row, inputs.last_row)
    truth, sensors = turbine.nox[rows], turbine.sensors[rows]
    swap = min(max(inputs.swap_row - turbine.first_row, 0), len(rows))
    config = inputs.refresh
    parts = [
        _Based(load_bundle(path), case.kinds, sensors, config).answers(
            truth, first, last, case.delay_rows
        )
        for path, first, last in zip(inputs.bundles, (0, swap), (swap, len(rows)), strict=True)
        if first < last
    ]
    hybrid = _by_year(np.abs(np.concatenate(parts) - truth), turbine.year[rows])
    if not case.has_ridge:
        return Replay(case.name, hybrid)
    base = load_bundle(inputs.bundles[0])
    ridge = ridge_answers(
        base, sensors, truth, turbine.training_mean, case.delay_rows, config=config
    )
    return Replay(case.name, hybrid, _by_year(np.abs(ridge - truth), turbine.year[rows]))


def ridge_answers(
    bundle: Bundle,
    sensors: np.ndarray,
    truth: np.ndarray,
    start: float,
    delay_rows: int = 24,
    *,
    config: RefreshConfig,
) -> np.ndarray:
    """Return the answers of the same daily ridge without the network, shape (n,).

    The residual layer's own fit, with a constant in the place of the network.

    Args:
        bundle: Gives the z-score of the sensors.
        sensors: Shape (n, 9).
        truth: Shape (n,).
        start: The constant: all that is known without a model.
        delay_rows: Rows by which labels are late.
        config: Constants of the refresh.
    """
    spec = _limited(bundle, ("residual",))
    trail = _trail(sensors, np.full(len(sensors), start), spec)
    answers = np.full(len(sensors), start)
    for first in range(DAY_ROWS, len(sensors), DAY_ROWS):
        known = np.arange(_known(first, delay_rows))[-config.trailing_rows :]
        if len(known) < config.min_rows:
            continue
        fit = fit_layers(trail, known, truth[known], spec=spec, config=config, score=_no_score)
        day = slice(first, first + DAY_ROWS)
        residual = fit.plain.residual
        answers[day] += trail.seen[day] @ np.array(residual.weights) + residual.intercept
    return answers


class _Based:
    """One base over all rows: its answers with layers refreshed every day."""

    def __init__(
        self,
        bundle: Bundle,
        kinds: tuple[LayerKind, ...],
        sensors: np.ndarray,
        config: RefreshConfig,
    ) -> None:
        self._config = config
        session = open_session(bundle)
        self._spec = _limited(bundle, kinds)
        self._scorer = Scorer(self._spec, session)
        self._pipeline = Pipeline(self._spec, session, base=bundle.digest)
        self._windows = _windows(sensors)
        score = self._pipeline.score_windows(self._windows).score[:, 0]
        self._trail = _trail(sensors, score, self._spec)

    def answers(self, truth: np.ndarray, first: int, last: int, delay_rows: int) -> np.ndarray:
        """Return the answers to rows ``first`` to ``last`` (exclusive)."""
        memory = Memory()
        days = [
            self._day(truth, start, min(start + DAY_ROWS, last), delay_rows, memory)
            for start in _days(first, last)
        ]
        return np.concatenate(days)[-(last - first) :]

    def _day(
        self, truth: np.ndarray, start: int, stop: int, delay_rows: int, memory: Memory
    ) -> np.ndarray:
        known = _known(start, delay_rows)
        bodies: tuple[LayerBody, ...] = ()
        if known >= self._config.min_rows and self._spec.clamps.kinds:
            oldest = max(0, start - _LOOK_BACK_ROWS)
            bodies = choose(
                _part(self._trail, oldest, start),
                _labels(truth, oldest, known, delay_rows),
                start * _HOUR_NS,
                spec=self._spec,
                config=self._config,
                score=self._score,
                memory=memory,
            ).bodies
        self._pipeline.activate([self._layer(body, start, known) for body in bodies])
        part = _windows_part(self._windows, start, stop)
        return self._pipeline.score_windows(part).value[:, 0]

    def _score(self, features: np.ndarray, normaliser: NormaliserLayer) -> np.ndarray:
        scales = scales_of(normaliser, self._scorer.feature_shape, "normaliser")
        score: np.ndarray = self._scorer.score_features(features, scales)[:, 0]
        return score

    def _layer(self, body: LayerBody, start: int, known: int) -> Layer:
        is_prior = isinstance(body, PriorLayer)
        return Layer(
            body=body,
            requires=self._pipeline.base,
            seq=start,
            made_ns=(known - 1 if is_prior else start - 1) * _HOUR_NS,
            half_life_s=self._config.prior_half_life_s if is_prior else None,
        )


def _known(boundary: int, delay_rows: int) -> int:
    """Return how many labels have come by the last row before a boundary.

    A label comes together with the row that follows its own by ``delay_rows``.
    """
    return max(0, boundary - delay_rows)


def _days(first: int, last: int) -> Iterable[int]:
    return range(first // DAY_ROWS * DAY_ROWS, last, DAY_ROWS)


def _limited(bundle: Bundle, kinds: Sequence[LayerKind]) -> ModelSpec:
    clamps = bundle.spec.clamps
    allowed = tuple(kind for kind in clamps.kinds if kind in kinds)
    return msgspec.structs.replace(
        bundle.spec, clamps=msgspec.structs.replace(clamps, kinds=allowed)
    )


def _trail(sensors: np.ndarray, score: np.ndarray, spec: ModelSpec) -> Trail:
    features = sensors.astype(np.float32)[:, None, :]
    return Trail(
        time_ns=np.arange(len(sensors), dtype=np.int64) * _HOUR_NS,
        features=features,
        seen=seen_by_base(features, spec),
        score=score,
    )


def _part(trail: Trail, first: int, last: int) -> Trail:
    rows = slice(first, last)
    return Trail(trail.time_ns[rows], trail.features[rows], trail.seen[rows], trail.score[rows])


def _labels(truth: np.ndarray, first: int, last: int, delay_rows: int) -> Versions:
    row = np.arange(first, last, dtype=np.int64)
    return Versions(row * _HOUR_NS, (row + delay_rows) * _HOUR_NS, truth[first:last])


def _windows(sensors: np.ndarray) -> Windows:
    index = np.arange(len(sensors), dtype=np.int64)
    return Windows(index, index * _HOUR_NS, index * _HOUR_NS, sensors[:, None, :])


def _windows_part(windows: Windows, first: int, last: int) -> Windows:
    rows = slice(first, last)
    return Windows(
        windows.index[rows], windows.start_ns[rows], windows.end_ns[rows], windows.samples[rows]
    )


def _by_year(errors: np.ndarray, year: np.ndarray) -> dict[str, float]:
    return {str(one): float(errors[year == one].mean()) for one in np.unique(year).tolist()}


def _no_score(_features: np.ndarray, _normaliser: NormaliserLayer) -> np.ndarray:
    raise ValueError("a ridge has no normaliser")


def _be_humble() -> None:
    # Ctrl-C is the parent's matter; it ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)
