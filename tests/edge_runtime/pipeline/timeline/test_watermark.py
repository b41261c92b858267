"""Which stamps move a stream's time, and which do not."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.pipeline.timeline.watermark import Watermark
from edge_runtime.ports import Timing

SECOND_NS = 10**9


def _watermark(**timing: object) -> Watermark:
    options = {"future_skew_s": 10.0, "confirm_rows": 3, **timing}
    return Watermark(Timing(**options), SECOND_NS)


def _seconds(*stamps: int) -> np.ndarray:
    return np.array(stamps, np.int64) * SECOND_NS


def test_the_watermark_follows_the_latest_stamp_at_a_distance() -> None:
    """Stamps that go back leave it where it is."""
    watermark = _watermark(delay_s=2.0, confirm_rows=1)

    admitted = watermark.admit(_seconds(5, 7, 6, 9))

    assert (admitted.watermark_ns // SECOND_NS).tolist() == [3, 5, 5, 7]
    assert admitted.believed.tolist() == [0, 1, 2, 3]


def test_a_stream_begins_with_stamps_that_agree() -> None:
    """A wild first stamp does not decide where it begins."""
    admitted = _watermark().admit(_seconds(10**6, 1, 2, 3))

    assert admitted.believed.tolist() == [1, 2, 3]
    assert admitted.future.tolist() == [0]


def test_a_stream_too_short_to_tell_is_believed_at_its_end() -> None:
    """Two samples are two samples."""
    watermark = _watermark()
    watermark.admit(_seconds(1, 2))

    assert watermark.believe_held() == 2
    assert watermark.at_ns == 2 * SECOND_NS


def test_time_that_passes_moves_it_and_never_back() -> None:
    """It is as if the newest stamp's clock had gone on."""
    watermark = _watermark(confirm_rows=1, delay_s=1.0)
    watermark.admit(_seconds(100))

    watermark.pass_time(5 * SECOND_NS)
    watermark.pass_time(3 * SECOND_NS)

    assert watermark.at_ns == 104 * SECOND_NS


@given(
    st.lists(st.integers(-(10**4), 10**4), max_size=40),
    st.lists(st.integers(0, 40), max_size=5),
    st.integers(1, 4),
)
def test_how_stamps_are_spread_does_not_matter(
    stamps: list[int], cuts: list[int], confirm: int
) -> None:
    """The same are believed, in the same order, with the same watermark after each."""
    whole, parted = _watermark(confirm_rows=confirm), _watermark(confirm_rows=confirm)
    time_ns = _seconds(*stamps)
    admitted = whole.admit(time_ns)
    believed: list[int] = []
    marks: list[int] = []

    for part in np.split(time_ns, sorted(cut for cut in cuts if cut < len(stamps))):
        stamped = np.concatenate((np.array(parted.state.held_ns, np.int64), part))
        some = parted.admit(stamped)
        believed += stamped[some.believed].tolist()
        marks += some.watermark_ns.tolist()

    assert believed == time_ns[admitted.believed].tolist()
    assert marks == admitted.watermark_ns.tolist()
    assert parted.state == whole.state


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-(10**9), 10**9)), max_size=60))
def test_one_wild_stamp_between_good_ones_is_never_believed(
    draws: list[tuple[int, int]],
) -> None:
    """Of stamps that stand alone none moves the stream, whatever it says."""
    good = list(range(1, 4))
    stamps, wild = list(good), []
    for step, offset in draws:
        if abs(offset) > 100:
            wild.append(len(stamps))
            stamps.append(good[-1] + abs(offset))
        good.append(good[-1] + step)
        stamps.append(good[-1])

    admitted = _watermark().admit(_seconds(*stamps))

    assert admitted.future.tolist() == wild
