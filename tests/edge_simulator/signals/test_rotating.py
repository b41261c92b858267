"""The machine obeys its physics: lines, sidebands, growth, sensor and converter."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import hilbert

from edge_runtime.errors import ConfigError
from edge_simulator.signals.bearing import BearingConfig, GrowthConfig
from edge_simulator.signals.rotating import (
    AdcConfig,
    GearConfig,
    MountConfig,
    Rotating,
    RotatingConfig,
    TemperatureConfig,
)
from edge_simulator.signals.schedule import PointConfig, Schedule

RATE_HZ = 3200.0
SECONDS = 8
COUNT = int(RATE_HZ) * SECONDS
# Broken from the first sample on: the fault was complete long before what is looked at.
BROKEN = GrowthConfig(starts_s=0, fails_s=1)
AFTER = int(RATE_HZ) * 2
QUIET = partial(RotatingConfig, noise_g=0.0, adc=None, unbalance_g=0.0, misalignment_g=0.0)


def _at(shaft_hz: float, load: float = 1.0) -> tuple[PointConfig, ...]:
    return (PointConfig(shaft_hz=shaft_hz, load=load),)


def _read(config: RotatingConfig, first: int = 0, count: int = COUNT) -> np.ndarray:
    return Rotating(config, seed=5).read(first, count).astype(np.float64)


def _spectrum(values: np.ndarray) -> np.ndarray:
    """Return heights of lines; with whole periods in the window each is in one bin."""
    return 2 / len(values) * np.abs(np.fft.rfft(values - values.mean()))


def _envelope_spectrum(values: np.ndarray) -> np.ndarray:
    return _spectrum(np.abs(hilbert(values)))


def _height(spectrum: np.ndarray, hz: float, width_hz: float = 0.5) -> float:
    """Return the highest line near a frequency."""
    low, high = round((hz - width_hz) * SECONDS), round((hz + width_hz) * SECONDS)
    return float(spectrum[low : high + 1].max())


@pytest.mark.parametrize("shaft_hz", [12.5, 25.0, 50.0])
def test_unbalance_and_misalignment_make_lines_that_grow_with_the_square_of_speed(
    shaft_hz: float,
) -> None:
    """A turning mass pulls with m e ω²."""
    config = QUIET(schedule=_at(shaft_hz), unbalance_g=0.2, misalignment_g=0.08)

    samples = _read(config)
    across, along = _spectrum(samples[:, 0]), _spectrum(samples[:, 2])

    square = (shaft_hz / 25) ** 2
    once, twice = round(shaft_hz * SECONDS), round(2 * shaft_hz * SECONDS)
    assert across[once] == pytest.approx(0.2 * square, rel=1e-4)
    assert across[twice] == pytest.approx(0.08 * square, rel=1e-4)
    # A bent coupling also pushes along the shaft, an unbalance never does.
    assert along[[once, twice]] == pytest.approx([0, 0.08 * square], rel=1e-4, abs=1e-6)


def test_unbalance_turns_around_the_shaft() -> None:
    """Across the shaft the force has one size in all directions; along it there is none."""
    x, y, z = _read(QUIET(unbalance_g=0.2)).T

    assert np.hypot(x, y) == pytest.approx(np.full(COUNT, 0.2), rel=1e-5)
    assert np.abs(z).max() == 0


def test_gear_mesh_has_harmonics_and_sidebands_at_the_shaft_s_speed() -> None:
    """An eccentric wheel meshes harder once a turn."""
    gear = GearConfig(teeth=20, mesh_g=0.1, harmonics=2, eccentricity=0.4)

    spectrum = _spectrum(_read(QUIET(gear=gear))[:, 2])

    heights = [_height(spectrum, hz, 0) for hz in (500, 1000, 475, 525)]
    assert heights == pytest.approx([0.1, 0.05, 0.02, 0.02], rel=1e-3)


def test_what_lies_above_half_the_rate_is_filtered_away() -> None:
    """Harmonics do not come back as lines that do not exist."""
    gear = GearConfig(teeth=40, harmonics=3)
    slow = QUIET(rate_hz=64.0, unbalance_g=0.2, misalignment_g=0.2)

    strong = np.flatnonzero(_spectrum(_read(QUIET(gear=gear))[:, 0]) > 1e-3) / SECONDS
    lines = np.flatnonzero(_spectrum(_read(slow, 0, 64 * SECONDS)[:, 0]) > 1e-3) / SECONDS

    assert strong.tolist() == [975, 1000, 1025]
    assert lines.tolist() == [25]


def test_geometry_gives_the_published_order_of_a_6205() -> None:
    """The Bearing Data Center of Case Western Reserve University states 3.5848."""
    assert BearingConfig().outer_order == pytest.approx(3.5848, abs=5e-5)


@given(st.floats(12.0, 30.0))
@settings(max_examples=12)
def test_envelope_has_its_lines_at_the_fault_s_frequency_at_any_speed(shaft_hz: float) -> None:
    """BPFO less slip, and its first sidebands at the shaft's speed, follow the shaft."""
    config = QUIET(schedule=_at(shaft_hz), fault=BROKEN)
    struck_hz = 3.5848 * (1 - 0.01) * shaft_hz

    spectrum = _envelope_spectrum(_read(config, AFTER)[:, 0])

    first = round(2 * shaft_hz * SECONDS)
    peak_hz = (first + int(spectrum[first : 6 * round(shaft_hz * SECONDS)].argmax())) / SECONDS
    assert peak_hz == pytest.approx(struck_hz, abs=1 / SECONDS)
    floor = np.median(spectrum)
    for side_hz in (struck_hz - shaft_hz, struck_hz + shaft_hz, 2 * struck_hz):
        assert _height(spectrum, side_hz) > 10 * floor


