"""The shipped fan bundle reaches what its README says, on rows that training never saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from examples.fan_vibration.report import BUNDLE, TEST, confusion_of, main, summary
from examples.fan_vibration.train import LABELS, TRAIN_ROWS, WINDOW

METRICS = BUNDLE.parents[1] / "artefacts" / "1.0.0" / "metrics.json"


@pytest.mark.parametrize(("backend", "form"), [("litert", "int8_tflite"), ("onnx", "int8_onnx")])
def test_the_int8_bundle_reaches_its_figure(backend: str, form: str) -> None:
    """Through the pipeline the accuracy is what training wrote down, and above 95 %."""
    counts = confusion_of(backend=backend)

    accuracy = np.trace(counts.sum(axis=0)) / counts.sum()

    claimed = json.loads(METRICS.read_text())["accuracy_later_in_time"][form]
    assert counts.sum() == 459
    assert round(float(accuracy), 4) == claimed
    assert accuracy >= 0.95


def test_the_test_rows_are_no_training_rows() -> None:
    """Every run gives its later 900 samples, whole windows of them, for each class and speed."""
    with np.load(TEST) as rows:
        pairs = set(zip(rows["label"].tolist(), rows["speed"].tolist(), strict=True))
        samples = rows["milli_g"]

    assert samples.shape == (51, 3000 - TRAIN_ROWS, 3)
    assert samples.shape[1] % WINDOW == 0
    assert pairs == {(k, speed) for k in range(len(LABELS)) for speed in range(20, 101, 5)}


def test_the_part_is_the_end_of_the_test_rows() -> None:
    """Both pieces of the data set in this folder tell the same about the same samples."""
    part = np.loadtxt(BUNDLE.parents[1] / "fan_vibration_part.csv", delimiter=",", skiprows=1)
    with np.load(TEST) as rows:
        chosen = np.isin(rows["speed"], (40, 60, 80, 100))
        samples = rows["milli_g"][chosen][:, -600:].reshape(-1, 3)

    assert np.array_equal(np.round(1000 * part[:, 2:]).astype(np.int16), samples)


def test_a_summary_counts_what_the_confusion_says() -> None:
    """Rows are what was true, columns what was answered."""
    counts = np.array([[[8, 2, 0], [0, 10, 0], [0, 5, 5]]])

    found = summary(counts, [50])

    assert found["accuracy"] == found["by_speed"]["50"] == 76.7
    assert found["found"] == {"unbalance-1": 80.0, "unbalance-2": 100.0, "unbalance-3": 50.0}
    assert found["right_when_said"]["unbalance-2"] == 58.8


def test_the_report_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One command gives the figures as JSON and the picture."""
    pytest.importorskip("matplotlib")
    out = tmp_path / "confusion.png"

    code = main(["--out", str(out)])

    assert code == 0
    assert json.loads(capsys.readouterr().out)["litert"]["accuracy"] == 98.5
    assert out.read_bytes().startswith(b"\x89PNG")
