"""Layers from rows and labels: nothing looks ahead, nothing leaves the clamps."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cloud.refresh import (
    Memory,
    Outcome,
    RefreshConfig,
    Trail,
    Versions,
    choose,
    rungs_of,
    seen_by_base,
)
from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import Bundle
from edge_runtime.spec import Clamps, FusionLayer, Layer, NormaliserLayer, PriorLayer
from edge_runtime.update.trust import check_layer

from .conftest import DAY_NS, HOUR_NS, T0_NS, windows_of

CONFIG = RefreshConfig("turbine", trailing_rows=96, judged_periods=3)


def score(features: np.ndarray, normaliser: NormaliserLayer) -> np.ndarray:
    """Answer as the test bundle's model does."""
    z = (features.reshape(-1, 2) - np.array(normaliser.mean)) / np.array(normaliser.std)
    answer: np.ndarray = z @ np.array([2.0, 1.0]) + 10.0
    return answer


def world(
    bundle: Bundle, n: int = 240, *, seed: int = 1, delay: int = 24, slope: float = 3.0
) -> tuple[Trail, Versions]:
    """Rows whose label is the model's answer plus something linear plus noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 1, 2)).astype(np.float32)
    spec = bundle.spec
    assert spec.normalise is not None
    base = score(features, NormaliserLayer(spec.normalise.mean, spec.normalise.std))
    seen = seen_by_base(features, spec)
    times = T0_NS + np.arange(n) * HOUR_NS
    values = base + slope * seen[:, 0] + 5.0 + rng.normal(scale=0.1, size=n)
    return Trail(times, features, seen, base), Versions(times, times + delay * HOUR_NS, values)


def decide(
    bundle: Bundle, trail: Trail, labels: Versions, day: int, config: RefreshConfig = CONFIG
) -> Outcome:
    return choose(trail, labels, T0_NS + day * DAY_NS, spec=bundle.spec, config=config, score=score)


def test_a_linear_error_is_found_and_shipped(bundle: Bundle) -> None:
    """The residual layer takes away what is linear in the features, and says by how much."""
    outcome = decide(bundle, *world(bundle), day=9)

    maes = {rung.name: rung.mae for rung in outcome.rungs}
    assert outcome.chosen != "none"
    assert outcome.judged_periods == 3
    assert maes["residual"] is not None and maes["none"] is not None
    assert maes["residual"] < maes["none"] / 5


def test_without_an_error_to_find_the_cheapest_set_stays(bundle: Bundle) -> None:
    """Where the base is right already, noise alone does not ship a layer."""
    trail, labels = world(bundle, slope=0.0)
    exact = msgspec.structs.replace(labels, value=trail.score.copy())

    assert decide(bundle, trail, exact, day=9).chosen == "none"


def test_too_few_labels_give_no_fit(bundle: Bundle) -> None:
    """On the first days there is nothing to go by, and that is what is reported."""
    outcome = decide(bundle, *world(bundle), day=2)

    assert (outcome.chosen, outcome.rows, outcome.bodies) == ("none", 0, ())


@settings(max_examples=15)
@given(day=st.integers(3, 9), noise=st.floats(-1e3, 1e3), delay=st.sampled_from([0, 24, 48]))
def test_nothing_looks_ahead(
    tmp_path_factory: pytest.TempPathFactory, day: int, noise: float, delay: int
) -> None:
    """Changing rows after a boundary, or labels known after it, changes no bit of the outcome."""
    from .conftest import make_bundle

    bundle = make_bundle(tmp_path_factory.mktemp("b") / "turbine")
    trail, labels = world(bundle, delay=delay)
    boundary_ns = T0_NS + day * DAY_NS
    later = trail.time_ns >= boundary_ns
    unknown = labels.known_at_ns > boundary_ns
    changed_trail = msgspec.structs.replace(
        trail,
        features=np.where(later[:, None, None], np.float32(noise), trail.features),
        seen=np.where(later[:, None], noise, trail.seen),
        score=np.where(later, noise, trail.score),
    )
    changed_labels = msgspec.structs.replace(labels, value=np.where(unknown, noise, labels.value))

    assert decide(bundle, trail, labels, day) == decide(bundle, changed_trail, changed_labels, day)


def test_a_label_one_row_earlier_changes_the_outcome(bundle: Bundle) -> None:
    """The boundary is sharp: a label known exactly then is used, one nanosecond later is not."""
    trail, labels = world(bundle)
    late = msgspec.structs.replace(labels, known_at_ns=labels.known_at_ns + 1)

    exact, later = (decide(bundle, trail, each, day=9) for each in (labels, late))

    assert exact.known_ns == T0_NS + 8 * DAY_NS
    assert later.known_ns == T0_NS + 8 * DAY_NS - HOUR_NS


@settings(max_examples=20)
@given(scale=st.floats(0.1, 1e6), seed=st.integers(0, 99))
def test_every_layer_passes_the_devices_clamps(
    tmp_path_factory: pytest.TempPathFactory, scale: float, seed: int
) -> None:
    """However wild rows and labels are, what ships is within the base's clamps."""
    from .conftest import make_bundle

    bundle = make_bundle(tmp_path_factory.mktemp("b") / "turbine")
    trail, labels = world(bundle, seed=seed)
    wild = msgspec.structs.replace(labels, value=labels.value * scale)
    shifted = msgspec.structs.replace(
        trail, features=trail.features * np.float32(scale), seen=trail.seen * scale
    )

    outcome = decide(bundle, shifted, wild, day=9)

    for body in outcome.bodies:
        layer = Layer(body, bundle.digest, seq=1, made_ns=outcome.boundary_ns)
        check_layer(layer, bundle.spec, bundle.digest, outcome.boundary_ns)


