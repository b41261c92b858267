"""The keyword spotter from float to int8, on the 500 clips of MLPerf Tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_converters.metrics import value_of
from edge_converters.quantise.contracts import Budget, Calibration, Samples
from edge_converters.quantise.search import search

TESTS = Path(__file__).parents[2]
_SCALE, _ZERO_POINT = 0.5847029089927673, 83
_ACCURACY = Budget("accuracy", 0.005)


@pytest.fixture(scope="module")
def clips() -> Samples:
    """Give the features of the clips as real values, and the words that are said."""
    with np.load(TESTS / "data" / "keywords" / "mfcc_int8_49x10.npz") as file:
        features = (file["features"].astype(np.float32) - _ZERO_POINT) * np.float32(_SCALE)
        return Samples(features, file["label"].astype(int))


@pytest.fixture(scope="module")
def spotter() -> Any:
    """Give the quantiser of the float keyword spotter."""
    pytest.importorskip("onnx")
    from edge_converters.quantise.onnx import OnnxQuantiser

    file = TESTS / "edge_converters" / "data" / "kws_dscnn_hybrid.onnx"
    return OnnxQuantiser(file.read_bytes())


def _accuracy(spotter: Any, model: bytes, clips: Samples) -> float:
    reference = spotter.run(spotter.model, clips.windows)
    return value_of(_ACCURACY, clips, reference, spotter.run(model, clips.windows))


def test_int8_hears_nine_words_in_ten(spotter: Any, clips: Samples) -> None:
    """Calibrated on every fifth clip, the int8 file names at least 90 % of all words."""
    calibration = spotter.calibrate(clips.windows[::5])

    int8 = spotter.quantise(spotter.recipe("int8", calibration, {}))

    assert _accuracy(spotter, int8, clips) >= 0.9
    assert len(int8) < 0.75 * _float_bytes(spotter)


def test_the_search_keeps_half_a_point(spotter: Any, clips: Samples) -> None:
    """Searched on one half of the clips, the file keeps its accuracy on the other."""
    calibration = spotter.calibrate(clips.windows[::5])
    half = [
        Samples(clips.windows[part::2], clips.truth[part::2])  # type: ignore[index]
        for part in (0, 1)
    ]

    found = search(spotter, calibration, half[0], _ACCURACY)

    assert found.is_within_budget
    lost = _accuracy(spotter, spotter.model, half[1]) - _accuracy(
        spotter, found.chosen.model, half[1]
    )
    assert lost <= 0.005


def _float_bytes(spotter: Any) -> int:
    """Return the size of the file with all its weights in float."""
    cures = {one.name: "float" for one in spotter.operators}
    calibration = Calibration(windows=0, tensors={})
    return len(spotter.quantise(spotter.recipe("mixed", calibration, cures)))
