"""Batch mode on a grid: what a stream's answers are at last, whatever the order of the rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError
from edge_runtime.modes.batch import BatchJob, run_batch
from edge_runtime.ports import Timing
from edge_runtime.quality import Quality
from edge_runtime.types import Frame, Output

from .conftest import CHANNELS, Rows  # isort: skip
from .test_run import OUTPUTS, Crash, CrashingDisk, crash_at, results_of  # isort: skip

FILL = "{gaps: fill, longest_gap_s: 0.2}"
TIMING = Timing(delay_s=0.02, allowed_lateness_s=1.0, revise_s=0.1, confirm_rows=2)

Write = Callable[[Path, Any], Path]
Read = Callable[..., dict[str, list[Any]]]


def _stepping_back(rows: Rows, seed: int) -> Rows:
    """Bring one row in ten up to half a second late, and one in thirty twice."""
    dice = np.random.default_rng(seed)
    count = len(rows["t"])
    late = np.where(dice.random(count) < 0.1, dice.uniform(0, 50, count), 0.0)
    order = np.argsort(np.arange(count) + late, kind="stable")
    order = np.repeat(order, np.where(dice.random(count) < 1 / 30, 2, 1))
    return {name: column[order] for name, column in rows.items()}


@pytest.fixture
def job(tmp_path: Path, make_rows: Callable[..., Any], write: Write) -> BatchJob:
    """Give a job with rows out of order, twice, missing and not finite."""
    return BatchJob(
        input=write(tmp_path / "in.npz", _stepping_back(make_rows(), 3)),
        output=tmp_path / "out.csv",
        time="t",
        time_format="unix_ns",
        has_decisions=True,
        shard_rows=32,
        timing=TIMING,
    )


def _frame(job: BatchJob) -> Frame:
    arrays = np.load(job.input)
    samples = np.stack([arrays[name] for name in CHANNELS], axis=1).astype(np.float32)
    return Frame("main", 0, arrays["t"], samples)


def _streamed(job: BatchJob, bundle: Bundle) -> list[Output]:
    """Push the rows one by one through what runs on a device, revisions and all."""
    pipeline = open_pipeline(bundle, timing=job.timing)
    frame = _frame(job)
    parts = [
        Frame("main", row, frame.time_ns[row : row + 1], frame.samples[row : row + 1])
        for row in range(len(frame))
    ]
    return [*pipeline.run(parts), pipeline.finish()]


def _standing(outputs: list[Output]) -> dict[int, tuple[Any, ...]]:
    """What was told last of every window, in order."""
    told = {}
    for output in outputs:
        gone = [] if output.retracted is None else [output.retracted]
        for part in (output.estimates, *gone):
            quality = part.quality
            for row, index in enumerate(part.index.tolist()):
                if part.revision[row] > told.get(index, (-1,))[0]:
                    mask = 0 if quality is None else quality.item(row)
                    answer = (part.start_ns[row], part.end_ns[row], *part.value[row], mask)
                    told[index] = (part.revision[row], None if part in gone else answer)
    return {index: answer for index, (_, answer) in sorted(told.items()) if answer is not None}


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("suffix", OUTPUTS)
def test_a_batch_has_the_answers_that_stand_at_last(
    suffix: str, length: int, job: BatchJob, make_bundle: Any, read: Read, tmp_path: Path
) -> None:
    """Each window once, in order, in the bytes of the stream's last revision."""
    bundle = make_bundle(length, length, FILL)
    job = msgspec.structs.replace(job, output=tmp_path / f"out{suffix}")
    outputs = _streamed(job, bundle)

    report = run_batch(job, bundle)

    found = read(job.output)
    names = ("start_ns", "end_ns", "score_ok", "score_worn", "quality")
    answers = zip(*(found[name] for name in names), strict=True)
    assert dict(zip(found["index"], answers, strict=True)) == _standing(outputs)
    assert found["index"] == sorted(found["index"])
    assert any((output.estimates.revision > 0).any() for output in outputs)
    assert set(found["quality"]) == {0, Quality.FILLED}
    assert report.discarded["duplicate"] > 0


