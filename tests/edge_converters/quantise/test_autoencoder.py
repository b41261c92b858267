"""An autoencoder of the shape of MLPerf Tiny's, trained on the fan: integers must not blind it.

Its own recordings may not be passed on, so this one learns one way of loading the
blades, in decibels as the original does, and has to tell the two others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_converters.quantise.contracts import Budget, Samples, SearchResult
from edge_converters.quantise.search import search
from edge_converters.verdict import Verdict, judge

pytestmark = pytest.mark.slow

_EXAMPLES = Path(__file__).parents[3] / "examples"
_FRAME, _HOP, _FRAME_HOP, _FRAMES, _BINS = 84, 3, 7, 5, 128
_SIZES = [128, 128, 128, 128, 8, 128, 128, 128, 128]
_AUC = Budget("auc", 0.005, scoring="reconstruction")


@pytest.fixture(scope="module")
def sounds() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give spectra of shape (n, 640), dB, the class of each, and its time, 0 to 1."""
    with np.load(_EXAMPLES / "fan_vibration" / "fan_vibration_test.npz") as file:
        is_fast = file["speed"] >= 60
        signals, labels = file["milli_g"][is_fast].astype(np.float32), file["label"][is_fast]
    frames = np.lib.stride_tricks.sliding_window_view(signals / 1000, _FRAME, axis=1)[:, ::_HOP]
    spectra = np.abs(np.fft.rfft(frames * np.hanning(_FRAME), axis=-1))
    decibels = 20 * np.log10(spectra + 1e-2).reshape(*spectra.shape[:2], -1)[..., :_BINS]
    starts = np.arange(0, decibels.shape[1] - (_FRAMES - 1) * _FRAME_HOP, 2)
    parts = [decibels[:, starts + number * _FRAME_HOP] for number in range(_FRAMES)]
    vectors = np.concatenate(parts, axis=-1).astype(np.float32)
    time = np.broadcast_to(starts / starts[-1], vectors.shape[:2])
    return vectors.reshape(-1, _FRAMES * _BINS), np.repeat(labels, len(starts)), time.ravel()


@pytest.fixture(scope="module")
def trained(sounds: Any, networks: Any) -> Any:
    """Give the network: it learned the first class on the first half of each recording."""
    vectors, classes, time = sounds
    known = vectors[(classes == 0) & (time < 0.5)]
    mean, spread = known.mean(0), known.std(0)
    scaled = ((known - mean) / spread).astype(np.float32)
    layers = networks.train(
        scaled, scaled, _SIZES, epochs=20, rate=5e-4, rows=32, is_classifier=False
    )
    return networks.Network(networks.unscaled(layers, mean, spread))


@pytest.fixture(scope="module", params=["onnx", "tflite"])
def make(request: pytest.FixtureRequest) -> Any:
    """Give what makes a quantiser, in each format."""
    return request.getfixturevalue(f"{request.param}_quantiser")


@pytest.fixture
def autoencoder(
    request: pytest.FixtureRequest, make: Any, trained: Any, sounds: Any, networks: Any
) -> Any:
    """Give the quantiser of the trained network, or of one with large channels."""
    network = networks.outlying(trained, 1, 2000) if getattr(request, "param", 0) else trained
    return make(networks.Task(network, sounds[0][:1], (), ()))


def test_the_search_keeps_the_anomalies(autoencoder: Any, sounds: Any) -> None:
    """The AUC on untouched recordings is off by 0.005 at most, at 60 % of the size or less."""
    found = _searched(autoencoder, sounds)

    verdict = _judged(autoencoder, found.chosen.model, sounds)
    assert verdict.float_value > 0.9
    assert verdict.loss is not None
    assert verdict.loss <= 0.005
    assert len(found.chosen.model) <= 0.6 * len(autoencoder.model)


@pytest.mark.parametrize("autoencoder", [True], indirect=True)
def test_the_search_recovers_what_outliers_cost(autoencoder: Any, sounds: Any) -> None:
    """Where plain int8 loses more than the original's 0.043, the search loses 0.005 at most."""
    calibration = autoencoder.calibrate(_normal(sounds)[::4])
    int8 = autoencoder.quantise(autoencoder.recipe("int8", calibration, {}, is_equalised=False))

    found = _searched(autoencoder, sounds)

    plain, searched = (_judged(autoencoder, one, sounds) for one in (int8, found.chosen.model))
    assert plain.outcome == "fail"
    assert plain.loss is not None
    assert plain.loss > 0.043
    assert searched.loss is not None
    assert searched.loss <= 0.005
    assert len(found.chosen.model) <= 0.6 * len(autoencoder.model)


def _searched(autoencoder: Any, sounds: Any) -> SearchResult:
    calibration = autoencoder.calibrate(_normal(sounds)[::4])
    return search(autoencoder, calibration, _part(sounds, 0.55, 0.75), _AUC)


def _judged(autoencoder: Any, model: bytes, sounds: Any) -> Verdict:
    untouched = _part(sounds, 0.8, 1.01)
    reference = autoencoder.run(autoencoder.model, untouched.windows)
    return judge(_AUC, untouched, reference, autoencoder.run(model, untouched.windows))


def _part(sounds: Any, low: float, high: float) -> Samples:
    vectors, classes, time = sounds
    chosen = (time >= low) & (time < high)
    return Samples(vectors[chosen], (classes[chosen] > 0).astype(int))


def _normal(sounds: Any) -> np.ndarray:
    vectors, classes, time = sounds
    result: np.ndarray = vectors[(classes == 0) & (time < 0.5)]
    return result
