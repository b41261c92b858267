"""Tests of the metrics, against scikit-learn and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge_converters.metrics import auc, classes_of, f1, is_within, snr_db, value_of
from edge_converters.quantise.contracts import Budget, Samples
from edge_runtime.errors import ConfigError

_WINDOWS = np.zeros((4, 2), np.float32)


def _drawn(seed: int, count: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return scores with ties, and the truth."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, classes, count)
    return np.round(draw.normal(truth, 1.5), 1), truth


@given(st.integers(0, 10_000), st.integers(4, 80))
def test_the_area_is_the_rank_statistic(seed: int, count: int) -> None:
    """AUC is the Mann-Whitney U of SciPy over the number of pairs, ties included."""
    stats = pytest.importorskip("scipy.stats")
    scores, truth = _drawn(seed, count)
    assume(0 < truth.sum() < count)

    found = auc(scores, truth, np.ones((1, count)))[0]

    pairs = truth.sum() * (count - truth.sum())
    wanted = stats.mannwhitneyu(scores[truth == 1], scores[truth == 0]).statistic / pairs
    assert found == pytest.approx(wanted)


@given(st.integers(0, 10_000), st.integers(6, 40))
def test_a_weight_is_a_repetition(seed: int, count: int) -> None:
    """A window that counts three times gives the AUC and F1 of one that is there three times."""
    scores, truth = _drawn(seed, count)
    times = np.random.default_rng(seed).integers(0, 4, count)
    repeated = np.repeat(np.arange(count), times)
    assume(0 < truth[repeated].sum() < len(repeated))
    classes = (scores > 0.5).astype(int)

    area = auc(scores, truth, times[np.newaxis])[0]
    score = f1(classes, truth, times[np.newaxis].astype(float))[0]

    once = np.ones((1, len(repeated)))
    assert area == pytest.approx(auc(scores[repeated], truth[repeated], once)[0])
    assert score == pytest.approx(f1(classes[repeated], truth[repeated], once)[0])


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_are_those_of_scikit_learn(classes: int) -> None:
    """F1, of one class or the mean of many, and AUC agree with scikit-learn."""
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(3)
    truth = draw.integers(0, classes, 300)
    said = np.where(draw.uniform(size=300) < 0.7, truth, draw.integers(0, classes, 300))

    found = f1(said, truth, np.ones((1, 300)))[0]

    average = "binary" if classes == 2 else "macro"
    assert found == pytest.approx(metrics.f1_score(truth, said, average=average))


def test_the_area_is_that_of_scikit_learn() -> None:
    """AUC of two outputs takes the second, as the score of the anomaly."""
    metrics = pytest.importorskip("sklearn.metrics")
    scores, truth = _drawn(1, 200)
    samples = Samples(np.zeros((200, 1), np.float32), truth)

    found = value_of(Budget("auc", 0.01), samples, scores, np.stack([-scores, scores], 1))

    assert found == pytest.approx(metrics.roc_auc_score(truth, scores))


def test_an_autoencoder_is_scored_by_what_it_fails_to_rebuild() -> None:
    """The score of a window is the mean squared difference of output and input."""
    samples = Samples(np.array([[0, 0], [1, 1], [2, 2]], np.float32), np.array([0, 0, 1]))
    outputs = np.array([[0.1, 0], [1, 1], [0, 0]])

    found = value_of(Budget("auc", 0.01, "reconstruction"), samples, outputs, outputs)

    assert found == 1.0


def test_a_single_output_is_a_chance() -> None:
    """One output above a half means class 1; of several, the largest is the class."""
    assert classes_of(np.array([[0.4], [0.6]])).tolist() == [0, 1]
    assert classes_of(np.array([[0.1, 0.7, 0.2]])).tolist() == [1]


def test_snr_is_power_over_power_of_the_difference() -> None:
    """A tenth of the amplitude is 20 dB below; the same values are infinitely precise."""
    values = np.array([[3.0, -4.0]])

    assert snr_db(values, values * 1.1) == pytest.approx(20.0)
    assert snr_db(values, values) == math.inf


@pytest.mark.parametrize(
    ("metric", "float_value", "value", "is_kept"),
    [
        ("accuracy", 0.90, 0.895, True),
        ("accuracy", 0.90, 0.894, False),
        ("mae", 2.0, 2.005, True),
        ("mae", 2.0, 2.1, False),
        ("agreement", 1.0, 0.99, False),
        ("mae", 2.0, 1.0, True),
    ],
)
def test_a_budget_is_a_loss(metric: str, float_value: float, value: float, is_kept: bool) -> None:
    """Half a point may be lost, not more; a larger error is a loss, a smaller one is none."""
    assert is_within(Budget(metric, 0.005), float_value, value) is is_kept  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "truth", "outputs", "message"),
    [
        ("accuracy", None, np.zeros((4, 2)), "nothing is known"),
        ("accuracy", np.zeros(3), np.zeros((4, 2)), "shape of the truth"),
        ("auc", np.zeros(4), np.zeros((4, 1)), "not 0 and 1, both"),
        ("auc", np.array([0, 1, 0, 1]), np.zeros((4, 3)), "has 3 outputs"),
        ("mae", np.array([0.0, np.nan, 1, 1]), np.zeros((4, 1)), "not finite"),
    ],
)
def test_what_cannot_be_measured_is_said(
    metric: str, truth: np.ndarray | None, outputs: np.ndarray, message: str
) -> None:
    """A metric without the truth it needs is an error that names it."""
    budget = Budget(metric, 0.01)  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match=message):
        value_of(budget, Samples(_WINDOWS, truth), outputs, outputs)


def test_what_rebuilds_nothing_is_no_autoencoder() -> None:
    """Reconstruction needs outputs in the shape of the windows."""
    budget = Budget("auc", 0.01, "reconstruction")
    samples = Samples(_WINDOWS, np.array([0, 1, 0, 1]))

    with pytest.raises(ConfigError, match="rebuild nothing"):
        value_of(budget, samples, np.zeros((4, 3)), np.zeros((4, 3)))
