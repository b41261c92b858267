"""The time on a board: an estimate that says so, until the board has answered."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_converters.latency import (
    Answer,
    BoardFile,
    TargetLatency,
    estimate,
    load_answers,
    refined,
)
from edge_converters.latency.paces import PACES
from edge_converters.operations import Operation
from edge_converters.operations.tflite import read_tflite
from edge_runtime.boards import BOARDS
from edge_runtime.cli import main
from edge_runtime.errors import ConfigError

MODELS = Path(__file__).parents[2] / "data" / "models"
PI = "raspberry-pi-4"


@pytest.fixture(scope="module")
def keywords() -> tuple[Operation, ...]:
    """Give the operators of the int8 keyword spotter."""
    return read_tflite((MODELS / "kws_dscnn_int8.tflite").read_bytes())


def test_every_pace_is_of_a_board_and_names_its_source() -> None:
    """Nothing is estimated for a board that `device init` does not know."""
    assert PACES.keys() <= BOARDS.keys()
    assert all("XNNPACK README" in one.source for one in PACES.values())


def test_an_estimate_says_so_and_has_two_ends(keywords: tuple[Operation, ...]) -> None:
    """The keyword spotter takes about half a millisecond on a Pi 4, give or take a factor."""
    found = estimate(PI, "tflite", keywords)

    assert found.how == "estimate"
    assert found.low_us is not None and found.p50_us is not None and found.high_us is not None
    assert found.low_us < 300 < found.p50_us < 600 < found.high_us
    assert "estimate, no board answered" in str(found)


def test_newer_boards_are_quicker(keywords: tuple[Operation, ...]) -> None:
    """From the Zero 2 W up to the Pi 5."""
    boards = ["raspberry-pi-zero-2w", "raspberry-pi-3", PI, "raspberry-pi-5"]

    times = [estimate(one, "tflite", keywords).p50_us or 0.0 for one in boards]

    assert times == sorted(times, reverse=True)
    assert min(times) > 0


def test_floats_take_longer_than_integers_and_hybrids_lie_between() -> None:
    """On a board whose pace is published for both."""
    times = [
        estimate(PI, "tflite", [Operation("FULLY_CONNECTED", 1, precision, 10**6)]).p50_us or 0.0
        for precision in ("int8", "int8 weights", "float32")
    ]

    assert times == sorted(times)
    assert len(set(times)) == 3


@pytest.mark.parametrize(
    ("board", "form", "operation", "why"),
    [
        ("jetson-orin", "tflite", Operation("CONV_2D", 3, "int8", 9), "nothing is published"),
        (PI, "onnx", Operation("Conv", 17, "int8", 9), "int8 in ONNX Runtime"),
        (PI, "tflite", Operation("CONV_2D", 3, "int16", 9), "int16"),
        (PI, "onnx", Operation("If", 17, "float32", None), "trees, loops or state"),
        (PI, "onnx", Operation("Abs", 17, "float32", 0), "trees, loops or state"),
    ],
)
def test_what_nobody_knows_is_not_guessed(
    board: str, form: Any, operation: Operation, why: str
) -> None:
    """A board, a runtime or a model without published figures has no number."""
    found = estimate(board, form, [operation])

    assert found.p50_us is None
    assert why in str(found)


def test_a_board_that_answered_replaces_the_estimate() -> None:
    """Two runs are measured; another file of the same runtime is scaled; the rest stays."""
    told = [
        TargetLatency(board=PI, how="estimate", p50_us=p50_us, low_us=1.0, high_us=900.0)
        for p50_us in (100.0, 300.0, 200.0)
    ]
    files = [BoardFile("litert", "a"), BoardFile("litert", "b"), BoardFile("onnx", "c")]

    measured, scaled, other = refined(
        told, files, [Answer("a", "litert", 140.0), Answer("a", "litert", 160.0)]
    )

    assert (measured.how, measured.p50_us, measured.runs) == ("measured", 150.0, 2)
    assert str(measured) == f"150 µs (140 µs to 160 µs), measured on {PI}, 2 runs"
    assert (scaled.how, scaled.p50_us, scaled.runs) == ("scaled", 450.0, 2)
    assert scaled.low_us is not None and scaled.high_us is not None
    assert 200 < scaled.low_us < 450 < scaled.high_us < 640
    assert "estimate, scaled by 2 runs" in str(scaled)
    assert other == told[2]


def test_boards_that_have_names_are_counted_once_each() -> None:
    """Three boards, one of which ran twice: the median of the boards, and how many they are."""
    told = [TargetLatency(board=PI, how="estimate", p50_us=100.0)] * 2
    answers = [
        Answer("a", "litert", engine_us, device)
        for device, engine_us in [("p-1", 100.0), ("p-1", 140.0), ("p-2", 130.0), ("p-3", 150.0)]
    ]

    measured, scaled = refined(told, [BoardFile("litert", "a"), BoardFile("litert", "b")], answers)

    assert (measured.p50_us, measured.boards, measured.runs) == (130.0, 3, 4)
    assert str(measured) == f"130 µs (120 µs to 150 µs), measured on 3 boards ({PI}), 4 runs"
    assert "estimate, scaled by 4 runs on 3 boards" in str(scaled)


def test_the_file_before_answers_until_boards_have_run_the_new_one() -> None:
    """A refreshed network takes as long as the one it replaces, and the text says whose it is."""
    told = [TargetLatency(board=PI, how="estimate", p50_us=100.0)]
    files = [BoardFile("litert", "new", before="old")]
    answers = [Answer("old", "litert", 80.0, "p-1"), Answer("old", "litert", 84.0, "p-2")]

    (before,) = refined(told, files, answers)
    (after,) = refined(told, files, [*answers, Answer("new", "litert", 90.0, "p-1")])

    assert (before.p50_us, before.boards, before.is_of_weights_before) == (82.0, 2, True)
    assert str(before).endswith("2 runs with the weights before")
    assert (after.p50_us, after.boards, after.is_of_weights_before) == (90.0, 1, False)


def test_a_file_of_another_board_changes_nothing_where_nothing_fits() -> None:
    """An answer about another file refines no estimate."""
    told = [TargetLatency(board=PI, how="estimate", p50_us=100.0)]

    assert refined(told, [BoardFile("litert", "a")], [Answer("z", "litert", 1.0)]) == tuple(told)


# --- from the device and back --------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert a model, and let this machine answer as a board does: by ``tune --json``."""
    folder = tmp_path_factory.mktemp("tuned")
    model = str(MODELS / "hello_world_float.tflite")
    assert main(["convert", model, "-o", str(folder / "sine"), "--quiet"]) == 0
    with pytest.MonkeyPatch.context() as patch, (folder / "here.json").open("w") as out:
        patch.setattr("sys.stdout", out)
        assert main(["tune", str(folder / "sine"), "--json", "--dry-run", "--seconds", "0.5"]) == 0
    return folder


