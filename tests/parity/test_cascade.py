"""A bundle with a cascade is the same in every mode, killed, restored, late or in a child."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime import load_bundle, open_pipeline
from edge_runtime.cli import main
from edge_runtime.pipeline import TimedPipeline, estimates_table
from edge_runtime.ports import Choice, Timing
from edge_runtime.spec import (
    ArtefactSpec,
    AskNext,
    ChannelSpec,
    Limit,
    ModelSpec,
    StageSpec,
    Statistics,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.types import Frame, Output

Write = Callable[..., Path]


def rows_of(count: int, seed: int = 0) -> np.ndarray:
    """Draw samples of two channels whose level changes slowly."""
    random = np.random.default_rng(seed)
    level = 1 + np.sin(np.arange(count) / 15)
    return (random.normal(size=(count, 2)) * level[:, None]).round(3)


def written(path: Path, rows: np.ndarray) -> Path:
    """Write rows as a CSV."""
    lines = [f"{number},{a},{b}" for number, (a, b) in enumerate(rows.tolist())]
    path.write_text("\n".join(["t,a,b", *lines, ""]))
    return path


@pytest.fixture
def counting_bundle(tmp_path: Path, save_proven: Write, accumulator: bytes) -> Write:
    """Write a bundle whose model remembers three steps, behind a gate."""

    def write(*, feeds: bool) -> Path:
        gate = StageSpec(
            "gate",
            AskNext(0.8, label="a"),
            labels=("a", "b"),
            features=(Statistics(("rms",)),),
            idle=(0.0,),
            feeds=feeds,
        )
        spec = ModelSpec(
            name="counting",
            version="1",
            kind="scorer",
            stream=StreamSpec((ChannelSpec("a"), ChannelSpec("b")), 1.0),
            window=WindowSpec(5, 1),
            features=(Statistics(("mean",)),),
            artefacts=(ArtefactSpec("tflite", "svdf.tflite", "float32"),),
            labels=("level",),
            limits=(Limit("level", 0.5, 0.1),),
            cascade=(gate,),
        )
        inputs = rows_of(64 * 5, 9).reshape(64, 5, 2)
        return save_proven(tmp_path / "counting", spec, {"svdf.tflite": accumulator}, inputs)

    return write


def proven(bundle: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """Run the verb and return its report."""
    code = main(["parity", str(bundle), str(rows), "--kills", "2", "--json"])
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    assert code == 0, report
    return report


def test_every_mode_answers_alike(
    cascade_bundle: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Edge, streaming, real-time, batch and hybrid, with decisions, killed and restored."""
    report = proven(cascade_bundle(), written(tmp_path / "rows.csv", rows_of(900)), capsys)

    legs = report["legs"]
    assert isinstance(legs, list)
    assert len({leg["digest"] for leg in legs}) == 1
    assert legs[0]["windows"] == 896
    assert legs[0]["decisions"] > 10


