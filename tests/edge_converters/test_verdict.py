"""Tests of verdicts: intervals against SciPy, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_converters.metrics import loss_of, value_of
from edge_converters.quantise.contracts import Budget, MetricName, Samples
from edge_converters.verdict import (
    Contender,
    Outcome,
    Verdict,
    choose,
    judge,
    mcnemar,
    windows_needed,
)


def _right(is_right: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return outputs of two classes that are right where told."""
    return np.eye(2)[np.where(is_right, truth, 1 - truth)]


def _accuracy(both: int, lost: int, won: int, neither: int, max_drop: float = 0.01) -> Verdict:
    """Judge two models by how many windows each gets right."""
    counts = [both, lost, won, neither]
    before = np.repeat([True, True, False, False], counts)
    after = np.repeat([True, False, True, False], counts)
    truth = np.arange(sum(counts)) % 2
    samples = Samples(np.zeros((len(truth), 1), np.float32), truth)
    return judge(Budget("accuracy", max_drop), samples, _right(before, truth), _right(after, truth))


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_test_is_the_binomial_one(lost: int, won: int) -> None:
    """The p-value is that of SciPy's exact binomial test with a chance of a half."""
    stats = pytest.importorskip("scipy.stats")

    found = mcnemar(lost, won)

    wanted = stats.binomtest(lost, lost + won, 0.5).pvalue if lost + won else 1.0
    assert found == pytest.approx(wanted)


def test_as_many_windows_as_a_hundredth_needs() -> None:
    """With 2 % disagreement, 769 windows tell a loss of one point: z² · 0.02 / 0.01²."""
    assert windows_needed(0.02, 0.01) == 769


@pytest.mark.parametrize(
    ("counts", "outcome"),
    [
        ((9000, 20, 18, 962), "pass"),
        ((8000, 400, 100, 1500), "fail"),
        ((180, 4, 2, 14), "inconclusive"),
        ((20, 0, 0, 0), "inconclusive"),
    ],
)
def test_accuracy_is_judged_by_what_differs(
    counts: tuple[int, int, int, int], outcome: Outcome
) -> None:
    """Many windows that hardly differ pass, a clear loss fails, and few windows cannot tell."""
    found = _accuracy(*counts)

    assert found.outcome == outcome
    assert (found.needed is not None) == (outcome == "inconclusive")


def test_as_many_more_windows_as_said_would_tell() -> None:
    """Once there are as many windows of the same kind as were asked for, the answer is clear."""
    counts = np.array([940, 12, 8, 40])
    found = _accuracy(*counts.tolist())
    assert found.outcome == "inconclusive"
    assert found.needed is not None

    times = -(-(1000 + found.needed) // 1000)

    assert times > 1
    assert _accuracy(*(times * counts).tolist()).outcome == "pass"


@given(st.integers(0, 1000))
def test_a_true_loss_is_inside_most_intervals(seed: int) -> None:
    """The interval of the accuracy's loss is centred on it and has both signs around no loss."""
    draw = np.random.default_rng(seed)
    found = _accuracy(*draw.multinomial(400, [0.85, 0.03, 0.03, 0.09]).tolist())

    assert found.loss is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.loss <= found.high


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 400 samples, the intervals of accuracy hold the true loss in 93 to 98 of a hundred."""
    draw = np.random.default_rng(0)
    shares = [0.88, 0.05, 0.03, 0.04]

    found = [_accuracy(*draw.multinomial(300, shares).tolist()) for _ in range(400)]

    held = [one.low <= 0.02 <= one.high for one in found]  # type: ignore[operator]
    assert 0.93 <= np.mean(held) <= 0.98


@pytest.mark.parametrize("metric", ["auc", "f1", "mae"])
def test_the_bootstrap_agrees_with_scipy(metric: MetricName) -> None:
    """The paired interval is that of SciPy's paired bootstrap, to a tenth of its width."""
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(2)
    truth = draw.integers(0, 2, 400)
    before = draw.normal(truth, 1.0)
    after = before + draw.normal(0, 0.4, 400)
    samples = Samples(np.zeros((400, 1), np.float32), truth)
    budget = Budget(metric, 0.01)

    found = judge(budget, samples, before, after)

    def loss(places: np.ndarray) -> float:
        part = Samples(samples.windows[places], truth[places])
        values = [value_of(budget, part, before[places], one[places]) for one in (before, after)]
        return loss_of(budget, *values)

    wanted = stats.bootstrap(
        (np.arange(400),),
        loss,
        vectorized=False,
        method="percentile",
        n_resamples=1000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found.loss == pytest.approx(loss(np.arange(400)))
    assert found.low == pytest.approx(wanted.low, abs=0.1 * (wanted.high - wanted.low))
    assert found.high == pytest.approx(wanted.high, abs=0.1 * (wanted.high - wanted.low))


def test_the_same_outputs_lose_nothing() -> None:
    """A file that answers like float passes with an interval of no width."""
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, 100)
    scores = draw.normal(truth, 1)

    found = judge(
        Budget("auc", 0.005), Samples(np.zeros((100, 1), np.float32), truth), scores, scores
    )

    assert (found.outcome, found.low, found.high) == ("pass", 0.0, 0.0)


def test_a_seed_decides_the_interval() -> None:
    """The same seed gives the same verdict to the last digit."""
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, 100)
    before, after = draw.normal(truth, 1), draw.normal(truth, 1)
    samples = Samples(np.zeros((100, 1), np.float32), truth)

    found = [judge(Budget("auc", 0.01), samples, before, after, seed=one) for one in (1, 1, 2)]

    assert found[0] == found[1]
    assert found[0] != found[2]