@pytest.mark.parametrize("damping", [0.03, 0.2])
def test_every_impact_rings_as_a_damped_oscillation_from_its_exact_place(damping: float) -> None:
    """The sum of h exp(-ζωt) sin(ω√(1-ζ²)t), added up one impact after the other."""
    bearing = BearingConfig(jitter=0, uneven=0, modulation=0, resonance_hz=900, damping=damping)
    config = QUIET(fault=BROKEN, bearing=bearing, schedule=_at(12.5, load=0.5))
    time_s = np.arange(AFTER, AFTER + 10_000) / RATE_HZ
    struck_hz = 4.5 * (1 - 7.94 / 39.04) * 0.99 * 12.5
    omega = 2 * np.pi * 900

    felt = _read(config, AFTER, len(time_s))[:, 0]

    expected = np.zeros(len(time_s))
    for k in range(int(1.5 * struck_hz), int(time_s[-1] * struck_hz) + 1):
        late_s = np.maximum(time_s - k / struck_hz, 0)
        # Half the load at half the rated speed strikes a quarter as hard.
        ring = np.exp(-damping * omega * late_s)
        ring *= np.sin(omega * np.sqrt(1 - damping**2) * late_s)
        expected += bearing.impact_g / 4 * ring
    # Each is followed until a ten-thousandth of its 1 g is left.
    assert np.abs(felt - expected).max() < 2e-4


def test_impacts_shake_the_resonance_and_stand_apart_by_their_frequency() -> None:
    """Around the natural frequency the spectrum is a comb with teeth at the fault's frequency."""
    bearing = BearingConfig(jitter=0, uneven=0, modulation=0, slip=0)
    config = QUIET(fault=BROKEN, bearing=bearing)

    spectrum = _spectrum(_read(config, AFTER)[:, 0])

    strong = np.flatnonzero(spectrum > 0.2 * spectrum.max()) / SECONDS
    struck_hz = bearing.outer_order * 25
    tooth_hz = struck_hz * np.rint(strong / struck_hz)
    assert spectrum.argmax() / SECONDS == pytest.approx(1000, abs=struck_hz / 2)
    assert np.abs(strong - tooth_hz).max() < 2 / SECONDS