@pytest.mark.parametrize("feeds", [False, True])
def test_every_mode_answers_alike_where_a_gated_model_remembers(
    counting_bundle: Write, tmp_path: Path, feeds: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether its stretch ends or it is fed, a kill in between changes nothing."""
    rows = written(tmp_path / "rows.csv", rows_of(900))

    report = proven(counting_bundle(feeds=feeds), rows, capsys)

    assert report["legs"][0]["decisions"] > 10  # type: ignore[index]


def test_a_gated_model_that_is_fed_answers_otherwise(counting_bundle: Write) -> None:
    """What it heard while it was not asked counts, or does not."""
    rows = rows_of(300)
    frame = Frame("main", 0, np.arange(300) * 10**9, rows)

    ended, fed = (
        open_pipeline(load_bundle(counting_bundle(feeds=feeds))).push(frame).estimates
        for feeds in (False, True)
    )

    assert ended.stage is not None
    assert fed.stage is not None
    assert ended.stage.tolist() == fed.stage.tolist()
    differs = (ended.score != fed.score)[:, 0]
    assert differs.any()
    assert not differs[ended.stage == 0].any()


def test_children_answer_alike(cascade_bundle: Write) -> None:
    """A process for each model gives the bytes of one process for all."""
    bundle = load_bundle(cascade_bundle())
    frame = Frame("main", 0, np.arange(200) * 10**9, rows_of(200))
    expected = open_pipeline(bundle).push(frame).estimates
    pipeline = open_pipeline(bundle, Choice(isolation="process"))

    found = pipeline.push(frame).estimates
    pipeline.scorer.session.close()

    assert found.score.tobytes() == expected.score.tobytes()


def test_batch_says_which_stage_answered(cascade_bundle: Write, tmp_path: Path) -> None:
    """The file has a column for it, in order and in any order of shards."""
    rows = written(tmp_path / "rows.csv", rows_of(400))
    for name, window in (("hop1", WindowSpec(5, 1)), ("tumbling", WindowSpec(5, 5))):
        path = cascade_bundle(name, window=window)
        frame = Frame("main", 0, np.arange(400) * 10**9, rows_of(400))
        expected = open_pipeline(load_bundle(path)).push(frame).estimates

        code = main(["batch", str(path), str(rows), "--out", str(tmp_path / f"{name}.csv")])

        with (tmp_path / f"{name}.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
        assert code == 0
        assert expected.stage is not None
        assert [int(row["stage"]) for row in found] == expected.stage.tolist()
        assert [float(row["score_worn"]) for row in found] == expected.value[:, 1].tolist()


# --- late samples -----------------------------------------------------------------------


def last_said(outputs: list[Output]) -> dict[int, tuple[bytes, int]]:
    """Return the last answer to each window and who gave it."""
    said: dict[int, tuple[bytes, int]] = {}
    for output in outputs:
        table = estimates_table(output.estimates).columns
        for row, index in enumerate(table["index"].tolist()):
            said[index] = table["value"][row].tobytes(), int(table["stage"][row])
    return said


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 199), late_s=st.floats(0, 20))
def test_late_samples_move_windows_from_stage_to_stage(
    cascade_bundle: Write, seed: int, cut: int, late_s: float
) -> None:
    """In the end every window is answered by whom the stream in order would ask."""
    bundle = load_bundle(cascade_bundle("grid", has_grid=True))
    time_ns, rows = np.arange(200) * 10**9, rows_of(200, seed)
    timing = Timing(allowed_lateness_s=1000, confirm_rows=1, clock_back_s=None)
    jitter = np.random.default_rng(seed).uniform(0, late_s, 200)
    order = np.argsort(np.arange(200) + jitter, kind="stable")

    def run(order: np.ndarray, cuts: list[int]) -> list[Output]:
        pipeline, outputs = open_pipeline(bundle, timing=timing), []
        for part in np.split(order, cuts):
            outputs.append(pipeline.push(Frame("main", 0, time_ns[part], rows[part])))
            snapshot = pipeline.snapshot()
            pipeline = open_pipeline(bundle, timing=timing)
            pipeline.restore(snapshot)
        assert isinstance(pipeline, TimedPipeline)
        return [*outputs, pipeline.finish()]

    expected = last_said(run(np.arange(200), []))

    assert len(expected) == 196
    assert {stage for _, stage in expected.values()} == {0, 1, 2}
    assert last_said(run(order, [cut])) == expected


def test_what_was_recorded_is_replayed_with_its_stages(
    cascade_bundle: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same lines again, the stage of each included; each window tells who was asked."""
    rows = written(tmp_path / "rows.csv", rows_of(300))
    (tmp_path / "device.yaml").write_text(
        "device: bench-1\nstate: state\nrecord: {}\nsinks: [{kind: jsonl, path: out.jsonl}]\n"
        f"streams:\n  main:\n    source: {{kind: csv, path: {rows}, block: 7,\n"
        "             time: {start: 2026-01-01T00:00:00Z, step_s: 1}}\n"
        f"    model: {{bundle: {cascade_bundle()}}}\n"
    )
    tape, again = tmp_path / "state" / "recording", tmp_path / "again.jsonl"
    assert main(["run", "--no-supervisor", str(tmp_path / "device.yaml")]) == 0

    code = main(["replay", str(tape), "-o", str(again)])

    lines = again.read_bytes()
    assert code == 0
    assert lines == (tmp_path / "out.jsonl").read_bytes()
    found = {row["stage"]: row for row in map(json.loads, lines.splitlines()) if "stage" in row}
    assert found.keys() == {0, 1, 2}
    for stage, row in found.items():
        capsys.readouterr()
        assert main(["explain", row["result"], "--recording", str(tape), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        names = [one["name"] for one in told["stages"]]
        assert told["is_equal"] is True
        assert names[1 : names.index("score")] == ["gate", "small", "model"][: stage + 1]