def test_agreement_needs_no_truth() -> None:
    """Where nobody knows the classes, those of the float model are what counts."""
    outputs = np.eye(3)[np.arange(3000) % 3]
    other = outputs.copy()
    other[:3] = np.roll(other[:3], 1, axis=1)

    found = judge(
        Budget("agreement", 0.01), Samples(np.zeros((3000, 1), np.float32)), outputs, other
    )

    assert found.outcome == "pass"
    assert found.value == pytest.approx(0.999)
    assert "0.9990 against 1.0000" in str(found)


def test_snr_is_taken_at_its_word() -> None:
    """A comparison of outputs has no interval: enough decibels pass, fewer fail."""
    outputs = np.ones((50, 2))
    samples = Samples(np.zeros((50, 1), np.float32))

    found = [judge(Budget("snr", limit), samples, outputs, outputs * 1.1) for limit in (19, 21)]

    assert [one.outcome for one in found] == ["pass", "fail"]
    assert str(found[0]) == "pass: 20.0 dB, at least 19 wanted"


# --- choice -------------------------------------------------------------------------


def _contender(name: str, size: int, latency_s: float | None, outcome: Outcome | None) -> Contender:
    verdict = None
    if outcome is not None:
        needed = 120 if outcome == "inconclusive" else None
        verdict = Verdict(
            outcome, "accuracy", 0.9, 0.9, 0.0, -0.001, 0.001, 0.005, 1000, needed=needed
        )
    return Contender(name, name, size, latency_s, verdict)


_FLOAT = _contender("float32", 1000, 10e-6, None)


def test_the_smallest_file_that_passed_is_chosen() -> None:
    """Size decides among those that passed; a smaller one that failed does not count."""
    others = [
        _contender("int8", 250, 8e-6, "fail"),
        _contender("mixed", 300, 9e-6, "pass"),
        _contender("float16", 500, 9e-6, "pass"),
    ]

    found = choose([_FLOAT, *others])

    assert found.name == "mixed"
    assert found.why == "mixed passed and has 30% of float's size"


def test_float_is_kept_where_int8_is_slower() -> None:
    """For latency a smaller file that is slower is no gain."""
    slower = _contender("int8", 250, 30e-6, "pass")

    found = choose([_FLOAT, slower], prefer="latency")

    assert found.keeps_float
    assert found.why == "keep float: no file that passed has less latency"


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        ("fail", "every quantised file loses more than the budget"),
        ("inconclusive", "inconclusive, need 120 more windows"),
    ],
)
def test_float_is_kept_where_nothing_passed(outcome: Outcome, why: str) -> None:
    """Without proof there is no quantised file, and the reason is told."""
    found = choose([_FLOAT, _contender("int8", 250, 5e-6, outcome)])

    assert found.keeps_float
    assert found.why == f"keep float: {why}"


def test_a_lone_float_file_is_kept() -> None:
    """Where nothing else was made, float is the answer."""
    assert choose([_FLOAT]).why == "keep float: nothing else is there"
