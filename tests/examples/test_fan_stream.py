"""The shipped cell hears what its README says, on rows that training never saw."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edge_runtime import load_bundle, open_pipeline
from edge_runtime.types import Windows
from edge_runtime.update.admission import admit
from examples.fan_stream.gru import train
from examples.fan_stream.train import BUNDLE, HERE, MAX_DROP, STEPS, unseen_runs, windows_of

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def claimed() -> Any:
    """Give what training wrote down."""
    return json.loads((HERE / "result.json").read_text())


def test_integers_cost_less_than_they_may(claimed: Any) -> None:
    """The whole interval of the loss lies within the budget, at half of the size."""
    chosen = claimed["files"][claimed["precision"]]

    assert claimed["claim"] == "proven"
    assert chosen["loss_95"][1] <= MAX_DROP
    assert chosen["bytes"] <= 0.51 * claimed["files"]["float32"]["bytes"]


def test_no_file_drifts(claimed: Any) -> None:
    """After 1,000 steps and more each is nearer to float than in the first ten."""
    for precision in ("float16", "dynamic", "int8"):
        spans = list(claimed["files"][precision]["drift_db"].items())
        assert spans[-1][0] == "steps 1001 to 4000"
        assert spans[-1][1][0] > spans[0][1][0]


def test_the_bundle_hears_the_weights(claimed: Any) -> None:
    """It is admitted; after two seconds from a reset it is as right as was claimed."""
    bundle = load_bundle(BUNDLE)
    windows, labels = windows_of(unseen_runs(), slice(None), STEPS)
    pipeline = open_pipeline(bundle)
    at = np.arange(STEPS, dtype=np.int64)

    ends = [
        pipeline.score_windows(Windows(at, at, at, one[:, np.newaxis])).score[-1] for one in windows
    ]

    pipeline.scorer.session.close()
    assert admit(BUNDLE).is_admitted
    assert bundle.spec.artefacts[0].precision == claimed["precision"]
    right = float(np.mean(np.argmax(ends, 1) == labels))
    assert right == pytest.approx(claimed["files"][claimed["precision"]]["accuracy"], abs=0.03)


def test_a_gru_learns_what_came_first() -> None:
    """The sign of the first of eight samples, which it has to keep."""
    dice = np.random.default_rng(0)
    windows = dice.normal(0, 1, (400, 8, 1)).astype(np.float32)
    labels = (windows[:, 0, 0] > 0).astype(np.int64)
    losses: list[float] = []

    train(
        windows, labels, 8, epochs=30, rate=0.02, seed=1, tell=lambda _, loss: losses.append(loss)
    )

    assert losses[-1] < 0.25 * losses[0]
