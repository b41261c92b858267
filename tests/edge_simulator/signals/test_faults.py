"""Faults touch exactly their interval, and do there what they say."""

from __future__ import annotations

from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.spec import ChannelSpec
from edge_simulator.signals.faults import (
    Drift,
    Dropout,
    Faulty,
    NoiseFault,
    Saturation,
    SensorFault,
    Spikes,
    Stuck,
    Swap,
    Unplug,
    distort,
)
from edge_simulator.signals.interval import Interval
from edge_simulator.signals.recording import Recorded
from edge_simulator.signals.sine import Sine, SineConfig

RATE_HZ = 100.0
CHANNELS = (ChannelSpec("x"), ChannelSpec("y"))
SIGNAL = Sine(SineConfig(rate_hz=RATE_HZ, channels=CHANNELS, tone_hz=0.7))
# From sample 1000 to 3000, and from 5000 on.
ACTIVE = (Interval(10, 30), Interval(50))
FAULTS: dict[str, SensorFault] = {
    "stuck": Stuck(active=ACTIVE),
    "drift": Drift(active=ACTIVE, per_hour={"y": 36.0}),
    "noise": NoiseFault(active=ACTIVE, rms=0.1),
    "saturation": Saturation(active=ACTIVE, full_scale=0.3),
    "dropout": Dropout(active=ACTIVE, share=0.5),
    "unplug": Unplug(active=ACTIVE),
    "spikes": Spikes(active=ACTIVE, share=0.2, height=5.0),
    "swap": Swap(active=ACTIVE, channels=("x", "y")),
}


def _faulty(fault: SensorFault) -> tuple[np.ndarray, np.ndarray]:
    """Return 2000 samples of the first interval, as they should be and as they are."""
    return SIGNAL.read(1000, 2000), Faulty(SIGNAL, fault, seed=1).read(1000, 2000)


def test_every_kind_is_tested_here() -> None:
    """A new fault needs its place in the table."""
    tags = {kind.__struct_config__.tag for kind in get_args(SensorFault)}

    assert tags == set(FAULTS)


@pytest.mark.parametrize("kind", sorted(FAULTS))
@given(st.integers(0, 6000), st.integers(0, 3000))
def test_outside_its_intervals_a_fault_changes_nothing(kind: str, first: int, count: int) -> None:
    """Not one byte, and truth is the signal's own."""
    faulty = Faulty(SIGNAL, FAULTS[kind], seed=1)
    number = np.arange(first, first + count)
    outside = (number < 1000) | (number >= 3000) & (number < 5000)

    assert faulty.read(first, count)[outside].tobytes() == (
        SIGNAL.read(first, count)[outside].tobytes()
    )
    assert faulty.truth(first, count).tolist() == (~outside).astype(float).tolist()
    assert faulty.sensor_truth(first, count).tolist() == (~outside).astype(float).tolist()


@pytest.mark.parametrize("kind", sorted(FAULTS))
def test_inside_its_interval_a_fault_changes_something(kind: str) -> None:
    """Nothing is declared in vain."""
    expected, actual = _faulty(FAULTS[kind])

    assert expected.tobytes() != actual.tobytes()


def test_stuck_channels_keep_their_last_value() -> None:
    """The value of the sample before the interval, on the channels that are named."""
    expected, actual = _faulty(Stuck(active=ACTIVE, channels=("x",)))

    assert (actual[:, 0] == SIGNAL.read(999, 1)[0, 0]).all()
    assert actual[:, 1].tolist() == expected[:, 1].tolist()


def test_a_sensor_stuck_from_the_start_keeps_its_first_value() -> None:
    """There is none before it."""
    stuck = Faulty(SIGNAL, Stuck(), seed=1)

    assert (stuck.read(500, 5) == SIGNAL.read(0, 1)).all()


def test_drift_grows_evenly_from_zero() -> None:
    """36 an hour is a hundredth a second; the other channel stays."""
    expected, actual = _faulty(FAULTS["drift"])

    gained = actual - expected
    assert gained[:, 1] == pytest.approx(np.arange(2000) * 1e-4, abs=1e-6)
    assert not gained[:, 0].any()


def test_noise_has_its_size_and_every_fault_its_own() -> None:
    """Two noises on one sensor add up in squares."""
    expected, once = _faulty(NoiseFault(active=ACTIVE, rms=0.1))
    fault = NoiseFault(active=ACTIVE, rms=0.1)
    twice = distort(SIGNAL, [fault, fault], seed=1).read(1000, 2000)

    assert (once - expected).std() == pytest.approx(0.1, rel=0.05)
    assert (twice - expected).std() == pytest.approx(0.1 * np.sqrt(2), rel=0.05)


