"""Tests of the search for mixed precision."""

from __future__ import annotations

import time
from typing import Any

import pytest

from edge_converters.metrics import snr_db, value_of
from edge_converters.quantise.contracts import Budget, Samples, SearchResult
from edge_converters.quantise.search import rank, search

_HALF_A_POINT = Budget("accuracy", 0.005)


def _searched(quantiser: Any, task: Any, budget: Budget = _HALF_A_POINT) -> SearchResult:
    calibration = quantiser.calibrate(task.calibration)
    return search(quantiser, calibration, Samples(*task.search), budget)


def _accuracy(quantiser: Any, model: bytes, part: Any) -> float:
    samples = Samples(*part)
    reference = quantiser.run(quantiser.model, samples.windows)
    outputs = quantiser.run(model, samples.windows)
    return value_of(_HALF_A_POINT, samples, reference, outputs)


def _int8(quantiser: Any, task: Any) -> bytes:
    calibration = quantiser.calibrate(task.calibration)
    recipe = quantiser.recipe("int8", calibration, {}, is_equalised=False)
    return bytes(quantiser.quantise(recipe))


@pytest.mark.parametrize("case", ["mixed_units", "outliers"])
def test_it_recovers_what_int8_loses(
    case: str, quantiser_of: Any, request: pytest.FixtureRequest
) -> None:
    """Mixed units and outlying channels keep their accuracy on windows nobody has seen."""
    task = request.getfixturevalue(case)
    quantiser = quantiser_of(task)
    calibration = quantiser.calibrate(task.calibration)
    start = time.process_time()

    found = search(quantiser, calibration, Samples(*task.search), _HALF_A_POINT)

    seconds = time.process_time() - start
    wanted = _accuracy(quantiser, quantiser.model, task.confirm)
    assert found.is_within_budget
    assert wanted - _accuracy(quantiser, found.chosen.model, task.confirm) <= 0.005
    assert seconds <= 2.0
    assert len(found.chosen.model) < len(quantiser.model)


def test_outlying_channels_cost_plain_int8_its_accuracy(outliers: Any, quantiser_of: Any) -> None:
    """Without the search the network with large channels is off by more than five points."""
    quantiser = quantiser_of(outliers)

    int8 = _accuracy(quantiser, _int8(quantiser, outliers), outliers.confirm)

    assert _accuracy(quantiser, quantiser.model, outliers.confirm) - int8 > 0.05


def test_it_finds_the_operators_that_take_mixed_units(
    mixed_units: Any, tflite_quantiser: Any
) -> None:
    """The input and the scaling behind it are what int8 destroys, and nothing else stays float."""
    quantiser = tflite_quantiser(mixed_units)

    found = _searched(quantiser, mixed_units)

    assert {"INPUT", "SUB"} <= found.chosen.recipe.cures.keys() <= {"INPUT", "SUB", "MUL"}
    lost = _accuracy(quantiser, quantiser.model, mixed_units.confirm) - _accuracy(
        quantiser, _int8(quantiser, mixed_units), mixed_units.confirm
    )
    assert lost > 0.1


def test_a_healthy_network_is_all_int8(fan: Any, quantiser_of: Any) -> None:
    """Where int8 keeps the budget, no operator is left float, and nothing is tried in vain."""
    quantiser = quantiser_of(fan)

    found = _searched(quantiser, fan)

    assert found.chosen.recipe.precision == "int8"
    assert found.chosen.recipe.cures == {}
    assert found.evaluations <= 2 * len(quantiser.operators)


def test_float_is_kept_where_no_int8_keeps_the_budget(fan: Any, quantiser_of: Any) -> None:
    """A budget that no integer can keep ends in the float file itself, and says so."""
    quantiser = quantiser_of(fan)

    found = _searched(quantiser, fan, Budget("snr", 200.0))

    assert not found.is_within_budget
    assert found.chosen.model == quantiser.model
    assert found.chosen.recipe.precision == "float32"


def test_the_ranking_is_what_each_operator_does_alone(fan: Any, quantiser_of: Any) -> None:
    """The ranking names every operator once, with the SNR of a file in which it alone is int8."""
    quantiser = quantiser_of(fan)
    calibration = quantiser.calibrate(fan.calibration)
    windows = fan.search[0][:50]

    ranking = rank(quantiser, calibration, windows)

    worst = ranking[0]
    others = {one.name: "float" for one in quantiser.operators if one.name != worst.operator}
    model = quantiser.quantise(quantiser.recipe("mixed", calibration, others))
    wanted = snr_db(quantiser.run(quantiser.model, windows), quantiser.run(model, windows))
    assert worst.snr_db == pytest.approx(wanted)
    assert {one.operator for one in ranking} == {one.name for one in quantiser.operators}
    assert list(ranking) == sorted(ranking, key=lambda one: one.snr_db)


def test_a_tighter_budget_keeps_more_float(outliers: Any, quantiser_of: Any) -> None:
    """The more precise the output must be, the fewer operators are int8."""
    quantiser = quantiser_of(outliers)

    found = [_searched(quantiser, outliers, Budget("snr", limit)) for limit in (10.0, 40.0)]

    kept = [len(one.chosen.recipe.cures) for one in found]
    assert kept[0] < kept[1]
    assert all(one.chosen.snr_db >= limit for one, limit in zip(found, (10, 40), strict=True))


def test_an_island_that_costs_time_is_left_float(outliers: Any, quantiser_of: Any) -> None:
    """An int8 operator between float ones goes float where that makes the call quicker."""
    quantiser = quantiser_of(outliers)
    calibration = quantiser.calibrate(outliers.calibration)
    samples = Samples(*outliers.search)

    def slow_as_int8(model: bytes) -> float:
        return 1.0 / len(model)

    before = search(quantiser, calibration, samples, Budget("snr", 36.0))
    after = search(quantiser, calibration, samples, Budget("snr", 36.0), measure=slow_as_int8)

    cures = before.chosen.recipe.cures
    names = [one.name for one in quantiser.operators]
    islands = [
        one
        for left, one, right in zip(names, names[1:], names[2:], strict=False)
        if one not in cures and {left, right} <= cures.keys()
    ]
    assert after.chosen.recipe.cures.keys() >= cures.keys() | set(islands[:1])


def test_progress_is_told(fan: Any, quantiser_of: Any) -> None:
    """Whoever waits hears of each stage, with a share that stays between 0 and 1."""
    quantiser = quantiser_of(fan)
    heard: list[tuple[str, float]] = []

    search(
        quantiser,
        quantiser.calibrate(fan.calibration),
        Samples(*fan.search),
        _HALF_A_POINT,
        progress=lambda stage, share: heard.append((stage, share)),
    )

    assert list(dict.fromkeys(stage for stage, _ in heard)) == ["rank", "bisect", "relax"]
    assert all(0 <= share <= 1 for _, share in heard)
