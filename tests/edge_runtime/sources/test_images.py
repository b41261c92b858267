"""Folders of pictures are replayed image by image, and no window ever mixes two."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_runtime import registry
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.pipeline.windows import Cutter
from edge_runtime.sources import Unpaced
from edge_runtime.sources.images import ImagesConfig, ImagesSource
from edge_runtime.sources.instants import TimeConfig
from edge_runtime.spec import ChannelSpec, ImageSpec, StreamSpec, WindowSpec
from edge_runtime.testing import FakeClock, read_all
from edge_runtime.types import Frame

LINES = 4
NEED = StreamSpec(tuple(ChannelSpec(f"c{i}") for i in range(9)), 40.0, ImageSpec(LINES, 3))
PERIOD_NS, STEP_NS = 100_000_000, 25_000_000
START_NS = 1_356_998_400_000_000_000
GRID = {"start": "2013-01-01T00:00:00Z", "step_s": 0.1}

Make = Callable[..., ImagesSource]


def _save(path: Path, shade: int) -> Path:
    Image.fromarray(np.full((LINES, 3, 3), shade, np.uint8)).save(path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Make:
    """Build a source of the test's folder."""

    def make(pattern: str = ".", **options: Any) -> ImagesSource:
        options.setdefault("time", GRID)
        built = registry.create("sources", "images", {"path": str(tmp_path / pattern), **options})
        assert isinstance(built, ImagesSource)
        return built

    return make


def _frames(source: ImagesSource, index: int = 0) -> list[Frame]:
    source.open("s", NEED, index)
    return read_all(source)


def _shades(frames: list[Frame]) -> list[int]:
    return [int(frame.samples[0, 0]) for frame in frames]


def test_files_are_played_in_the_order_of_their_numbers(tmp_path: Path, source: Make) -> None:
    """2 comes before 10; hidden files and other files are no pictures."""
    for number in (10, 2, 1):
        _save(tmp_path / f"shot-{number}.png", number)
    _save(tmp_path / ".thumb.png", 99)
    (tmp_path / "notes.txt").write_text("none")

    assert _shades(_frames(source())) == [1, 2, 10]


def test_a_pattern_chooses_files(tmp_path: Path, source: Make) -> None:
    """Two cameras may share a folder."""
    _save(tmp_path / "front-1.png", 1)
    _save(tmp_path / "rear-1.png", 2)

    assert _shades(_frames(source("rear-*.png"))) == [2]


def test_the_last_line_has_the_time_of_the_image(tmp_path: Path, source: Make) -> None:
    """The others lie before it, evenly over the period."""
    for number in range(3):
        _save(tmp_path / f"{number}.png", number)

    frames = _frames(source())

    times = np.concatenate([frame.time_ns for frame in frames])
    assert times[LINES - 1 :: LINES].tolist() == [START_NS + k * PERIOD_NS for k in range(3)]
    assert (np.diff(times) == STEP_NS).all()
    assert {frame.step_ns for frame in frames} == {STEP_NS}


@pytest.mark.parametrize(
    ("names", "format_"),
    [
        (["20130101T000000Z", "20130101T000001Z"], "iso"),
        (["1356998400.0", "1356998401"], "unix_s"),
        ([str(START_NS), str(START_NS + 10**9)], "unix_ns"),
    ],
)
def test_names_may_tell_the_times(
    tmp_path: Path, source: Make, names: list[str], format_: str
) -> None:
    """Whatever format they are in; a second between two images is a gap here."""
    for shade, name in enumerate(names):
        _save(tmp_path / f"{name}.png", shade)

    frames = _frames(source(time={"column": "name", "format": format_}))

    assert [int(frame.time_ns[-1]) for frame in frames] == [START_NS, START_NS + 10**9]
    assert [frame.step_ns for frame in frames] == [STEP_NS, STEP_NS]


def test_the_file_system_may_tell_the_times(tmp_path: Path, source: Make) -> None:
    """Order follows time, not name."""
    for shade, (name, time_ns) in enumerate([("b", START_NS), ("a", START_NS + PERIOD_NS)]):
        os.utime(_save(tmp_path / f"{name}.png", shade), ns=(time_ns, time_ns))

    frames = _frames(source(time={"column": "mtime"}))

    assert _shades(frames) == [0, 1]
    assert int(frames[0].time_ns[-1]) == START_NS


@settings(max_examples=30)
@given(st.lists(st.integers(LINES, 3 * PERIOD_NS), min_size=1, max_size=12))
def test_no_window_mixes_two_images(
    tmp_path_factory: pytest.TempPathFactory, steps_ns: list[int]
) -> None:
    """However the images lie in time: late, early, or with some missing."""
    folder = tmp_path_factory.mktemp("images")
    times = np.cumsum([START_NS, *steps_ns])
    for shade, time_ns in enumerate(times.tolist()):
        _save(folder / f"{time_ns}.png", shade)
    config = ImagesConfig(path=folder, time=TimeConfig("name", "unix_ns"))
    cutter = Cutter(WindowSpec(LINES, LINES), NEED)

    frames = _frames(ImagesSource(config))
    windows = [part for frame in frames for part in cutter.cut(frame)]

    shades = [np.unique(part.samples).tolist() for part in windows]
    assert shades == [[shade] for shade in range(len(times))]
    assert not any(cutter.discarded.values())
    late = [False, *(step > 1.25 * PERIOD_NS for step in steps_ns)]
    fresh = [part.is_fresh for part in windows]
    assert all(fresh[i] for i in range(len(late)) if late[i])


