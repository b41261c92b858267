"""Tests of channels made alike."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_converters.metrics import value_of
from edge_converters.quantise.contracts import Budget, Recipe, Samples
from edge_converters.quantise.equalise import Pair, equalised, find_factors
from edge_converters.quantise.search import search

_PAIR = Pair("first", 1, "bias", "second", 0)


def _constants(seed: int, largest: float) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    factor = np.geomspace(1, largest, 8).astype(np.float32)
    return {
        "first": draw.normal(size=(5, 8)).astype(np.float32) * factor,
        "bias": draw.normal(size=8).astype(np.float32) * factor,
        "second": draw.normal(size=(8, 3)).astype(np.float32) / factor[:, np.newaxis],
    }


def _answers(constants: dict[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    hidden = np.maximum(inputs @ constants["first"] + constants["bias"], 0)
    result: np.ndarray = (hidden[:, :, np.newaxis] * constants["second"]).sum(1)
    return result


@given(st.integers(0, 500), st.floats(300, 1e5))
def test_what_is_computed_stays_the_same(seed: int, largest: float) -> None:
    """Powers of two round nothing: two layers answer to the byte as before."""
    constants = _constants(seed, largest)
    inputs = np.random.default_rng(seed).normal(size=(6, 5)).astype(np.float32)

    factors = find_factors(constants, [_PAIR])
    changed = constants | equalised(constants, [_PAIR], factors)

    assert factors
    np.testing.assert_array_equal(_answers(changed, inputs), _answers(constants, inputs))


@given(st.integers(0, 500))
def test_channels_become_alike(seed: int) -> None:
    """Weights before and behind differ less from channel to channel than a thousandfold did."""
    constants = _constants(seed, 1000.0)

    changed = equalised(constants, [_PAIR], find_factors(constants, [_PAIR]))

    sizes = np.abs(changed["first"]).max(0)
    assert sizes.max() / sizes.min() < 20


def test_a_dead_channel_is_left_alone() -> None:
    """A channel without weights has no size, and gets no factor."""
    constants = _constants(0, 1000.0)
    constants["first"][:, 3] = 0
    constants["second"][5] = 0

    factors = find_factors(constants, [_PAIR])["first"]

    assert factors[3] == factors[5] == 1.0
    assert np.isfinite(factors).all()


def test_healthy_networks_are_not_touched(fan: Any, quantiser_of: Any) -> None:
    """Where channels are of a size, nothing is equalised, and nothing is calibrated twice."""
    quantiser = quantiser_of(fan)

    found = quantiser.calibrate(fan.calibration)

    assert found.factors == {}
    assert found.equalised == {}


def test_outliers_cost_nothing_when_they_are_equalised(outliers: Any, quantiser_of: Any) -> None:
    """Case B stays int8 altogether: equalised, it keeps half a point without any float operator."""
    quantiser, budget = quantiser_of(outliers), Budget("accuracy", 0.005)
    calibration = quantiser.calibrate(outliers.calibration)
    untouched = Samples(*outliers.confirm)

    found = search(quantiser, calibration, Samples(*outliers.search), budget)

    reference = quantiser.run(quantiser.model, untouched.windows)
    outputs = quantiser.run(found.chosen.model, untouched.windows)
    wanted = value_of(budget, untouched, reference, reference)
    assert found.chosen.recipe.cures == {}
    assert found.chosen.recipe.factors
    assert wanted - value_of(budget, untouched, reference, outputs) <= 0.005


def test_an_equalised_recipe_replays(outliers: Any, quantiser_of: Any) -> None:
    """The factors stand in the recipe, so that another run makes the same bytes."""
    first, second = quantiser_of(outliers), quantiser_of(outliers)
    recipe = first.recipe("int8", first.calibrate(outliers.calibration), {})

    again = msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe)

    assert again.factors
    assert second.quantise(again) == first.quantise(recipe)
    calibration = second.calibrate(outliers.calibration)
    plain = second.recipe("int8", calibration, {}, is_equalised=False)
    assert second.quantise(plain) != first.quantise(recipe)


def test_channels_stay_where_equalising_does_harm(outliers: Any, quantiser_of: Any) -> None:
    """Factors that make things worse are not taken, even where all in int8 loses too much."""
    quantiser = quantiser_of(outliers)
    calibration = quantiser.calibrate(outliers.calibration)
    name, factor = next(iter(calibration.factors.items()))
    harmful = msgspec.structs.replace(
        calibration,
        factors={name: tuple(1 / one for one in factor)},
        equalised=calibration.tensors,
    )

    found = search(quantiser, harmful, Samples(*outliers.search), Budget("snr", 25.0))

    assert found.is_within_budget
    assert found.chosen.recipe.factors == {}
    assert found.chosen.recipe.cures