def test_saturation_clips_both_ways() -> None:
    """What fits below the full scale is untouched."""
    expected, actual = _faulty(FAULTS["saturation"])

    assert actual.tolist() == np.clip(expected, np.float32(-0.3), np.float32(0.3)).tolist()


def test_dropout_takes_its_share_of_whole_samples() -> None:
    """All named channels are lost together; the others are not."""
    _, both = _faulty(FAULTS["dropout"])
    _, only_y = _faulty(Dropout(active=ACTIVE, share=0.5, channels=("y",)))

    lost = np.isnan(both)
    assert lost.mean() == pytest.approx(0.5, abs=0.05)
    assert lost[:, 0].tolist() == lost[:, 1].tolist() == np.isnan(only_y[:, 1]).tolist()
    assert not np.isnan(only_y[:, 0]).any()


def test_dropout_can_take_every_sample_but_not_leave_none() -> None:
    """A sensor that sends nothing at all is unplugged."""
    _, actual = _faulty(Dropout(active=ACTIVE, share=1.0))

    assert np.isnan(actual).all()
    with pytest.raises(ConfigError, match="share below 1"):
        Dropout(share=1.0, leaves="missing")
    with pytest.raises(ConfigError, match="missing on x; expected all channels"):
        Dropout(share=0.5, leaves="missing", channels=("x",))


def test_an_unplugged_sensor_reads_nothing() -> None:
    """Samples that do not exist are NaN."""
    assert np.isnan(_faulty(FAULTS["unplug"])[1]).all()


def test_spikes_go_up_and_down_on_their_share_of_samples() -> None:
    """Each channel spikes by itself, by the declared height."""
    expected, actual = _faulty(FAULTS["spikes"])

    jumps = np.rint(actual - expected)
    assert set(np.unique(jumps).tolist()) == {-5, 0, 5}
    assert np.abs(jumps / 5).mean() == pytest.approx(0.2, abs=0.03)
    assert np.abs(jumps.mean()) < 0.15
    assert jumps[:, 0].tolist() != jumps[:, 1].tolist()


def test_swapped_channels_carry_each_other_s_values() -> None:
    """Twice swapped is not swapped."""
    expected, actual = _faulty(FAULTS["swap"])
    twice = distort(SIGNAL, [FAULTS["swap"], FAULTS["swap"]], seed=1)

    assert actual.tolist() == expected[:, ::-1].tolist()
    assert twice.read(1000, 2000).tobytes() == expected.tobytes()


def test_faults_compose_from_the_world_outwards() -> None:
    """The second acts on what the first has left: what is clipped cannot drift back."""
    drift, clip = Drift(per_hour={"x": 3600.0}), Saturation(full_scale=2.0)

    clipped = distort(SIGNAL, [drift, clip], seed=1).read(1000, 10)
    drifted = distort(SIGNAL, [clip, drift], seed=1).read(1000, 10)

    assert (clipped[:, 0] == 2).all()
    assert (drifted[:, 0] > 8).all()


def test_truth_is_the_worse_of_world_and_sensor() -> None:
    """Where the sensor works, what is unknown stays unknown."""
    samples = np.zeros((400, 1))
    fault = Stuck(active=(Interval(1, 2),))
    known = Recorded((ChannelSpec("x"),), RATE_HZ, samples, truth=np.full(400, 0.25))
    unknown = Recorded((ChannelSpec("x"),), RATE_HZ, samples)

    assert Faulty(known, fault, seed=1).truth(99, 3).tolist() == [0.25, 1, 1]
    assert np.isnan(Faulty(unknown, fault, seed=1).truth(99, 3)).tolist() == [True, False, False]


def test_a_channel_that_there_is_not_is_named() -> None:
    """With the nearest one that there is."""
    drift = Drift(per_hour={"xx": 1.0})

    with pytest.raises(ConfigError, match=r"'drift' names the channel 'xx'(.|\n)*Did you mean 'x'"):
        distort(SIGNAL, [drift], seed=1)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "dropout", "share": 0},
        {"kind": "spikes", "share": 1.5, "height": 1},
        {"kind": "noise", "rms": -1},
        {"kind": "saturation", "full_scale": 0},
        {"kind": "stuck", "channels": []},
        {"kind": "stuck", "active": []},
        {"kind": "swap", "channels": ["x"]},
        {"kind": "melted"},
        {"kind": "unplug", "from_s": 3},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, object]) -> None:
    """Nothing that cannot happen can be declared."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(options, SensorFault)