def test_without_a_turning_load_an_outer_race_has_no_sidebands() -> None:
    """The fault stands still in the load; only what turns modulates it."""
    plain = BearingConfig(jitter=0, uneven=0, modulation=0)
    struck_hz = plain.impact_order * 25

    spectrum = _envelope_spectrum(_read(QUIET(fault=BROKEN, bearing=plain), AFTER)[:, 0])

    # What is left beside the line is the leakage of the window.
    assert _height(spectrum, struck_hz + 25) < 0.02 * _height(spectrum, struck_hz)


def test_over_a_ramp_impacts_keep_to_the_angle_of_the_shaft() -> None:
    """Sampled evenly in turns instead of time, the envelope has one sharp line: the order."""
    points = (PointConfig(shaft_hz=15), PointConfig(at_s=10, shaft_hz=30))
    config = QUIET(schedule=points, fault=BROKEN)
    time_s = np.arange(AFTER, AFTER + COUNT) / RATE_HZ
    envelope = np.abs(hilbert(_read(config, AFTER)[:, 0]))

    turns = Schedule(points).at(time_s).turns
    even = np.arange(turns[0], turns[-1], 1 / 64)
    spectrum = _spectrum(np.interp(even, turns, envelope))

    order = np.arange(len(spectrum)) * 64 / len(even)
    beyond = order > 2
    assert order[beyond][spectrum[beyond].argmax()] == pytest.approx(
        BearingConfig().impact_order, abs=0.02
    )


def test_a_load_change_changes_impacts_and_mesh_but_no_inertia() -> None:
    """Half the load strikes half as hard."""
    full = _read(QUIET(fault=BROKEN, schedule=_at(25, 1.0)), AFTER)
    half = _read(QUIET(fault=BROKEN, schedule=_at(25, 0.5)), AFTER)
    turning = [_read(QUIET(unbalance_g=0.2, schedule=_at(25, load))) for load in (1.0, 0.5)]

    assert half == pytest.approx(full / 2, abs=1e-6)
    assert turning[0].tobytes() == turning[1].tobytes()


def test_envelope_line_grows_with_severity() -> None:
    """The line at the fault's frequency is proportional to how far the fault has grown."""
    config = QUIET(fault=GrowthConfig(starts_s=0, fails_s=1000), noise_g=0.002)
    machine = Rotating(config, 5)
    lines, severities = [], []
    for share in (0.3, 0.5, 0.7, 0.9, 0.99):
        first = round(share * 1000 * RATE_HZ)
        spectrum = _envelope_spectrum(machine.read(first, COUNT)[:, 0])
        lines.append(_height(spectrum, BearingConfig().impact_order * 25))
        severities.append(float(machine.truth(first, COUNT).mean()))

    ratios = np.array(lines) / severities
    assert (np.diff(lines) > 0).all()
    assert ratios == pytest.approx(np.full(5, ratios.mean()), rel=0.15)


def test_severity_is_zero_before_one_after_and_grows_ever_faster() -> None:
    """At the end it grows as many times faster as ``ratio`` says."""
    growth = GrowthConfig(starts_s=100, fails_s=200, ratio=50)
    time_s = np.array([0, 100, 200, 999.0])

    assert growth.severity(time_s).tolist() == pytest.approx([0, 0, 1, 1])
    begun, ended = growth.severity(np.array([100.001, 199.999]))
    assert (1 - ended) / begun == pytest.approx(50, rel=1e-3)


def test_until_the_fault_starts_the_machine_is_the_healthy_one() -> None:
    """Truth and samples part at the same moment."""
    starts = 3
    healthy = Rotating(RotatingConfig(), 5)
    failing = Rotating(RotatingConfig(fault=GrowthConfig(starts_s=starts, fails_s=4)), 5)
    first = int(starts * RATE_HZ)

    assert failing.read(0, first).tobytes() == healthy.read(0, first).tobytes()
    assert not failing.truth(0, first + 1).any()
    assert failing.truth(first + 1, 1) > 0
    assert failing.read(first, 3200).tobytes() != healthy.read(first, 3200).tobytes()


