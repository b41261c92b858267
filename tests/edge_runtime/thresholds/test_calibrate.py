"""The reject band and the temperature keep what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.pipeline.fuse import activate
from edge_runtime.spec import OutputSpec, Reject
from edge_runtime.thresholds.calibrate import fitted_temperature, reject_band


@pytest.mark.parametrize("error_rate", [0.02, 0.1, 0.25])
def test_answers_outside_the_band_are_wrong_seldom_enough(error_rate: float) -> None:
    """Over many draws, another event lies below, and another stretch above, as often as allowed."""
    random = np.random.default_rng(3)
    missed, alarmed = [], []

    for _ in range(400):
        band = reject_band(random.normal(0.2, 1, 60), random.normal(-0.2, 1, 80), error_rate)
        if band is not None:
            missed.append((random.normal(0.2, 1, 200) < band.low).mean())
            alarmed.append((random.normal(-0.2, 1, 200) >= band.high).mean())

    assert len(missed) > 100
    assert np.mean(missed) <= error_rate * 1.1
    assert np.mean(alarmed) <= error_rate * 1.1


@given(
    present=st.lists(st.floats(-1, 1), min_size=9, max_size=40),
    absent=st.lists(st.floats(-1, 1), min_size=9, max_size=40),
)
def test_the_band_leaves_no_more_than_allowed_outside(
    present: list[float], absent: list[float]
) -> None:
    """Of the values themselves too."""
    band = reject_band(np.array(present), np.array(absent), 0.1)

    if band is not None:
        assert np.mean(np.array(present) < band.low) <= 0.1
        assert np.mean(np.array(absent) >= band.high) <= 0.1


def test_classes_that_lie_apart_need_no_band() -> None:
    """Nothing is uncertain between them."""
    assert reject_band(np.linspace(0.8, 1, 20), np.linspace(0, 0.2, 20), 0.1) is None
    assert reject_band(np.linspace(0.2, 1, 9), np.linspace(0, 0.8, 9), 0.1) == Reject(
        0.2, float(np.nextafter(0.8, 1))
    )


@pytest.mark.parametrize(("present", "absent"), [(8, 100), (100, 8)])
def test_too_few_values_are_refused(present: int, absent: int) -> None:
    """Nine are the least that can speak about one in ten."""
    with pytest.raises(ConfigError, match=r"there are 8 .* expected at least 9"):
        reject_band(np.arange(present) / 100, np.arange(absent) / 100, 0.1)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_of_the_data_is_found(activation: str, true: float) -> None:
    """Labels drawn at one temperature give that temperature back, whatever it was before."""
    random = np.random.default_rng(5)
    logits = random.normal(0, 2, (20_000, 3))
    chances = activate(logits, OutputSpec(activation, temperature=true))  # type: ignore[arg-type]
    drawn = random.uniform(size=chances.shape)
    if activation == "softmax":
        is_true = np.eye(3, dtype=bool)[(chances.cumsum(axis=1) < drawn[:, :1]).sum(axis=1)]
    else:
        is_true = drawn < chances
    output = OutputSpec(activation, temperature=1.5)  # type: ignore[arg-type]

    found = fitted_temperature(activate(logits, output), is_true, output)

    assert found == pytest.approx(true, rel=0.08)


@pytest.mark.parametrize(
    "output", [OutputSpec(), OutputSpec("softmax", scale=2.0), OutputSpec("sigmoid", offset=1.0)]
)
def test_other_answers_have_no_temperature(output: OutputSpec) -> None:
    """A second calibration in the link would be fitted in its stead."""
    with pytest.raises(ConfigError, match="without another calibration"):
        fitted_temperature(np.full((2, 1), 0.5), np.ones((2, 1), bool), output)
