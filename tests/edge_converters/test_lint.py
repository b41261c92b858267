"""Tests of what is said about the data of a conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_converters.lint import Finding, check_data, refuse
from edge_converters.quantise.contracts import Samples
from edge_runtime.errors import ConfigError

TESTS = Path(__file__).parents[1]


def _codes(findings: tuple[Finding, ...]) -> set[str]:
    return {one.code for one in findings}


def _of(findings: tuple[Finding, ...], code: str) -> Finding:
    return next(one for one in findings if one.code == code)


def _waves(count: int, seed: int = 0, size: float = 1.0) -> np.ndarray:
    """Return windows of three slow channels, as a sensor gives them."""
    draw = np.random.default_rng(seed)
    time = np.arange(64)[:, np.newaxis]
    phases = draw.uniform(0, 6, (count, 1, 3))
    waves = np.sin(0.2 * time + phases) + draw.normal(0, 0.05, (count, 64, 3))
    return (size * waves).astype(np.float32)


def test_recordings_of_a_sensor_pass() -> None:
    """Windows of the same conditions in calibration and evaluation have nothing wrong."""
    evaluation = Samples(np.clip(_waves(100, 1), -1, 1), np.zeros(100, int))

    assert check_data(_waves(300), evaluation) == ()


@pytest.mark.parametrize("case", ["fan", "mixed_units"])
def test_real_recordings_are_not_random(case: str, request: pytest.FixtureRequest) -> None:
    """Vibration and turbine data are never taken for a random generator's."""
    task: Any = request.getfixturevalue(case)

    assert "random-data" not in _codes(check_data(task.calibration, Samples(*task.search)))


def test_real_speech_is_not_random() -> None:
    """Features of the spoken words are not taken for a random generator's."""
    with np.load(TESTS / "data" / "keywords" / "mfcc_int8_49x10.npz") as file:
        features = file["features"][:200, ..., 0].astype(np.float32)

    scaled = (features - features.mean(0)) / (features.std(0) + 1)

    assert "random-data" not in _codes(check_data(features)) | _codes(check_data(scaled))


@given(st.integers(0, 300), st.sampled_from(["normal", "uniform", "signed"]))
def test_a_random_generator_is_found_out(seed: int, kind: str) -> None:
    """Data from N(0, 1), U[0, 1) or U[-1, 1) are an error, in whatever shape."""
    draw = np.random.default_rng(seed)
    shape = [(64, 32, 3), (128, 40), (256, 9)][seed % 3]
    values = {
        "normal": draw.normal(size=shape),
        "uniform": draw.uniform(size=shape),
        "signed": draw.uniform(-1, 1, shape),
    }[kind].astype(np.float32)

    found = check_data(values)

    assert _of(found, "random-data").severity == "error"


def test_an_error_is_refused_unless_forced() -> None:
    """Random data stop a conversion; who insists is let through."""
    found = check_data(np.random.default_rng(0).normal(size=(100, 30)).astype(np.float32))

    refuse(found, is_forced=True)
    with pytest.raises(ConfigError, match=r"random generator.*\n.*--force"):
        refuse(found)


def test_a_warning_is_not_refused() -> None:
    """Few windows are told, and taken."""
    found = check_data(_waves(20))

    refuse(found)
    assert _of(found, "few-windows").value == 20


def test_units_of_another_size_are_named() -> None:
    """Channels in g beside one in Pa keep less than a step of the integers, and it keeps few."""
    windows = _waves(100)
    windows[..., 1] = 101_325 + 500 * windows[..., 1]

    found = _of(check_data(windows, channels=("x", "pressure", "z")), "unit-scale")

    assert found.what.startswith("x, pressure, z: all of ")
    assert found.value < 0.01
    assert "Normalise" in found.remedy


def test_values_beyond_the_calibration_are_counted() -> None:
    """Evaluation windows twice as large leave the range, and the worst channel is named."""
    evaluation = _waves(100, 1)
    evaluation[..., 2] *= 2

    found = check_data(_waves(300), Samples(evaluation), channels=("x", "y", "z"))

    assert {"coverage", "saturation"} <= _codes(found)
    coverage = _of(found, "coverage")
    assert coverage.what.startswith("z: ")
    limits = _waves(300)[..., 2]
    outside = (evaluation[..., 2] < limits.min()) | (evaluation[..., 2] > limits.max())
    assert coverage.value == pytest.approx(outside.mean())


def test_anomalies_that_are_cut_off_are_told() -> None:
    """Calibrated on what is normal alone, an int8 input clips what it should find."""
    windows = np.concatenate([np.clip(_waves(50, 1), -1, 1), _waves(50, 2, size=5)])
    truth = np.repeat([0, 1], 50)

    found = _of(check_data(_waves(300), Samples(windows, truth)), "clipped-anomalies")

    assert found.value == 1.0
    assert "100% of the anomalous windows are clipped, 0% of the normal ones" in found.what


def test_a_dead_channel_is_told() -> None:
    """A channel that never moves is a warning; if none moves it is an error."""
    windows = _waves(100)
    windows[..., 0] = 3.0

    one, all_dead = check_data(windows), check_data(np.zeros((100, 8), np.float32))

    assert _of(one, "constant-channel").severity == "warning"
    assert _of(all_dead, "constant-channel").severity == "error"


def test_windows_that_calibrate_do_not_judge() -> None:
    """The same windows in both sets are counted."""
    windows = _waves(100)

    found = check_data(windows, Samples(windows[10:40]))

    assert _of(found, "shared-windows").value == 30


def test_nan_comes_first() -> None:
    """NaN is an error with a count, and nothing else is computed from it."""
    windows = _waves(100)
    windows[3, 4, 1] = np.nan

    found = check_data(windows, Samples(_waves(10)))

    assert [one.code for one in found] == ["not-finite"]
    assert str(found[0]).startswith("error not-finite: calibration data: 1 of 19200 values")