def test_jitter_blurs_high_harmonics_and_keeps_the_mean_frequency() -> None:
    """Balls stray from their places, and so harmonic k loses k² as much."""
    sharp, blurred = (
        _envelope_spectrum(
            _read(QUIET(fault=BROKEN, bearing=BearingConfig(jitter=jitter, uneven=0)), AFTER)[:, 0]
        )
        for jitter in (0.0, 0.05)
    )
    struck_hz = BearingConfig().impact_order * 25

    kept = [_height(blurred, k * struck_hz) / _height(sharp, k * struck_hz) for k in (1, 3)]
    # A phase that strays by σ periods leaves exp(-2 (π k σ)²) of line k.
    expected = [np.exp(-2 * (np.pi * k * 0.05) ** 2) for k in (1, 3)]
    assert kept == pytest.approx(expected, abs=0.08)


def test_converter_gives_whole_steps_within_its_full_scale() -> None:
    """What lies beyond is clipped, not wrapped."""
    adc = AdcConfig(full_scale_g=0.25, bits=8)
    values = _read(RotatingConfig(unbalance_g=0.4, adc=adc))

    codes = values / adc.step_g
    assert (codes == np.rint(codes)).all()
    assert (codes.min(), codes.max()) == (-128, 127)


def test_noise_has_the_size_that_is_declared() -> None:
    """Root mean square, on every channel, independent of the others."""
    noise = _read(RotatingConfig(noise_g=0.05, unbalance_g=0, misalignment_g=0, adc=None))

    assert noise.std(axis=0) == pytest.approx([0.05] * 3, rel=0.02)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.02


def test_temperature_moves_zero_and_sensitivity() -> None:
    """After warming up, the zero has moved by so much a kelvin, and lines are that much higher."""
    temperature = TemperatureConfig(
        rise_celsius=20, rise_s=100, offset_g_per_k=1e-3, sensitivity_per_k=1e-3
    )
    config = QUIET(unbalance_g=0.2, temperature=temperature)

    cold, warm = _read(config, 0, 128), _read(config, int(RATE_HZ) * 2000)

    assert cold[0, 0] == pytest.approx(0.2, abs=1e-3)
    assert warm[:, 0].mean() == pytest.approx(20e-3, rel=1e-3)
    assert _spectrum(warm[:, 0])[25 * SECONDS] == pytest.approx(0.2 * 1.02, rel=1e-3)


def test_mount_decides_what_arrives() -> None:
    """Gravity stands, and what is far away reaches the sensor weaker."""
    mounts = (MountConfig(name="near", offset_g=1.0), MountConfig(name="far", reach=0.5))

    near, far = _read(QUIET(unbalance_g=0.2, mounts=mounts)).T

    assert near.mean() == pytest.approx(1.0, abs=1e-6)
    assert far == pytest.approx((near - 1) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RotatingConfig(rate_hz=1000, fault=BROKEN),
            "resonance_hz is 1000; expected below half",
        ),
        (lambda: RotatingConfig(mounts=(MountConfig(name="x"),) * 2), "named x, x"),
        (lambda: BearingConfig(element_mm=40), "element_mm is 40 and pitch_mm 39.04"),
        (lambda: GrowthConfig(starts_s=5, fails_s=5), "starts at 5 s and fails at 5 s"),
        (lambda: RotatingConfig(schedule=_at(1), repeats=True), "repeats after 0 s"),
    ],
)
def test_machines_that_cannot_be_are_refused(make: object, message: str) -> None:
    """The message shows what contradicts what."""
    assert callable(make)

    with pytest.raises(ConfigError, match=message):
        make()
