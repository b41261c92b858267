"""Golden replay of layers, and the promise behind the clamps."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_runtime.backends import load_session
from edge_runtime.bundle import Bundle, Golden, write_arrays
from edge_runtime.errors import BundleError, ModelError, TrustError
from edge_runtime.pipeline import Pipeline
from edge_runtime.pipeline.fuse import to_link
from edge_runtime.spec import (
    CalibrationLayer,
    Clamps,
    FusionLayer,
    Layer,
    LayerBody,
    Limit,
    ModelSpec,
    NormaliserLayer,
    OutputSpec,
    PriorLayer,
    ResidualLayer,
    ThresholdsLayer,
)
from edge_runtime.types import Windows
from edge_runtime.update.proof import LayerProver, allowed_move, prove_layers
from edge_runtime.update.trust import check_layer

BASE = "b" * 64
MADE_NS = 1_700_000_000_000_000_000

numbers = st.floats(-100, 100) | st.floats()
pairs = st.tuples(numbers, numbers)
BODIES = {
    "normaliser": st.builds(NormaliserLayer, mean=pairs, std=pairs),
    "calibration": st.builds(CalibrationLayer, scale=numbers, offset=numbers),
    "residual": st.builds(ResidualLayer, intercept=numbers, weights=pairs),
    "fusion": st.builds(FusionLayer, w0=numbers, w1=numbers, w2=numbers),
    "prior": st.builds(PriorLayer, value=st.tuples(numbers), base=st.tuples(numbers)),
}
KINDS = (*BODIES, "thresholds")
clamps = st.builds(
    Clamps,
    kinds=st.just(KINDS),
    normaliser_shift=st.sampled_from([0.0, 0.5, 60.0]),
    normaliser_ratio=st.sampled_from([1.0, 3.0, 60.0]),
    calibration_scale=st.sampled_from([1.0, 2.0, 60.0]),
    calibration_offset=st.sampled_from([0.0, 1.0, 60.0]),
    residual_weight=st.sampled_from([0.0, 1.0, 60.0]),
    residual=st.sampled_from([0.0, 0.5, 8.0]),
    fusion_weight=st.sampled_from([1.0, 60.0]),
    prior=st.sampled_from([0.0, 0.5, 8.0]),
)


def passing(body: LayerBody, spec: ModelSpec, half_life_s: float | None) -> Layer | None:
    layer = Layer(body, requires=BASE, seq=1, made_ns=MADE_NS, half_life_s=half_life_s)
    try:
        check_layer(layer, spec, BASE, MADE_NS)
    except TrustError:
        return None
    return layer


def pipeline_of(spec: ModelSpec, layers: tuple[Layer, ...] = ()) -> Pipeline:
    dense = {"w0": np.ones((2, 1), np.float32), "b0": np.zeros(1, np.float32)}
    session = load_session("reference", "reference", write_arrays(dense))
    return Pipeline(spec, session, base=BASE, layers=layers)


def windows_of(samples: np.ndarray, age_s: float) -> Windows:
    ends = np.full(len(samples), MADE_NS + round(age_s * 1e9), np.int64)
    return Windows(np.arange(len(samples)), ends, ends, samples)


@settings(max_examples=150)
@given(
    clamps=clamps,
    bodies=st.fixed_dictionaries({}, optional=BODIES),
    is_log_odds=st.booleans(),
    half_life_s=st.none() | st.floats(1, 1e6),
    age_s=st.floats(0, 1e6),
    samples=arrays(np.float64, (4, 1, 2), elements=st.floats(-1e3, 1e3)),
)
def test_a_layer_that_passes_moves_an_answer_no_further_than_the_clamps_allow(
    make_spec, clamps, bodies, is_log_odds, half_life_s, age_s, samples
) -> None:
    """Whoever holds the layer key: answers stay finite and within what the base allows."""
    spec = make_spec(
        clamps=clamps,
        link="log_odds" if is_log_odds else "identity",
        output=OutputSpec(activation="sigmoid" if is_log_odds else "none"),
        kind="scorer" if is_log_odds else "regressor",
    )
    candidates = [passing(body, spec, half_life_s) for body in bodies.values()]
    layers = tuple(layer for layer in candidates if layer is not None)
    assume(layers or not bodies)

    answers = pipeline_of(spec, layers).score_windows(windows_of(samples, age_s))

    assert np.isfinite(answers.value).all()
    before, after = to_link(answers.score, spec.link), to_link(answers.value, spec.link)
    assert (np.abs(after - before) <= allowed_move(before, spec, layers)).all()


@given(limit=st.floats(-100, 200), half=st.floats(0, 20))
def test_thresholds_that_pass_move_no_further_than_their_clamp(make_spec, limit, half) -> None:
    """A limit moves by at most the clamp, on both edges."""
    spec = make_spec()
    body = ThresholdsLayer((Limit("nox", on=limit + half, off=limit),))

    layer = passing(body, spec, None)

    base = spec.limits[0]
    is_within = max(abs(limit + half - base.on), abs(limit - base.off)) <= spec.clamps.threshold
    assert (layer is not None) == is_within


def layer_of(body: LayerBody, bundle: Bundle) -> Layer:
    return Layer(body, requires=bundle.digest, seq=1, made_ns=MADE_NS)


@pytest.fixture(scope="module")
def bundle(make_bundle, tmp_path_factory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("proof") / "bundle")


def test_a_prover_replays_sets_on_its_own_session(bundle, make_bundle, tmp_path) -> None:
    """Sets of one base share a session; another base gets its own."""
    prover = LayerProver()
    other = make_bundle(tmp_path / "other", bias=7.0)
    body = CalibrationLayer(scale=1.0, offset=2.0)

    measured = [prover(one, (layer_of(body, one),)) for one in (bundle, bundle, other)]

    assert [one["largest_move"] for one in measured] == pytest.approx([2.0, 2.0, 2.0])
    assert all(one["replay_ms"] > 0 for one in measured)


def test_an_empty_set_moves_nothing(bundle) -> None:
    """Edge-only is the base's own answer."""
    assert LayerProver()(bundle, ())["largest_move"] == 0.0


