"""The shipped autoencoder notices what its README says, on rows that training never saw."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edge_converters.metrics import auc
from edge_runtime import load_bundle, open_pipeline
from edge_runtime.update.admission import admit
from edge_runtime.update.proof import golden_windows
from examples.fan_anomaly.train import BUNDLE, HIDDEN, MAX_DROP, WINDOW, windows_of
from examples.fan_vibration.report import TEST
from examples.fan_vibration.train import Run

pytest.importorskip("ai_edge_litert")


@pytest.fixture(scope="module")
def claimed() -> Any:
    """Give what training wrote down."""
    return json.loads((BUNDLE.parents[1] / "result.json").read_text())


def test_integers_cost_less_than_they_may(claimed: Any) -> None:
    """The whole interval of the loss lies within the budget, at less than 60 % of the size."""
    assert claimed["claim"] == "proven"
    assert claimed["loss_95"][1] <= MAX_DROP
    assert claimed["bytes"]["chosen"] <= 0.6 * claimed["bytes"]["float"]


def test_the_bundle_is_what_was_measured(claimed: Any) -> None:
    """It is admitted, int8 inside, and of the shape of MLPerf Tiny's detector."""
    bundle = load_bundle(BUNDLE)

    assert admit(BUNDLE).is_admitted
    assert bundle.spec.artefacts[0].precision == claimed["precision"] == "int8"
    assert len(bundle.files["model.tflite"]) == claimed["bytes"]["chosen"]
    pipeline = open_pipeline(bundle)
    assert pipeline.scorer.session.inputs[0].shape[-1] == 640
    assert HIDDEN == (128, 128, 128, 128, 8, 128, 128, 128, 128)


def test_other_loadings_are_noticed(claimed: Any) -> None:
    """Through the pipeline, with the device's own features, the AUC is the claimed one."""
    with np.load(TEST) as rows:
        runs = [
            Run(int(label), int(speed), (milli / 1000).astype(np.float32), ())
            for label, speed, milli in zip(
                rows["label"], rows["speed"], rows["milli_g"], strict=True
            )
        ]
    windows, is_odd = windows_of(runs, slice(None), 16)

    scores = open_pipeline(load_bundle(BUNDLE)).score_windows(golden_windows(windows)).score[:, 0]

    found = float(auc(scores, is_odd, np.ones((1, len(is_odd))))[0])
    assert windows.shape[1:] == (WINDOW, 1)
    assert found == pytest.approx(claimed["auc"]["chosen"], abs=0.01)
