"""What layers may do to a score, and when."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import BundleError, ShapeError
from edge_runtime.pipeline.layers import LayerSet, normalise, scales_of
from edge_runtime.spec import (
    CalibrationLayer,
    Clamps,
    FusionLayer,
    Layer,
    LayerBody,
    Limit,
    ModelSpec,
    Normalise,
    NormaliserLayer,
    PriorLayer,
    Reject,
    ResidualLayer,
    ThresholdsLayer,
)

BASE = "ab" * 32
SECOND_NS = 10**9
MADE_NS = 1_000 * SECOND_NS
CLAMPS = Clamps(residual=2.0, prior=3.0, age_s=500.0)
NUMBERS = st.floats(-1e6, 1e6)


def layer_of(body: LayerBody, **more: object) -> Layer:
    """Make a layer for the base of these tests."""
    return Layer(body, **({"requires": BASE, "seq": 1, "made_ns": MADE_NS} | more))


@pytest.fixture(scope="session")
def refine(spec_of: Callable[..., ModelSpec]) -> Callable[..., np.ndarray]:
    """Refine the scores of two labels, given two features, in windows of these ages."""

    def run(
        *layers: Layer,
        score: object = ((0.4, 0.7),),
        features: object = ((1.0, 2.0),),
        age_s: object = (0.0,),
        **more: object,
    ) -> np.ndarray:
        spec = spec_of(labels=("a", "b"), clamps=CLAMPS, **more)
        made = LayerSet(spec, layers, base=BASE, shape=(2,))
        end_ns = MADE_NS + (np.asarray(age_s) * SECOND_NS).astype(np.int64)
        scores = np.asarray(score, np.float64)
        parts = [
            made.refine(scores[rows], active, np.asarray(features, np.float32)[rows], end_ns[rows])
            for rows, active in made.runs(end_ns)
        ]
        return np.concatenate(parts)

    return run


def test_without_layers_the_value_is_the_score(refine: Callable[..., np.ndarray]) -> None:
    """Not a byte is touched, also where the link would round."""
    score = np.array([[0.1, 1.0]])

    assert refine(score=score, link="log_odds").tobytes() == score.tobytes()


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2), st.floats(-5, 5))
def test_a_prior_that_says_nothing_touches_no_byte(
    refine: Callable[..., np.ndarray], score: list[float], said: float
) -> None:
    """Also where the link would round: the answer is that of the edge alone."""
    neutral = layer_of(PriorLayer((said, 0.0), (said, 0.0)), half_life_s=10.0)

    found = refine(neutral, score=[score], link="log_odds", age_s=(3.0,))

    assert found.tobytes() == np.array([score]).tobytes()


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([CalibrationLayer(2.0, 0.5)], (1.3, 1.9)),
        ([ResidualLayer(0.1, (0.2, -0.3))], (0.1, 0.4)),
        ([PriorLayer((1.0, 2.0), (0.5, 0.0))], (0.9, 2.7)),
        ([FusionLayer(1.0, 0.5, 0.25)], (1.2, 1.35)),
        ([PriorLayer((1.0, 2.0), (0.5, 0.0)), FusionLayer(1.0, 0.5, 0.25)], (1.325, 1.85)),
        ([FusionLayer(0.0, 2.0, 0.0), CalibrationLayer(3.0, 0.0)], (2.4, 4.2)),
        ([FusionLayer(0.0, 2.0, 0.0), ResidualLayer(1.0, (0.0, 0.0))], (2.8, 3.4)),
    ],
    ids=str,
)
def test_layers_follow_their_formulas(
    refine: Callable[..., np.ndarray], layers: list[LayerBody], expected: tuple[float, float]
) -> None:
    """Calibration, then residual, then fusion with the prior, in whatever order they came."""
    found = refine(*[layer_of(body) for body in layers])

    assert found[0] == pytest.approx(expected)


def test_layers_work_in_log_odds(refine: Callable[..., np.ndarray]) -> None:
    """A prior of ln 2 doubles the odds."""
    found = refine(layer_of(PriorLayer((math.log(2), 0.0), (0.0, 0.0))), link="log_odds")

    odds = 0.4 / 0.6 * 2
    assert found[0] == pytest.approx((odds / (1 + odds), 0.7))


def test_a_residual_sees_features_in_the_scale_of_the_base(
    refine: Callable[..., np.ndarray],
) -> None:
    """A normaliser layer beside it does not change its terms."""
    base = Normalise((1.0, 0.0), (2.0, 4.0))
    residual = layer_of(ResidualLayer(0.0, (1.0, 1.0)))
    other = layer_of(NormaliserLayer((50.0, 50.0), (9.0, 9.0)))

    found = refine(residual, other, normalise=base)

    assert found[0] == pytest.approx((0.9, 1.2))


@given(st.lists(st.floats(0, 500), min_size=2, max_size=20), NUMBERS, NUMBERS)
def test_a_contribution_only_fades_with_age(
    refine: Callable[..., np.ndarray], ages_s: list[float], prior: float, weight: float
) -> None:
    """The older the layers, the nearer the value is to edge-only."""
    ages_s = sorted(ages_s)
    layers = [
        layer_of(PriorLayer((prior, prior), (0.0, 0.0)), half_life_s=50.0),
        layer_of(ResidualLayer(0.0, (abs(weight) * np.sign(prior), 0.0)), half_life_s=20.0),
    ]
    count = len(ages_s)

    found = refine(*layers, score=np.zeros((count, 2)), features=np.ones((count, 2)), age_s=ages_s)

    assert (np.diff(np.abs(found[:, 0])) <= 1e-12).all()


@given(NUMBERS, NUMBERS, NUMBERS, st.floats(0, 500), st.booleans())
def test_no_weights_move_an_answer_beyond_its_clamps(
    refine: Callable[..., np.ndarray],
    weight: float,
    intercept: float,
    prior: float,
    age_s: float,
    is_fading: bool,
) -> None:
    """Residual and prior contribute at most what the base allows, whatever they hold."""
    half_life_s = 30.0 if is_fading else None
    layers = [
        layer_of(ResidualLayer(intercept, (weight, weight)), half_life_s=half_life_s),
        layer_of(PriorLayer((prior, -prior), (0.0, 0.0)), half_life_s=half_life_s),
        layer_of(FusionLayer(0.0, 1.0, weight)),
    ]

    found = refine(*layers, score=[[0.0, 0.0]], age_s=[age_s])

    assert np.abs(found).max() <= CLAMPS.residual + CLAMPS.prior
    assert np.abs(refine(layers[0], score=[[0.0, 0.0]])).max() <= CLAMPS.residual
    assert np.abs(refine(layers[1], score=[[0.0, 0.0]])).max() <= CLAMPS.prior


@pytest.mark.parametrize(
    "body",
    [
        CalibrationLayer(2.0, 0.5),
        ResidualLayer(0.1, (0.2, -0.3)),
        PriorLayer((1.0, 2.0), (0.5, 0.0)),
        FusionLayer(1.0, 0.5, 0.25),
    ],
    ids=lambda body: body.__struct_config__.tag,
)
@pytest.mark.parametrize("link", ["identity", "log_odds"])
def test_a_layer_out_of_its_time_is_as_if_absent(
    refine: Callable[..., np.ndarray], body: LayerBody, link: str
) -> None:
    """Expired, too old, or made after the window: byte for byte the edge-only answer."""
    ages_s = [-1e-9, 0.0, 99.0, 100.0, 500.0, 500.5]
    expiring = layer_of(body, expires_ns=MADE_NS + 100 * SECOND_NS)
    rows = {
        "score": np.full((6, 2), 0.3),
        "features": np.ones((6, 2)),
        "age_s": ages_s,
        "link": link,
    }

    without = refine(**rows)
    with_expiry = refine(expiring, **rows)
    with_age = refine(layer_of(body), **rows)

    assert [a.tobytes() == b.tobytes() for a, b in zip(without, with_expiry, strict=True)] == [
        True,
        False,
        False,
        True,
        True,
        True,
    ]
    assert [a.tobytes() == b.tobytes() for a, b in zip(without, with_age, strict=True)] == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]


@given(st.lists(st.floats(-50, 600), min_size=1, max_size=30))
def test_windows_are_refined_alike_alone_and_together(
    refine: Callable[..., np.ndarray], ages_s: list[float]
) -> None:
    """Layers that come and go in the middle of a block change no other window's bytes."""
    layers = [
        layer_of(ResidualLayer(0.3, (0.1, 0.2)), half_life_s=40.0),
        layer_of(PriorLayer((1.0, 0.1), (0.0, 0.0)), expires_ns=MADE_NS + 100 * SECOND_NS),
        layer_of(CalibrationLayer(1.1, 0.1), made_ns=MADE_NS + 20 * SECOND_NS),
    ]
    random = np.random.default_rng(len(ages_s))
    score = random.uniform(0, 1, (len(ages_s), 2))
    features = random.normal(size=(len(ages_s), 2))

    together = refine(*layers, score=score, features=features, age_s=ages_s, link="log_odds")

    alone = [
        refine(
            *layers,
            score=score[i : i + 1],
            features=features[i : i + 1],
            age_s=ages_s[i : i + 1],
            link="log_odds",
        )
        for i in range(len(ages_s))
    ]
    assert together.tobytes() == b"".join(value.tobytes() for value in alone)


