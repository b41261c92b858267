"""From the store to the result: what reached it, what the answers were worth, what was refused.

Everything is taken from the store the run left behind; the driver's ledger
adds only what a store cannot know, such as how long something took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_cloud.jobs import JobRow, Jobs
from edge_cloud.refresh import RefreshConfig
from edge_cloud.rescore import rescore
from edge_cloud.store import Store
from edge_runtime.backends import load_session
from edge_runtime.bundle import Bundle
from edge_runtime.pipeline import Pipeline
from edge_runtime.spec import Layer, effective_id
from edge_runtime.types import Windows
from edge_simulator.demo.data import Turbine
from edge_simulator.demo.driver import Ledger
from edge_simulator.demo.evaluate import (
    DAY_ROWS,
    Answers,
    errors_by_month,
    errors_by_year,
    ratios_by_year,
)
from edge_simulator.demo.judge import RowCounts, StoredRows, count_rows, read_stored, shard_scores
from edge_simulator.demo.outcome import Marks, Moment, Outcome, Replay
from edge_simulator.demo.replay import ridge_answers
from edge_simulator.demo.stage import FAN, TURBINE

__all__ = ["Assessment", "Run", "assess", "write_estimates"]

_HOUR_NS = 3_600_000_000_000
_FAN_WINDOW = 100
_REFUSALS_WANTED = 2
_RIDGE_SHARE = 0.9


class Run(msgspec.Struct, frozen=True, eq=False):
    """What a finished run leaves behind.

    Attributes:
        store: The cloud's store.
        turbine: All rows of the turbine's file.
        rows: Rows that were replayed, from the first one after training.
        fan_rows: Rows of the fan that were replayed.
        bases: First and second base of the turbine.
        refresh: What its cloud refreshed with.
        ledger: What the driver saw.
        bytes_up: From the devices.
        bytes_down: To the devices.
        broker: Which one ran.
    """

    store: Path
    turbine: Turbine
    rows: int
    fan_rows: int
    bases: tuple[Bundle, Bundle]
    refresh: RefreshConfig
    ledger: Ledger
    bytes_up: int
    bytes_down: int
    broker: str


class Assessment(msgspec.Struct, frozen=True, eq=False):
    """The result, and the answers it was computed from."""

    outcome: Outcome
    answers: Answers


class _Sets(msgspec.Struct, frozen=True, eq=False):
    """What the cloud's jobs say about what ran.

    Attributes:
        base_of: Digest of the base by effective id.
        is_plain: Whether the base sees its own inputs, by effective id: no normaliser layer.
        jobs: Every job by id.
        layers_of: Layers by id of the job that brought them.
    """

    base_of: dict[str, str]
    is_plain: dict[str, bool]
    jobs: dict[str, JobRow]
    layers_of: dict[str, tuple[Layer, ...]]


def assess(run: Run, replays: tuple[Sequence[Replay], Sequence[Replay]]) -> Assessment:
    """Judge a finished run.

    Args:
        run: What it left behind; no process of it writes to the store any more.
        replays: Offline replays by layer and by label delay.
    """
    store = Store(run.store)
    try:
        store.compact(by="month")
        for base in run.bases:
            rescore(store, base, streams=[TURBINE[1]])
        return _assessed(run, store, replays)
    finally:
        store.close()


def write_estimates(path: Path, answers: Answers) -> None:
    """Write one line per source row, as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"row": answers.row, **answers.variants, "effective_id": answers.effective_id}
    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    pq.write_table(table, path, compression="zstd")


def _assessed(
    run: Run, store: Store, replays: tuple[Sequence[Replay], Sequence[Replay]]
) -> Assessment:
    sets = _sets_of(Jobs(store), run.bases)
    stored = read_stored(run.store, *TURBINE)
    first = run.turbine.first_row
    expected = np.arange(first, first + run.rows)
    rows = count_rows(expected, stored.index)
    rescored = {base.digest: shard_scores(run.store, base.digest) for base in run.bases}
    answers, scores = _answers(run, store, stored, expected, sets, rescored)
    outcome = _outcome(run, sets, rows, answers, replays)
    is_same_input = np.array([sets.is_plain[one] for one in answers.effective_id.tolist()], bool)
    outcome.rescored_comparable = int(is_same_input.sum())
    outcome.rescored_equal = int((answers.variants["edge_only"] == scores)[is_same_input].sum())
    return Assessment(outcome, answers)


# --- answers ------------------------------------------------------------------------


