"""Events from columns and from files of intervals."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.thresholds.truth import Event, column_events, label_codes, read_events

LABELS = ("a", "b")
SECOND_NS = 1_000_000_000


@pytest.mark.parametrize(
    ("cells", "labels", "names", "codes"),
    [
        (["a", "b", "", None, "other"], LABELS, {}, [0, 1, -1, -1, -1]),
        (["1", "2", "a"], LABELS, {"1": "b"}, [1, -1, 0]),
        (np.array([1.0, 0.0, np.nan]), ("a",), {}, [0, -1, -1]),
        (np.array([True, False]), ("a",), {}, [0, -1]),
        (np.array([3, 2]), LABELS, {"3": "a"}, [0, -1]),
    ],
)
def test_words_and_numbers_name_labels(
    cells: object, labels: tuple[str, ...], names: dict[str, str], codes: list[int]
) -> None:
    """A label names itself, 1 the only label; everything else needs a translation."""
    assert label_codes(cells, labels, names).tolist() == codes  # type: ignore[arg-type]


@given(st.lists(st.integers(-1, 1), max_size=40))
def test_runs_of_rows_become_events(codes: list[int]) -> None:
    """Every labelled row lies in one event of its label, and events name no other row."""
    times = np.arange(len(codes), dtype=np.int64) * 10

    events = column_events(np.array(codes, np.int64), times, LABELS)

    found = [-1] * len(codes)
    for event in events:
        for row in range(event.start_ns // 10, event.end_ns // 10 + 1):
            found[row] = LABELS.index(event.label)
    assert found == codes
    assert all(one < two for one, two in itertools.pairwise(events))


def test_intervals_are_read_by_recording_and_joined(tmp_path: Path) -> None:
    """Seconds from the start without a time format; what overlaps is one event."""
    path = tmp_path / "events.csv"
    path.write_text(
        "recording,start,end,label\n"
        "one.csv,1.5,2,a\none.csv,1.75,3,a\none.csv,2,2.5,b\ntwo.csv,0,1,word\ntwo.csv,0,1,c\n"
    )

    found = read_events(path, LABELS, {"word": "b"}, None)

    assert found == {
        "one.csv": (
            Event(SECOND_NS * 3 // 2, 3 * SECOND_NS, "a"),
            Event(2 * SECOND_NS, SECOND_NS * 5 // 2, "b"),
        ),
        "two.csv": (Event(0, SECOND_NS, "b"),),
    }


def test_intervals_may_be_instants(tmp_path: Path) -> None:
    """As the recordings write theirs."""
    path = tmp_path / "events.csv"
    path.write_text("start,end,label\n1970-01-01T00:00:01Z,1970-01-01T00:00:02+00:00,a\n")

    found = read_events(path, LABELS, {}, "iso")

    assert found == {None: (Event(SECOND_NS, 2 * SECOND_NS, "a"),)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start,end\n0,1\n", ":1: the column 'label' is missing"),
        ("", ":1: the column 'start' is missing"),
        ("start,end,label\n0,1,a\n2,1,a\n", ":3: the event from '2' to '1' .*ends before"),
        ("start,end,label\n0,x,a\n", ":2: the event from '0' to 'x'"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    """File and line, what is there, and what was expected."""
    path = tmp_path / "events.csv"
    path.write_text(text)

    with pytest.raises(ConfigError, match=message):
        read_events(path, LABELS, {}, None)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """It is a mistake of the command line."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_events(tmp_path / "none.csv", LABELS, {}, None)