@given(st.integers(1, 64), st.integers(1, 700), st.integers(0, 2**32 - 1))
def test_a_residual_adds_up_alike_alone_and_together(
    spec_of: Callable[..., ModelSpec], count: int, size: int, seed: int
) -> None:
    """The sum over the features does not depend on the number of windows."""
    random = np.random.default_rng(seed)
    weights = tuple(random.normal(size=size).tolist())
    spec = spec_of(clamps=Clamps(residual=1e9))
    layers = LayerSet(spec, [layer_of(ResidualLayer(0.5, weights))], base=BASE, shape=(size,))
    features = random.normal(size=(count, size)).astype(np.float32)
    score, end_ns = np.zeros((count, 1)), np.full(count, MADE_NS)
    active = layers.at(MADE_NS)

    together = layers.refine(score, active, features, end_ns)

    alone = [
        layers.refine(score[i : i + 1], active, features[i : i + 1], end_ns[i : i + 1])
        for i in range(count)
    ]
    assert together.tobytes() == b"".join(value.tobytes() for value in alone)


def test_thresholds_replace_limits_by_label(spec_of: Callable[..., ModelSpec]) -> None:
    """Labels that the layer leaves out keep the base's limit; after its time all do."""
    spec = spec_of(labels=("a", "b"), limits=(Limit("a", 0.9, 0.5), Limit("b", 0.8, 0.4)))
    body = ThresholdsLayer((Limit("b", 0.6, 0.3),))
    layers = LayerSet(spec, [layer_of(body)], base=BASE, shape=(2,))

    assert layers.at(MADE_NS).limits == (Limit("a", 0.9, 0.5), Limit("b", 0.6, 0.3))
    assert layers.at(MADE_NS - 1).limits == spec.limits


