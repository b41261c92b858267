"""Pictures are delivered as they come into a folder, whole, once, and in time."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.errors import SourceError
from edge_runtime.pipeline.windows import Cutter
from edge_runtime.sources.incoming_images import IncomingImagesConfig, IncomingImagesSource
from edge_runtime.spec import ChannelSpec, ImageSpec, StreamSpec, WindowSpec
from edge_runtime.testing import FakeClock
from edge_runtime.types import Frame

LINES, PERIOD_NS = 4, 100_000_000
NEED = StreamSpec(tuple(ChannelSpec(f"c{i}") for i in range(9)), 40.0, ImageSpec(LINES, 3))
START_NS = 1_356_998_400_000_000_000


class Watch:
    """A folder, a source that watches it, and the clock that says when to look."""

    def __init__(self, folder: Path, pattern: str = "", **options: Any) -> None:
        self.folder = folder
        self.clock = FakeClock()
        config = IncomingImagesConfig(path=folder / pattern, **options)
        self.source = IncomingImagesSource(config, clock=self.clock)

    def open(self, index: int = 0) -> None:
        self.source.open("s", NEED, index)
        self.look()

    def put(self, name: str, shade: int, written_ns: int) -> Path:
        path = self.folder / name
        Image.fromarray(np.full((LINES, 3, 3), shade, np.uint8)).save(path, "PNG")
        os.utime(path, ns=(written_ns, written_ns))
        return path

    def look(self, times: int = 1) -> list[Frame]:
        """Let the source look so often, and return what it has found."""
        frames = []
        for _ in range(times):
            self.clock.advance(0.25)
            frames.append(self.source.read(0.0))
            while self.source._waiting:
                frames.append(self.source.read(0.0))
        return [frame for frame in frames if frame is not None]


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def _shades(frames: list[Frame]) -> list[int]:
    return [int(frame.samples[0, 0]) for frame in frames]


def test_what_is_there_already_is_passed_over(watch: Watch) -> None:
    """Only what comes is live."""
    watch.put("1.png", 1, START_NS)
    watch.open(index=12)
    watch.put("2.png", 2, START_NS + PERIOD_NS)

    frames = watch.look(3)

    assert _shades(frames) == [2]
    assert frames[0].index == 12
    assert int(frames[0].time_ns[-1]) == START_NS + PERIOD_NS


def test_a_file_that_still_grows_is_not_read(watch: Watch) -> None:
    """Two looks must find it the same."""
    watch.open()
    whole = watch.put("1.png", 1, START_NS).read_bytes()
    (watch.folder / "1.png").write_bytes(whole[:20])
    os.utime(watch.folder / "1.png", ns=(START_NS, START_NS))
    assert watch.look(1) == []
    (watch.folder / "1.png").write_bytes(whole)

    assert _shades(watch.look(2)) == [1]
    assert watch.source.health().faults == {}


def test_a_file_that_is_written_again_is_a_new_picture(watch: Watch) -> None:
    """Some cameras have one name for all."""
    watch.open()
    watch.put("latest.png", 1, START_NS)
    frames = watch.look(2)
    watch.put("latest.png", 2, START_NS + PERIOD_NS)
    frames += watch.look(3)
    (watch.folder / "latest.png").unlink()
    frames += watch.look(1)
    watch.put("latest.png", 3, START_NS + 2 * PERIOD_NS)
    frames += watch.look(3)

    assert _shades(frames) == [1, 2, 3]


def test_files_of_one_look_come_in_the_order_of_their_numbers(watch: Watch) -> None:
    """2 before 10."""
    watch.open()
    for number in (10, 2):
        watch.put(f"{number}.png", number, START_NS + number * PERIOD_NS)

    assert _shades(watch.look(2)) == [2, 10]


def test_names_may_tell_the_times(tmp_path: Path) -> None:
    """A name without a time is counted, not delivered."""
    watch = Watch(tmp_path, time="name", format="unix_ns")
    watch.open()
    watch.put(f"{START_NS}.png", 1, 0)
    watch.put("front.png", 2, 0)

    frames = watch.look(2)

    assert [int(frame.time_ns[-1]) for frame in frames] == [START_NS]
    assert watch.source.health().faults == {"no_time": 1}


def test_a_pattern_chooses_files(tmp_path: Path) -> None:
    """Two cameras may share a folder."""
    watch = Watch(tmp_path, "rear-*.png")
    watch.open()
    watch.put("front-1.png", 1, START_NS)
    watch.put("rear-1.png", 2, START_NS)

    assert _shades(watch.look(2)) == [2]


def test_damaged_and_late_pictures_are_counted(watch: Watch) -> None:
    """The stream goes on with the next one."""
    watch.open()
    watch.put("1.png", 1, START_NS)
    (watch.folder / "2.png").write_bytes(b"\x89PNG")
    watch.put("3.png", 3, START_NS)
    watch.put("4.png", 4, START_NS + PERIOD_NS)

    assert _shades(watch.look(2)) == [1, 4]
    assert watch.source.health().faults == {"damaged": 1, "late": 1}
    assert watch.source.health().lost_samples == 0


def test_what_finds_no_room_is_counted(watch: Watch) -> None:
    """64 pictures wait; the oldest ones are kept."""
    watch.open()
    for number in range(70):
        watch.put(f"{number}.png", number, START_NS + number * PERIOD_NS)

    assert _shades(watch.look(2)) == list(range(64))
    assert watch.source.health().faults == {"left_out": 6}


@settings(max_examples=25)
@given(st.lists(st.integers(LINES, 4 * PERIOD_NS), max_size=10))
def test_no_window_mixes_two_pictures_and_each_gap_is_counted(
    tmp_path_factory: pytest.TempPathFactory, steps_ns: list[int]
) -> None:
    """However they lie in time."""
    watch = Watch(tmp_path_factory.mktemp("incoming"))
    watch.open()
    times = np.cumsum([START_NS, *steps_ns]).tolist()
    for number, time_ns in enumerate(times):
        watch.put(f"{number}.png", number, time_ns)
    cutter = Cutter(WindowSpec(LINES, LINES), NEED)

    windows = [part for frame in watch.look(2) for part in cutter.cut(frame)]

    shades = [np.unique(part.samples).tolist() for part in windows]
    assert shades == [[number] for number in range(len(times))]
    lost = sum(max(0, round(step / PERIOD_NS) - 1) for step in steps_ns)
    assert watch.source.health().lost_samples == lost * LINES


def test_close_wakes_a_read_that_waits(tmp_path: Path) -> None:
    """However long it is to the next look."""
    source = IncomingImagesSource(IncomingImagesConfig(path=tmp_path, poll_s=3600))
    source.open("s", NEED, 0)
    source.read(0.0)
    closing = threading.Timer(0.05, source.close)
    closing.start()

    assert source.read(60.0) is None
    closing.join()


def test_a_folder_that_is_gone_is_an_error_until_it_is_back(watch: Watch) -> None:
    """A disk may be unplugged; the index goes on."""
    watch.open()
    shutil.rmtree(watch.folder)
    watch.clock.advance(0.25)

    with pytest.raises(SourceError, match="No such file") as caught:
        watch.source.read(0.0)
    watch.source.close()
    with pytest.raises(SourceError):
        watch.open(8)
    watch.folder.mkdir()
    watch.open(8)
    watch.put("1.png", 1, START_NS)

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))
    assert watch.look(2)[0].index == 8
