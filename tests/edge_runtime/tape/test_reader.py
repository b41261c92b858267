"""What is whole on a tape is used, wherever a crash or a power cut tore it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import SourceError
from edge_runtime.tape import Answers, Stretch, frames_of, open_tapes
from edge_runtime.tape.entries import MAGIC, scan

from .conftest import Record, taken  # isort: skip

COMMITS = 12


def _recorded(record: Record, tmp_path: Path) -> Path:
    recorder = record()
    for commit in range(COMMITS):
        recorder.write(taken(20 * commit))
    recorder.close()
    (path,) = (tmp_path / "rec" / "main").glob("*.tape")
    return path


def _samples(path: Path) -> list[float]:
    """Return every sample on a tape, in order."""
    (segment,) = open_tapes(path)["main"].segments
    stretches = (one for one in segment.entries() if isinstance(one, Stretch))
    frames = (frame for one in stretches for frame in frames_of(one))
    return [value for frame in frames for value in frame.samples.ravel().tolist()]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    share=st.floats(0, 1),
    tail=st.one_of(st.binary(max_size=40), st.integers(0, 5000).map(bytes)),
)
def test_cut_at_any_byte_the_whole_part_is_read(
    record: Record, tmp_path: Path, share: float, tail: bytes
) -> None:
    """A cut, and what a power cut may leave behind it, costs no entry before the cut."""
    path = tmp_path / "whole.tape"
    if not path.exists():
        _recorded(record, tmp_path).rename(path)
    content = path.read_bytes()
    ends = [place + 8 + len(body) for place, body in scan(content)]
    cut = round(len(MAGIC) + share * (len(content) - len(MAGIC)))
    torn = tmp_path / "torn.tape"
    torn.write_bytes(content[:cut] + tail)

    if sum(end <= cut for end in ends) < 2:
        with pytest.raises(SourceError, match="no tape"):
            open_tapes(torn)
        return
    (segment,) = open_tapes(torn)["main"].segments
    whole = len(list(segment.entries()))

    assert whole >= sum(end <= cut for end in ends)
    assert _samples(torn) == [float(one) for one in range(len(_samples(torn)))]
    assert segment.lost_bytes == cut + len(tail) - ends[whole - 1] or content[:cut] == content


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_never_read_as_data(
    record: Record, tmp_path: Path, share: float, bit: int
) -> None:
    """Whatever is damaged, what is read are samples that were recorded, in order."""
    path = tmp_path / "whole.tape"
    if not path.exists():
        _recorded(record, tmp_path).rename(path)
    content = bytearray(path.read_bytes())
    content[min(len(content) - 1, int(share * len(content)))] ^= 1 << bit
    damaged = tmp_path / "damaged.tape"
    damaged.write_bytes(content)

    try:
        found = _samples(damaged)
    except SourceError:
        found = []

    assert found == [float(one) for one in range(len(found))]


def test_answers_come_back_as_they_were_made(record: Record, tmp_path: Path) -> None:
    """The device's own results lie on the tape beside the frames."""
    path = _recorded(record, tmp_path)

    (segment,) = open_tapes(path)["main"].segments
    answers = [one for one in segment.entries() if isinstance(one, Answers)]

    assert answers == [taken(20 * commit).answers[0] for commit in range(COMMITS)]


def test_the_segment_with_a_sample_is_found(record: Record, tmp_path: Path) -> None:
    """Of two starts of a device, the right one, from the last segment that begins before."""
    for epoch in (1, 2):
        recorder = record(epoch=epoch, position=100 * epoch)
        recorder.write(taken(100 * epoch))
        recorder.close()

    tape = open_tapes(tmp_path / "rec")["main"]

    assert [one.position for one in tape.before(1, 110)] == [100]
    assert [one.position for one in tape.before(2, 210)] == [200]
    assert tape.before(2, 150) == ()
    assert tape.before(3, 300) == ()


@pytest.mark.parametrize("make", [lambda path: path / "nothing", lambda path: path])
def test_where_nothing_was_recorded_is_said(tmp_path: Path, make: object) -> None:
    """A folder without a tape, or that is not there, is an error that names it."""
    with pytest.raises(SourceError, match="--record"):
        open_tapes(make(tmp_path))  # type: ignore[operator]
