"""A part that the kernel knows, and a source of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.sources.iio import IioConfig, IioSource
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import FakeClock
from edge_runtime.testing.iio import FakeIio, accelerometer

AXES = {axis: f"accel_{axis}" for axis in "xyz"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def need() -> StreamSpec:
    return StreamSpec(tuple(ChannelSpec(axis) for axis in "xyz"), 100.0)


@pytest.fixture
def part(tmp_path: Path, clock: FakeClock) -> Callable[..., FakeIio]:
    """Make a part; an accelerometer unless told otherwise."""

    def make(**options: Any) -> FakeIio:
        return accelerometer(tmp_path, **({"clock": clock} | options))

    return make


@pytest.fixture
def source(clock: FakeClock) -> Iterator[Callable[..., IioSource]]:
    """Make a source of a part; closed at the end."""
    made = []

    def make(kernel: FakeIio, **options: Any) -> IioSource:
        given: dict[str, Any] = {"device": "adxl345", "channels": AXES, "block_s": 0.05}
        folders = {"root": kernel.root, "nodes": kernel.nodes}
        made.append(IioSource(IioConfig(**(given | folders | options)), clock=clock, kernel=kernel))
        return made[-1]

    yield make
    for one in made:
        one.close()