def test_layers_of_another_base_fail_the_replay(bundle) -> None:
    """The pipeline refuses what does not belong to its base."""
    layer = Layer(CalibrationLayer(1.0, 0.0), requires=BASE, seq=1, made_ns=MADE_NS)

    with pytest.raises(BundleError, match="requires base"):
        LayerProver()(bundle, (layer,))


def test_answers_that_are_not_finite_fail_the_replay(make_spec, golden: Golden) -> None:
    """Numbers that overflow on golden windows never go live."""
    pipeline = pipeline_of(make_spec())
    layer = Layer(CalibrationLayer(1e308, 1e308), requires=BASE, seq=1, made_ns=MADE_NS)

    with pytest.raises(ModelError, match="golden: an answer is not finite"):
        prove_layers(pipeline, golden, [layer])


def test_sets_beyond_the_clamps_fail_the_replay(make_spec, golden: Golden) -> None:
    """Even unchecked numbers are caught when they move an answer too far."""
    pipeline = pipeline_of(make_spec())
    layer = Layer(FusionLayer(500.0, 1.0, 1.0), requires=BASE, seq=1, made_ns=MADE_NS)

    with pytest.raises(TrustError, match="clamp: together the layers move"):
        prove_layers(pipeline, golden, [layer])


def test_the_allowance_follows_the_kinds_that_count(make_spec) -> None:
    """Kinds that are absent allow nothing."""
    spec = make_spec()
    residual = Layer(ResidualLayer(0.0, (0.0, 0.0)), requires=BASE, seq=1, made_ns=0)

    alone = allowed_move(np.zeros(1), spec, [residual])
    none = allowed_move(np.zeros(1), spec, [])

    assert alone == pytest.approx(spec.clamps.residual, abs=1e-5)
    assert none == pytest.approx(0.0, abs=1e-5)
    assert msgspec.to_builtins(spec.clamps)["residual"] == 10.0