def test_thresholds_move_and_the_rest_of_a_limit_stays(spec_of: Callable[..., ModelSpec]) -> None:
    """A layer without the newer keys keeps the base's; with them it changes thresholds alone."""
    limits = (
        Limit("a", 0.9, 0.5, k_of_n=(2, 3), refractory_s=4.0, reject=Reject(0.3, 0.7)),
        Limit("b", 0.9, 0.5),
    )
    body = ThresholdsLayer(
        (Limit("a", 0.8, 0.4), Limit("b", 0.8, 0.4, k_of_n=(9, 9), reject=Reject(0.0, 1.0)))
    )
    spec = spec_of(labels=("a", "b"), limits=limits)

    found = LayerSet(spec, [layer_of(body)], base=BASE, shape=(2,)).at(MADE_NS).limits

    assert found == (
        Limit("a", 0.8, 0.4, k_of_n=(2, 3), refractory_s=4.0, reject=Reject(0.3, 0.7)),
        Limit("b", 0.8, 0.4),
    )


def test_normalising_takes_one_number_per_element_or_per_last_axis() -> None:
    """Both ways of writing the same numbers give the same bytes."""
    features = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    short = Normalise((1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 1.0, 2.0))
    long = Normalise(short.mean * 3, short.std * 3)

    found = normalise(features, scales_of(short, (3, 4), "test"))

    assert found.dtype == np.float32
    assert found[0, 1].tolist() == [3.0, 1.5, 3.0, 1.5]
    assert found.tobytes() == normalise(features, scales_of(long, (3, 4), "test")).tobytes()


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (NormaliserLayer((1.0,), (1.0,)), ShapeError, "mean has 1 and std 1 numbers"),
        (NormaliserLayer((1.0, 2.0), (1.0,)), ShapeError, "mean has 2 and std 1 numbers"),
        (ResidualLayer(0.0, (1.0,)), ShapeError, "residual weights has 1 numbers; expected 2"),
        (PriorLayer((1.0,), (1.0, 2.0)), ShapeError, "prior value has 1 numbers; expected 2"),
        (PriorLayer((1.0, 2.0), ()), ShapeError, "prior base has 0 numbers; expected 2"),
        (ThresholdsLayer((Limit("c", 1.0, 0.0),)), BundleError, r"labels \['c'\]"),
    ],
    ids=str,
)
def test_a_layer_that_does_not_fit_is_refused(
    refine: Callable[..., np.ndarray], body: LayerBody, error: type[Exception], message: str
) -> None:
    """Lengths and labels are checked before the layer is used at all."""
    with pytest.raises(error, match=message):
        refine(layer_of(body))


def test_two_layers_of_one_kind_are_refused(refine: Callable[..., np.ndarray]) -> None:
    """Which of them should count would be a guess."""
    with pytest.raises(BundleError, match="at most one of each kind"):
        refine(layer_of(CalibrationLayer(1.0, 0.0)), layer_of(CalibrationLayer(1.0, 0.1), seq=2))


def test_a_layer_for_another_base_is_refused(refine: Callable[..., np.ndarray]) -> None:
    """Its numbers mean nothing here."""
    with pytest.raises(BundleError, match="requires base cdcd"):
        refine(layer_of(CalibrationLayer(1.0, 0.0), requires="cd" * 32))


def test_a_clamp_that_allows_any_age_is_no_trouble(spec_of: Callable[..., ModelSpec]) -> None:
    """An age beyond what nanoseconds can count means for ever."""
    spec = spec_of(clamps=Clamps(age_s=math.inf))
    layers = LayerSet(spec, [layer_of(CalibrationLayer(2.0, 0.0))], base=BASE, shape=(1,))

    assert layers.at(2**61).steps
    assert len(layers.runs(np.array([0, 2**61]))) == 2