def test_decisions_are_those_that_stand(
    job: BatchJob, make_bundle: Any, read: Read, tmp_path: Path
) -> None:
    """Taken back is left out, and what late rows changed is as they changed it."""
    bundle = make_bundle(1, 1, FILL)
    stands: dict[tuple[int, str], tuple[float, int]] = {}
    for output in _streamed(job, bundle):
        for decision in output.decisions:
            key = decision.index, decision.edge
            stands[key] = decision.value, decision.quality
            if decision.is_retracted:
                del stands[key]

    run_batch(job, bundle)

    found = read(tmp_path / "out.decisions.csv")
    keys = zip(found["index"], found["edge"], strict=True)
    values = zip(found["value"], found["quality"], strict=True)
    assert dict(zip(keys, values, strict=True)) == stands
    assert stands


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.sampled_from([1, 4]),
    shard_rows=st.integers(8, 400),
    deaths=st.lists(
        st.tuples(st.sampled_from(["before", "after", "shard"]), st.integers(1, 20)), max_size=4
    ),
    seed=st.integers(0, 9),
)
def test_shards_and_deaths_change_no_byte(
    length: int,
    shard_rows: int,
    deaths: list[tuple[str, int]],
    seed: int,
    job: BatchJob,
    make_bundle: Any,
    make_rows: Any,
    write: Write,
    read: Read,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Rows that wait are part of the snapshot between shards, and the end comes once."""
    folder = tmp_path_factory.mktemp("runs")
    bundle = make_bundle(length, max(1, length // 2), FILL)
    rows = write(folder / "in.npz", _stepping_back(make_rows(), seed))
    whole = msgspec.structs.replace(job, input=rows, output=folder / "whole.csv", shard_rows=1024)
    torn = msgspec.structs.replace(whole, output=folder / "torn.csv", shard_rows=shard_rows)
    run_batch(whole, bundle)

    for kind, at in deaths:
        disk = None if kind == "shard" else CrashingDisk(at, is_after=kind == "after")
        on_progress = crash_at(at) if kind == "shard" else None
        with contextlib.suppress(Crash):
            run_batch(
                torn,
                bundle,
                disk=disk,
                on_progress=on_progress,
                commit_s=0.0,
                may_overwrite=True,
            )
    run_batch(torn, bundle, may_overwrite=True)

    assert results_of(torn, read) == results_of(whole, read)


def test_rows_that_nobody_waits_for_are_counted(job: BatchJob, make_bundle: Any) -> None:
    """Without waiting a file must be sorted; what is not is late, as in every mode."""
    in_order = msgspec.structs.replace(job, timing=None)

    report = run_batch(in_order, make_bundle(2, 2, FILL))

    assert report.discarded["late"] > 0


def test_without_times_rows_are_slots(
    make_bundle: Any, make_rows: Any, write: Write, tmp_path: Path
) -> None:
    """The model's rate gives each row a slot of its own, from 0 on."""
    rows = write(tmp_path / "in.csv", make_rows(64, is_clean=True))
    job = BatchJob(input=rows, output=tmp_path / "out.csv")

    report = run_batch(job, make_bundle(4, 4, "{}"))

    assert (report.rows, report.windows) == (64, 16)
    assert "start_ns" not in job.output.read_text().splitlines()[0]


def test_columns_cannot_pass_through_a_grid(job: BatchJob, make_bundle: Any) -> None:
    """A slot is no row; the message says how to join instead."""
    job = msgspec.structs.replace(job, keep=("machine",))

    with pytest.raises(ConfigError, match="end_ns"):
        run_batch(job, make_bundle(1, 1, FILL))


def test_waiting_needs_a_grid(job: BatchJob, make_bundle: Any) -> None:
    """Elsewhere rows are taken as they come, and waiting would do nothing."""
    with pytest.raises(ConfigError, match="has no grid"):
        run_batch(job, make_bundle(1, 1))
