"""Every signal keeps the contract of the port: a pure function of the sample's number."""

from __future__ import annotations

import itertools
from random import Random
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.spec import ChannelSpec
from edge_simulator.signals import Signal, SignalConfig, build_signal, distort
from edge_simulator.signals.bearing import GrowthConfig
from edge_simulator.signals.faults import Drift, Dropout, NoiseFault, Spikes, Stuck
from edge_simulator.signals.interval import Interval
from edge_simulator.signals.recording import GasTurbineConfig, RecordedConfig
from edge_simulator.signals.room import RoomConfig
from edge_simulator.signals.rotating import GearConfig, RotatingConfig, TemperatureConfig
from edge_simulator.signals.schedule import PointConfig
from edge_simulator.signals.sine import SineConfig

COUNT = 20_000
CONFIGS: dict[str, SignalConfig] = {
    "rotating": RotatingConfig(
        gear=GearConfig(),
        fault=GrowthConfig(starts_s=1, fails_s=5),
        temperature=TemperatureConfig(swing_celsius=5, offset_g_per_k=0.01),
        schedule=(PointConfig(shaft_hz=0), PointConfig(at_s=3, shaft_hz=30, load=0.5)),
        repeats=True,
    ),
    "room": RoomConfig(rate_hz=0.2),
    "gas_turbine": GasTurbineConfig(first_row=1000, last_row=4000),
    "sine": SineConfig(channels=(ChannelSpec("a"), ChannelSpec("b"))),
}
CUTS = st.lists(st.integers(0, COUNT), max_size=8).map(lambda cuts: sorted({0, COUNT, *cuts}))


def _faulty(kind: str, seed: int = 9) -> Signal:
    """Build a signal behind a sensor with every fault that draws numbers."""
    signal = build_signal(CONFIGS[kind], seed)
    name = signal.channels[0].name
    active = (Interval(10 / signal.rate_hz, 12_000 / signal.rate_hz),)
    faults = [
        NoiseFault(active=active, rms=0.1),
        Drift(active=active, per_hour={name: 1.0}),
        Spikes(active=active, share=0.01, height=2.0),
        Dropout(active=active, share=0.1),
        Stuck(active=(Interval(13_000 / signal.rate_hz),)),
    ]
    return distort(signal, faults, seed=seed)


def test_every_kind_is_tested_here() -> None:
    """A recording is tested by the bundled one."""
    tags = {kind.__struct_config__.tag for kind in get_args(SignalConfig)}

    assert tags == set(CONFIGS) | {RecordedConfig.__struct_config__.tag}


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@given(CUTS, st.randoms(use_true_random=False))
@settings(max_examples=15)
def test_any_chunks_in_any_order_give_the_same_bytes(
    kind: str, cuts: list[int], random: Random
) -> None:
    """A device that starts again sees the world go on as if it had been there."""
    whole = _faulty(kind)
    samples, truth = whole.read(0, COUNT), whole.truth(0, COUNT)
    chunks = list(itertools.pairwise(cuts))
    random.shuffle(chunks)

    signal = _faulty(kind)
    for first, last in chunks:
        assert signal.read(first, last - first).tobytes() == samples[first:last].tobytes()
        assert signal.truth(first, last - first).tobytes() == truth[first:last].tobytes()


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_arrays_have_the_declared_shape_and_type(kind: str) -> None:
    """float32, read-only, truth from 0 to 1 or unknown."""
    signal = _faulty(kind)
    samples, truth = signal.read(7, 100), signal.truth(7, 100)

    assert (samples.shape, samples.dtype) == ((100, len(signal.channels)), np.float32)
    assert (truth.shape, truth.dtype) == ((100,), np.float32)
    assert not samples.flags.writeable
    assert np.isnan(truth).sum() + ((truth >= 0) & (truth <= 1)).sum() == 100
    assert signal.read(3, 0).shape == (0, len(signal.channels))


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_samples_before_the_first_do_not_exist(kind: str) -> None:
    """A negative number is a mistake, not the end."""
    with pytest.raises(ValueError, match="rows -1"):
        build_signal(CONFIGS[kind], 1).read(-1, 1)


@pytest.mark.parametrize("kind", ["rotating", "room"])
def test_another_seed_is_another_machine_of_the_same_kind(kind: str) -> None:
    """A fleet is not made of copies."""
    one, other = (build_signal(CONFIGS[kind], seed).read(0, 5000) for seed in (1, 2))

    assert one.tobytes() != other.tobytes()
    assert float(one.mean()) == pytest.approx(float(other.mean()), rel=0.05, abs=0.05)