def _as(tuned: Path, folder: Path, **changed: Any) -> Path:
    """Write a result with other facts."""
    facts = json.loads((tuned / "here.json").read_text()) | changed
    path = folder / "result.json"
    path.write_text(json.dumps(facts))
    return path


def test_a_result_names_the_board_and_the_files(tuned: Path) -> None:
    """The file is told by its digest, and the time is that of the model's call alone."""
    (answer,) = load_answers([tuned / "here.json"], "desktop")

    content = (tuned / "sine" / "model.tflite").read_bytes()
    assert answer.sha256 == hashlib.sha256(content).hexdigest()
    assert answer.backend == "litert"
    (row,) = json.loads((tuned / "here.json").read_text())["rows"]
    assert 0 < answer.engine_us == row["engine_us"] < row["median_us"]


def test_the_next_report_says_measured(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same model, converted again with a folder of two answers: measured, two runs."""
    results = tmp_path / "results"
    results.mkdir()
    for name in ("one", "two"):
        _as(tuned, results, board=PI).rename(results / f"{name}.json")
    asked = ["convert", str(MODELS / "hello_world_float.tflite"), "-o", str(tmp_path / "sine")]

    assert main([*asked, "--target", PI, "--quiet"]) == 0
    assert "estimate, no board answered" in capsys.readouterr().out
    assert main([*asked, "--target", PI, "--bench", str(results), "--quiet"]) == 0

    assert f"measured on {PI}, 2 runs" in capsys.readouterr().out
    page = (tmp_path / "sine-report" / "report.html").read_text()
    assert f"Latency on {PI}: measured there" in page


def test_a_result_of_another_board_is_refused(tuned: Path) -> None:
    """The message says which board it was, and which target would fit."""
    with pytest.raises(ConfigError, match="measured on desktop") as refused:
        load_answers([tuned / "here.json"], PI)

    assert refused.value.remedy == "Say --target desktop, or leave the file out."


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"rows": []}', b"\xff" * 9])
def test_what_is_no_result_is_refused(content: bytes, tmp_path: Path) -> None:
    """Whatever it is, the message says how a result is made."""
    (tmp_path / "x.json").write_bytes(content)

    with pytest.raises(ConfigError, match="tune BUNDLE --json"):
        load_answers([tmp_path / "x.json"], PI)
    with pytest.raises(ConfigError, match=r"cannot be read.*tune BUNDLE --json"):
        load_answers([tmp_path / "missing.json"], PI)


def test_rows_that_failed_or_took_more_threads_do_not_count(tuned: Path, tmp_path: Path) -> None:
    """An estimate is of one thread, and of answers that agree."""
    (row,) = json.loads((tuned / "here.json").read_text())["rows"]
    threaded = row | {"candidate": row["candidate"] | {"threads": 2}}
    failed, wrong = row | {"failure": "it crashed"}, row | {"agreeing": 0}

    path = _as(tuned, tmp_path, rows=[threaded, failed, wrong])

    assert load_answers([path], "desktop") == ()
    assert msgspec.json.decode(path.read_bytes())["board"] == "desktop"