def test_a_lost_image_is_a_gap_and_jitter_is_none(tmp_path: Path, source: Make) -> None:
    """An image that is a fifth of a period late still follows the one before."""
    times = np.cumsum([START_NS, 120_000_000, 80_000_000, 200_000_000])
    for shade, time_ns in enumerate(times.tolist()):
        _save(tmp_path / f"{time_ns}.png", shade)
    cutter = Cutter(WindowSpec(LINES, LINES), NEED)

    frames = _frames(source(time={"column": "name", "format": "unix_ns"}))
    fresh = [part.is_fresh for frame in frames for part in cutter.cut(frame)]

    assert fresh == [True, False, False, True]


def test_first_and_last_image_bound_a_replay(tmp_path: Path, source: Make) -> None:
    """The index counts lines of all images, delivered or not."""
    for number in range(5):
        _save(tmp_path / f"{number}.png", number)

    frames = _frames(source(first_image=1, last_image=3))

    assert _shades(frames) == [1, 2]
    assert frames[0].index == LINES


def test_real_time_hands_out_an_image_when_it_was_taken(tmp_path: Path) -> None:
    """The first at once, the next one a period later."""
    for number in range(2):
        _save(tmp_path / f"{number}.png", number)
    time = TimeConfig(start=datetime(2013, 1, 1, tzinfo=UTC), step_s=0.1)
    clock = FakeClock()
    source = ImagesSource(ImagesConfig(path=tmp_path, time=time, speed=1), clock=clock)
    source.open("s", NEED, 0)

    assert source.read(0.0) is not None
    assert source.read(0.0) is None
    clock.advance(0.1)
    assert source.read(0.0) is not None


def test_a_simulator_may_set_the_pace(tmp_path: Path, source: Make) -> None:
    """It is asked for lines, as with every other recording."""
    _save(tmp_path / "0.png", 0)
    asked = []

    class Pace(Unpaced):
        def wait(self, index: int, time_ns: int, timeout_s: float) -> int:
            asked.append((index, time_ns))
            return 1

    replay = source()
    replay.pace = Pace()

    assert len(_frames(replay)) == 1
    assert asked == [(LINES - 1, START_NS)]


def test_a_rate_that_does_not_fit_the_model_is_refused(tmp_path: Path, source: Make) -> None:
    """The step between images must be the model's."""
    _save(tmp_path / "0.png", 0)

    with pytest.raises(ConfigError, match=r"step_s is 0.5; expected 0.1") as caught:
        _frames(source(time={**GRID, "step_s": 0.5}))

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


def test_a_damaged_picture_is_named(tmp_path: Path, source: Make) -> None:
    """The images before it were delivered, and it is tried again after a restart."""
    _save(tmp_path / "0.png", 0)
    (tmp_path / "1.png").write_bytes(_save(tmp_path / "0.png", 0).read_bytes()[:45])
    replay = source()
    replay.open("s", NEED, 0)
    assert replay.read(0) is not None

    with pytest.raises(SourceError, match=r"1\.png: cannot be read") as caught:
        replay.read(0)
    _save(tmp_path / "1.png", 1)
    replay.open("s", NEED, LINES)

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))
    assert _shades(read_all(replay)) == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "missing"}, r"cannot be read \(No such file or directory\)"),
        ({"path": "missing/*.png"}, r"cannot be read \(No such file or directory\)"),
        ({"path": "*.jpg"}, "there are no pictures"),
        ({"time": {"column": "name"}}, "tells no time"),
        ({"last_image": 9}, "there are 2 images; expected at least 9"),
        ({"first_image": 2}, "there are 2 images; expected at least 3"),
    ],
)
def test_what_cannot_be_replayed_is_told(
    tmp_path: Path, source: Make, options: dict[str, Any], message: str
) -> None:
    """Every error has four parts."""
    for number in range(2):
        _save(tmp_path / f"{number}.png", number)

    with pytest.raises(SourceError, match=message) as caught:
        _frames(source(options.pop("path", "."), **options))

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


def test_two_images_of_one_time_are_refused(tmp_path: Path, source: Make) -> None:
    """Their lines would lie over each other."""
    for name in "ab":
        os.utime(_save(tmp_path / f"{name}.png", 0), ns=(START_NS, START_NS))

    with pytest.raises(SourceError, match=r"it has the time of a\.png"):
        _frames(source(time={"column": "mtime"}))


@pytest.mark.parametrize(
    "options", [{"time": {"column": "x"}}, {"first_image": 3, "last_image": 3}]
)
def test_options_that_make_no_sense_are_refused(source: Make, options: dict[str, Any]) -> None:
    """Before any file is looked at."""
    with pytest.raises(ConfigError):
        source(**options)
