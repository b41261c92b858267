"""Several sources as one stream: whose values, in which order, and what can be replayed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.config import load_device
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.ports import SourceHealth
from edge_runtime.sources.merge import MergeConfig, MergePart, MergeSource
from edge_runtime.spec import ChannelSpec, GridSpec, StreamSpec
from edge_runtime.testing import Abort, End, Samples, ScriptedSource, check_source, read_all
from edge_runtime.types import Frame

NEED = StreamSpec((ChannelSpec("x"), ChannelSpec("y")), 100.0, grid=GridSpec())
SECOND_NS = 10**9
CONFIG = MergeConfig((MergePart({"kind": "csv"}, ("x",)), MergePart({"kind": "csv"}, ("y",), 1.0)))


def _script(times: list[int], block: int, *, end: bool = True) -> ScriptedSource:
    values = np.array(times, np.float64)[:, None]
    time_ns = np.array(times, np.int64) * SECOND_NS
    steps = [
        Samples(values[first : first + block], time_ns[first : first + block])
        for first in range(0, len(times), block)
    ]
    return ScriptedSource([*steps, End()] if end else steps)


def _merged(x: list[int], y: list[int], *blocks: int) -> MergeSource:
    first, second = blocks or (3, 2)
    return MergeSource(CONFIG, sources=[_script(x, first), _script(y, second)])


def _rows(source: MergeSource) -> list[tuple[int, list[float]]]:
    source.open("main", NEED, 0)
    frames = read_all(source)
    return [
        (time_ns // SECOND_NS, row)
        for frame in frames
        for time_ns, row in zip(frame.time_ns.tolist(), frame.samples.tolist(), strict=True)
    ]


def test_rows_come_in_the_order_of_their_times_with_nan_for_the_others() -> None:
    """Of equal times, the source that stands first comes first."""
    rows = _rows(_merged([1, 2, 3, 6], [2, 5]))

    assert [time for time, _ in rows] == [1, 2, 2, 3, 5, 6]
    assert [np.isnan(row).tolist() for _, row in rows][:3] == [
        [False, True],
        [False, True],
        [True, False],
    ]


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=20),
    st.lists(st.integers(0, 50), min_size=1, max_size=20),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_frames_of_the_sources_do_not_matter(
    x: list[int], y: list[int], first: int, second: int
) -> None:
    """Out of order within a recording or not, the rows are the same in every chunking."""
    whole, parted = _rows(_merged(x, y, 50, 50)), _rows(_merged(x, y, first, second))

    assert [time for time, _ in parted] == [time for time, _ in whole]
    assert np.array_equal([r for _, r in parted], [r for _, r in whole], equal_nan=True)
    assert len(parted) == len(x) + len(y)


def test_recordings_keep_the_contract_of_a_source() -> None:
    """They can be replayed from any row, and end."""
    check_source(lambda: _merged([1, 2, 3, 6], [2, 5, 9]), NEED, resume_at=range(8))


def test_a_model_without_a_grid_is_refused() -> None:
    """Nothing would put the samples on one clock."""
    need = StreamSpec(NEED.channels, 100.0)

    with pytest.raises(ConfigError, match="grid"):
        _merged([1], [1]).open("main", need, 0)


def test_channels_must_be_the_models() -> None:
    """What is missing and what is there are both said."""
    channels = (*NEED.channels, ChannelSpec("z"))

    with pytest.raises(ConfigError, match="x, y"):
        _merged([1], [1]).open("main", StreamSpec(channels, 1.0, grid=GridSpec()), 0)


class _Live(ScriptedSource):
    """A script that cannot be replayed."""

    def health(self) -> SourceHealth:
        return SourceHealth(2, 0.5, {"frozen": 1})


def _live(steps: list[object]) -> MergeSource:
    values = [Samples(np.ones((2, 1)), np.array([1, 2])), *steps]
    return MergeSource(CONFIG, sources=[_Live(values), _Live(values)])


def _until(source: MergeSource, rows: int) -> list[Frame]:
    frames: list[Frame] = []
    while sum(map(len, frames)) < rows:
        frame = source.read(10.0)
        assert frame is not None
        frames.append(frame)
    return frames


def test_live_sources_come_as_they_arrive_and_are_counted_together() -> None:
    """Every one is read by a thread of its own; losses and faults add up."""
    source = _live([])
    source.open("main", NEED, 7)

    frames = _until(source, 4)
    source.close()
    source.close()

    assert frames[0].index == 7
    assert source.health() == SourceHealth(4, 0.5, {"frozen": 2})
    assert source.read(0.0) is None


def test_a_live_source_that_fails_is_told_to_the_reader() -> None:
    """Which then opens all of them again."""
    source = _live([Abort("unplugged")])
    source.open("main", NEED, 0)

    with pytest.raises(SourceError, match="unplugged"):
        _until(source, 5)
    source.close()


def test_options_of_merged_sources_are_checked_and_their_paths_resolved(
    tmp_path: Path, write_device: Callable[[str], Path]
) -> None:
    """They are relative to the configuration, as everywhere."""
    source = load_device(write_device("")).streams["main"].source

    assert source["sources"][0]["source"]["path"] == str(tmp_path / "a.csv")
    with pytest.raises(ConfigError, match="spead"):
        load_device(write_device("spead: 1, "))


@pytest.fixture
def write_device(tmp_path: Path) -> Callable[[str], Path]:
    """Write a device with two merged recordings; ``extra`` goes into the options of the first."""

    def write(extra: str) -> Path:
        time = "time: {column: t, format: unix_s}"
        path = tmp_path / "device.yaml"
        path.write_text(
            f"""\
device: d1
state: state
streams:
  main:
    model: {{bundle: bundle}}
    source:
      kind: merge
      sources:
        - {{channels: [x], source: {{kind: csv, path: a.csv, {extra}{time}}}}}
        - {{channels: [y], source: {{kind: csv, path: b.csv, {time}}}}}
"""
        )
        return path

    return write
