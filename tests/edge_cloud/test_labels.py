"""Labels: known when they were known, kept once, and bad files set aside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_cloud.labels import Label, Labels, latest_known, read_labels
from edge_cloud.store import Store
from edge_runtime.errors import ConfigError

from .conftest import HOUR_NS, T0_NS, frame_of

HEADER = "device,stream,time_ns,value,known_at_ns\n"


@pytest.fixture
def labels(store: Store) -> Labels:
    return Labels(store)


def label(hour: int, value: float, *, known: int) -> Label:
    return Label("pump-1", "main", T0_NS + hour * HOUR_NS, value, T0_NS + known * HOUR_NS)


def test_adding_labels_again_changes_nothing(labels: Labels) -> None:
    """A label is its device, stream, time and the instant it became known."""
    some = [label(hour, float(hour), known=hour + 24) for hour in range(5)]

    assert labels.add(some) == 5
    assert labels.add(some) == 0
    assert labels.count() == 5


def test_a_label_does_not_exist_before_it_is_known(labels: Labels) -> None:
    """The instant itself counts as known; one nanosecond before does not."""
    labels.add([label(0, 7.0, known=24)])

    before, _ = labels.as_of("pump-1", "main", T0_NS + 24 * HOUR_NS - 1)
    at, values = labels.as_of("pump-1", "main", T0_NS + 24 * HOUR_NS)

    assert len(before) == 0
    assert (at.tolist(), values.tolist()) == ([T0_NS], [7.0])


def test_the_newest_version_that_is_known_counts(labels: Labels) -> None:
    """A correction replaces a label from the instant on at which it became known."""
    labels.add([label(0, 1.0, known=10), label(0, 2.0, known=20)])

    values = [labels.as_of("pump-1", "main", T0_NS + h * HOUR_NS)[1].tolist() for h in (10, 20)]

    assert values == [[1.0], [2.0]]


@settings(max_examples=40)
@given(
    rows=st.dictionaries(
        st.tuples(st.integers(0, 6), st.integers(0, 12)), st.integers(0, 99), max_size=20
    ),
    now=st.integers(0, 12),
)
def test_what_becomes_known_later_never_changes_an_earlier_join(
    rows: dict[tuple[int, int], int], now: int
) -> None:
    """Removing every label known later than ``now`` leaves the join as of ``now`` as it is."""
    ordered = np.array([(*key, rows[key]) for key in sorted(rows)], np.int64).reshape(-1, 3)
    past = ordered[ordered[:, 1] <= now]

    everything = latest_known(*ordered.T, now)
    past_only = latest_known(*past.T, now)

    for left, right in zip(everything, past_only, strict=True):
        np.testing.assert_array_equal(left, right)
    assert len(set(everything[0].tolist())) == len(everything[0])


def test_labels_for_unknown_rows_are_kept_and_counted(store: Store, labels: Labels) -> None:
    """Their rows may still come; until then they are reported."""
    store.ingest([frame_of(0, 10)])
    labels.add([label(hour, 1.0, known=hour) for hour in (5, 12, 13)])
    labels.add([Label("nobody", "main", T0_NS, 1.0, T0_NS)])

    assert labels.without_row() == {"nobody/main": 1, "pump-1/main": 2}
    store.ingest([frame_of(10, 10)])
    assert labels.without_row() == {"nobody/main": 1}
    assert labels.count() == 4


def test_csv_takes_nanoseconds_or_iso_times(tmp_path: Path) -> None:
    """Both spellings of an instant mean the same."""
    exact, iso = tmp_path / "exact.csv", tmp_path / "iso.csv"
    exact.write_text(f"{HEADER}pump-1,main,{T0_NS},82.5,{T0_NS + 24 * HOUR_NS}\n")
    iso.write_text(
        "device,stream,time,value,known_at\n"
        "pump-1,main,2013-01-01T01:00:00+01:00,82.5,2013-01-02T00:00:00\n"
    )

    assert read_labels(exact) == read_labels(iso) == [label(0, 82.5, known=24)]


def test_a_label_may_be_a_name(tmp_path: Path) -> None:
    """A classifier's label is text."""
    path = tmp_path / "names.csv"
    path.write_text(f"{HEADER}fan-1,main,5,unbalanced,6\n")

    assert read_labels(path)[0].value == "unbalanced"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("pump-1,main,5,nan,6", "value"),
        ("pump-1,main,soon,1,6", "soon"),
        ("Pump 1,main,5,1,6", "device"),
        ("pump-1,main,5,1", "cells"),
        ("pump-1,main,5,1,6,7", "cells"),
        (f"pump-1,main,{2**70},1,6", "time"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_imported(
    labels: Labels, tmp_path: Path, line: str, why: str
) -> None:
    """The message says which line, and the good lines before it are not kept."""
    path = tmp_path / "labels.csv"
    path.write_text(f"{HEADER}pump-1,main,1,1,2\n{line}\n")

    with pytest.raises(ConfigError, match=r"labels\.csv:3") as caught:
        labels.import_file(path)

    assert why in str(caught.value)
    assert labels.count() == 0


@pytest.mark.parametrize("header", ["", "device,stream,value\n", HEADER.replace("stream", "strm")])
def test_a_wrong_header_is_refused(tmp_path: Path, header: str) -> None:
    """A file whose columns are not labels says what the header must be."""
    path = tmp_path / "labels.csv"
    path.write_text(header)

    with pytest.raises(ConfigError, match="known_at_ns"):
        read_labels(path)


def test_the_inbox_is_taken_in_order_and_bad_files_are_set_aside(
    store: Store, labels: Labels
) -> None:
    """Good files end in labels-done, bad ones in poison with their reason, and are counted."""
    (labels.inbox / "b.csv").write_text(f"{HEADER}pump-1,main,1,2,3\n")
    (labels.inbox / "a.csv").write_text(f"{HEADER}pump-1,main,1,1,3\n")
    (labels.inbox / "bad.csv").write_text("nonsense\n")
    (labels.inbox / "half.csv.part").write_text("still being written")

    added = labels.scan_inbox()

    assert added == 1
    assert labels.as_of("pump-1", "main", 3)[1].tolist() == [1.0]
    assert {path.name for path in (store.folder / "labels-done").iterdir()} == {"a.csv", "b.csv"}
    assert "header" in (store.folder / "poison" / "bad.csv.why").read_text()
    assert [path.name for path in labels.inbox.iterdir()] == ["half.csv.part"]
    assert store.counters()["label_files_refused_total"] == {"unreadable": 1}