def test_the_replay_is_what_the_device_would_have_answered(bundle: Bundle) -> None:
    """The error of the chosen set on its last judged day is the pipeline's, to rounding."""
    trail, labels = world(bundle)
    outcome = decide(bundle, trail, labels, 9, msgspec.structs.replace(CONFIG, judged_periods=1))
    earlier = decide(bundle, trail, labels, 7)
    names = [rung.name for rung in outcome.rungs]
    chosen = next(rung for rung in outcome.rungs if rung.name == earlier.chosen)
    layers = [
        Layer(
            body,
            bundle.digest,
            seq=1,
            made_ns=earlier.known_ns or 0,
            half_life_s=CONFIG.prior_half_life_s if isinstance(body, PriorLayer) else None,
        )
        for body in earlier.bodies
    ]
    pipeline = open_pipeline(bundle)
    pipeline.activate(layers)

    day = slice(7 * 24, 8 * 24)
    answered = pipeline.score_windows(windows_of(trail.features[day], 7 * 24)).value[:, 0]

    assert names == ["none", "residual", "prior", "normaliser"]
    expected = np.abs(answered - labels.value[day]).mean()
    assert chosen.mae == pytest.approx(expected, abs=1e-5)


def test_a_memory_changes_no_outcome(bundle: Bundle) -> None:
    """Working boundaries out once gives what working them out each time gives."""
    trail, labels = world(bundle)
    memory = Memory()

    for day in range(3, 10):
        remembered = choose(
            trail,
            labels,
            T0_NS + day * DAY_NS,
            spec=bundle.spec,
            config=CONFIG,
            score=score,
            memory=memory,
        )
        assert remembered == decide(bundle, trail, labels, day)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"kinds": ()}, ("none",)),
        ({"kinds": ("residual",)}, ("none", "residual")),
        ({"kinds": ("residual", "prior")}, ("none", "residual", "prior")),
    ],
)
def test_a_base_gets_only_the_kinds_it_allows(
    bundle: Bundle, changes: dict[str, tuple[str, ...]], names: tuple[str, ...]
) -> None:
    """What the clamps do not name is never computed."""
    spec = msgspec.structs.replace(bundle.spec, clamps=Clamps(**changes))  # type: ignore[arg-type]

    assert rungs_of(spec, CONFIG) == names


def test_another_prior_weight_travels_as_a_fusion_layer(bundle: Bundle) -> None:
    """The weight is a layer of its own, and only where the base allows one."""
    config = msgspec.structs.replace(CONFIG, prior_weight=0.5)
    clamps = msgspec.structs.replace(
        bundle.spec.clamps, kinds=("residual", "prior", "fusion"), fusion_weight=1.0
    )
    spec = msgspec.structs.replace(bundle.spec, clamps=clamps)
    trail, labels = world(bundle)
    drifting = msgspec.structs.replace(
        labels, value=labels.value + np.linspace(0, 40, len(labels.value))
    )

    outcome = choose(trail, drifting, T0_NS + 9 * DAY_NS, spec=spec, config=config, score=score)

    assert rungs_of(bundle.spec, config) == ("none", "residual")
    assert outcome.chosen == "prior"
    assert [body for body in outcome.bodies if isinstance(body, FusionLayer)] == [
        FusionLayer(0.0, 1.0, 0.5)
    ]