def _answers(
    run: Run,
    store: Store,
    stored: StoredRows,
    expected: np.ndarray,
    sets: _Sets,
    rescored: Mapping[str, Mapping[int, float]],
) -> tuple[Answers, np.ndarray]:
    """Return every variant's answer per source row, and the device's own scores."""
    hybrid, scores, effective = _joined(expected, stored)
    edge_only = np.array(
        [
            rescored.get(sets.base_of.get(identity, ""), {}).get(row, np.nan)
            for row, identity in zip(expected.tolist(), effective.tolist(), strict=True)
        ]
    )
    sensors, truth = run.turbine.sensors[expected], run.turbine.nox[expected]
    start = run.turbine.training_mean
    variants = {
        "edge_only": edge_only,
        "cloud_only": _cloud_only(run, store, sensors, sets),
        "ridge_only": ridge_answers(run.bases[0], sensors, truth, start, config=run.refresh),
        "hybrid": hybrid,
    }
    return Answers(expected, run.turbine.year[expected], truth, variants, effective), scores


def _joined(expected: np.ndarray, stored: StoredRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return value, score and effective id per source row; NaN and empty where it is lost."""
    at = {index: place for place, index in enumerate(stored.index.tolist())}
    places = [at.get(row) for row in expected.tolist()]
    value, score = stored.value.tolist(), stored.score.tolist()
    effective = stored.effective_id.tolist()
    return (
        np.array([np.nan if place is None else value[place] for place in places]),
        np.array([np.nan if place is None else score[place] for place in places]),
        np.array(["" if place is None else effective[place] for place in places]),
    )


def _cloud_only(run: Run, store: Store, sensors: np.ndarray, sets: _Sets) -> np.ndarray:
    """Return the last batch answer known when each row came, shape (n,).

    A batch answer is what base and newest layers say, on average, about the
    last day of rows that the cloud had. Without a link there is no newer one.
    """
    pipelines = {base.digest: _pipeline(base) for base in run.bases}
    answers = np.full(len(sensors), run.turbine.training_mean)
    refreshes = store.database.rows(
        "SELECT boundary_ns, base, job FROM refresh WHERE device=? AND stream=?"
        " ORDER BY boundary_ns, made_ns",
        TURBINE,
    )
    first_ns = min((boundary_ns for boundary_ns, _, _ in refreshes), default=0)
    for boundary_ns, base, job in refreshes:
        row = DAY_ROWS + (boundary_ns - first_ns) // _HOUR_NS
        pipeline = pipelines[base]
        pipeline.activate(sets.layers_of.get(job, ()))
        day = _windows(sensors, row - DAY_ROWS, row, boundary_ns)
        answers[row:] = pipeline.score_windows(day).value[:, 0].mean()
    return answers


def _pipeline(bundle: Bundle) -> Pipeline:
    artefact, model = bundle.artefact()
    session = load_session(None, artefact.backend, model)
    return Pipeline(bundle.spec, session, base=bundle.digest)


def _windows(sensors: np.ndarray, first: int, last: int, boundary_ns: int) -> Windows:
    index = np.arange(first, last, dtype=np.int64)
    # Asked at the boundary: layers know nothing about an instant before they were made.
    time_ns = np.full(len(index), boundary_ns)
    return Windows(index, time_ns, time_ns, sensors[first:last, None, :])


def _sets_of(jobs: Jobs, bases: Sequence[Bundle]) -> _Sets:
    base_of = {effective_id(base.digest): base.digest for base in bases}
    is_plain = dict.fromkeys(base_of, True) | {"": False}
    layers_of = {}
    rows = jobs.all()
    for row in rows:
        layers = tuple(Layer.decode(signed.payload) for signed in row.job.layers)
        layers_of[row.job.id] = layers
        effective = effective_id(row.requires, layers)
        base_of[effective] = row.requires
        is_plain[effective] = all(layer.kind != "normaliser" for layer in layers)
    return _Sets(base_of, is_plain, {row.job.id: row for row in rows}, layers_of)


# --- the result ---------------------------------------------------------------------


def _outcome(
    run: Run,
    sets: _Sets,
    rows: RowCounts,
    answers: Answers,
    replays: tuple[Sequence[Replay], Sequence[Replay]],
) -> Outcome:
    ledger = run.ledger
    states = [row.state for row in sets.jobs.values()]
    errors = errors_by_year(answers)
    marks = _with_swap(ledger.marks, answers, sets, run.bases[1])
    outcome = Outcome(
        source_rows=run.rows,
        rows_made=ledger.rows_made,
        rows_stored=rows.stored,
        rows_lost=rows.lost,
        rows_duplicated=rows.duplicated,
        updates_committed=states.count("committed"),
        updates_refused=states.count("refused"),
        windows_lost_at_swap=_lost_at(marks.swap_row, answers),
        mae={name: {year: i.value for year, i in by.items()} for name, by in errors.items()},
        bytes_up=run.bytes_up,
        bytes_down=run.bytes_down,
        seconds=0.0,
        days=-(-run.rows // DAY_ROWS),
        broker=run.broker,
        mae_interval=errors,
        hybrid_over_ridge=ratios_by_year(answers, "hybrid", "ridge_only"),
        months=errors_by_month(answers),
        ablation=list(replays[0]),
        label_delay=list(replays[1]),
        updates=ledger.updates,
        reasons=[row.reason for row in sets.jobs.values() if row.state == "refused"],
        decisions=ledger.decisions,
        activation_ms=_milliseconds(ledger.activation_s),
        backlog_rows_largest=max((waiting for _, waiting in ledger.backlog), default=0),
        rescored_rows=int(np.isfinite(answers.variants["edge_only"]).sum()),
        rescored_comparable=0,
        rescored_equal=0,
        fan=_fan_rows(run),
        rows=rows,
        marks=marks,
        moments=[],
    )
    outcome.moments = _moments(outcome, ledger)
    return outcome


def _fan_rows(run: Run) -> RowCounts:
    expected = np.arange(_FAN_WINDOW - 1, run.fan_rows, _FAN_WINDOW)
    return count_rows(expected, read_stored(run.store, *FAN).index)


def _with_swap(marks: Marks, answers: Answers, sets: _Sets, second: Bundle) -> Marks:
    """Let the records say which row was the first of the new base."""
    bases = np.array([sets.base_of.get(one, "") for one in answers.effective_id.tolist()])
    is_second = np.flatnonzero(bases == second.digest)
    swap_row = int(answers.row[is_second[0]]) if len(is_second) else None
    return msgspec.structs.replace(marks, swap_row=swap_row)


def _lost_at(swap_row: int | None, answers: Answers) -> int:
    """Count rows without an answer in the days before and after the swap."""
    if swap_row is None:
        return 0
    near = np.abs(answers.row - swap_row) <= DAY_ROWS
    return int(np.isnan(answers.variants["hybrid"][near]).sum())


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    array = 1e3 * np.array(seconds)
    return {
        "median": float(np.median(array)),
        "p99": float(np.quantile(array, 0.99)),
        "largest": float(array.max()),
    }


def _moments(outcome: Outcome, ledger: Ledger) -> list[Moment]:
    return [
        _offline(outcome, ledger),
        _better(outcome),
        _swapped(outcome),
        _kept(outcome, ledger),
        _refused(outcome),
    ]


def _offline(outcome: Outcome, ledger: Ledger) -> Moment:
    evidence = (
        f"The link was cut for {ledger.cut_rows} rows in all. The device answered each of them at "
        f"once and made {ledger.cut_decisions} decisions; up to {outcome.backlog_rows_largest} "
        "rows waited on its disk."
    )
    holds = ledger.cut_rows > 0 and outcome.backlog_rows_largest > 0 and outcome.rows_lost == 0
    return Moment("Decides by itself while the network is gone", evidence, holds)


def _better(outcome: Outcome) -> Moment:
    years = sorted(outcome.mae["hybrid"])
    figures = {
        name: " / ".join(f"{outcome.mae[name][year]:.2f}" for year in years)
        for name in ("hybrid", "ridge_only", "edge_only")
    }
    evidence = (
        f"Mean absolute error in {' / '.join(years)}: {figures['hybrid']} mg/m³ with layers, "
        f"{figures['edge_only']} for the network alone, {figures['ridge_only']} for the same "
        "correction without the network."
    )
    holds = all(
        outcome.mae["hybrid"][year] < outcome.mae["edge_only"][year]
        and outcome.hybrid_over_ridge[year].value <= _RIDGE_SHARE
        for year in years
    )
    return Moment("Gets better through layers that the cloud computes", evidence, holds)


def _swapped(outcome: Outcome) -> Moment:
    base = next((update for update in outcome.updates if update.outcome == "committed"), None)
    if base is None or outcome.marks.swap_row is None:
        return Moment("Takes a new base without losing a window", "No base was swapped.", False)
    evidence = (
        f"{base.what}, fetched in chunks, proven in a child process, was live {base.seconds:.1f} s "
        f"after its release, from data row {outcome.marks.swap_row} on; "
        f"{outcome.windows_lost_at_swap} windows are missing around it."
    )
    holds = outcome.windows_lost_at_swap == 0
    return Moment("Takes a new base without losing a window", evidence, holds)


def _kept(outcome: Outcome, ledger: Ledger) -> Moment:
    resumed = f", back after {ledger.resume_s[-1]:.1f} s" if ledger.resume_s else ""
    evidence = (
        f"{outcome.source_rows} source rows, {ledger.kills} SIGKILL{resumed}: "
        f"{outcome.rows_stored} in the store, {outcome.rows_lost} lost, "
        f"{outcome.rows_duplicated} duplicated."
    )
    is_whole = outcome.rows_stored == outcome.source_rows == outcome.rows_made
    holds = is_whole and outcome.rows_lost == outcome.rows_duplicated == 0 and ledger.kills > 0
    return Moment("Loses nothing through two weeks without a link and a SIGKILL", evidence, holds)


def _refused(outcome: Outcome) -> Moment:
    refused = [update for update in outcome.updates if update.outcome == "refused"]
    reasons = "; ".join(f"{update.what}: {update.reason}" for update in refused)
    holds = outcome.updates_refused == len(refused) == _REFUSALS_WANTED
    return Moment("Refuses what it should not trust, and goes on", f"{reasons}.", holds)
