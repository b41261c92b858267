"""CSV files: every cell arrives as it stands, or its place is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, EdgeError, SourceError
from edge_runtime.sources import Recording
from edge_runtime.spec import StreamSpec
from edge_runtime.testing import read_all

START_NS = 1_356_998_400_000_000_000
Make = Callable[..., Recording]


def _read(source: Recording, need: StreamSpec) -> tuple[np.ndarray, np.ndarray]:
    source.open("s", need, 0)
    frames = read_all(source)
    return (
        np.concatenate([frame.samples for frame in frames]),
        np.concatenate([frame.time_ns for frame in frames]),
    )


def test_columns_are_found_by_name_in_the_model_s_order(
    tmp_path: Path, make: Make, need: StreamSpec
) -> None:
    """The file's order and further columns do not matter."""
    (tmp_path / "a.csv").write_text("label,y,x\nok,2,1\nworn,4,3\n")

    samples, times = _read(make("csv", "a.csv"), need)

    np.testing.assert_array_equal(samples, [[1, 2], [3, 4]])
    assert samples.dtype == np.float64
    assert times.tolist() == [START_NS, START_NS + 100_000_000]


def test_columns_can_be_mapped_by_name_and_number(
    tmp_path: Path, make: Make, need: StreamSpec
) -> None:
    """A channel may have another name in the file."""
    (tmp_path / "a.csv").write_text("acc_x;q;acc_y\n1;0;2\n")
    source = make("csv", "a.csv", delimiter=";", columns={"x": "acc_x", "y": 2})

    np.testing.assert_array_equal(_read(source, need)[0], [[1, 2]])


def test_file_without_a_header_is_read_by_numbers(
    tmp_path: Path, make: Make, need: StreamSpec
) -> None:
    """Without a header the first line is row 0."""
    (tmp_path / "a.csv").write_text("1,2\n3,4")
    source = make("csv", "a.csv", has_header=False, columns={"x": 1, "y": 0})

    np.testing.assert_array_equal(_read(source, need)[0], [[2, 1], [4, 3]])


def test_a_column_may_name_the_device_of_each_row(
    tmp_path: Path, make: Make, need: StreamSpec
) -> None:
    """As it stands there; an empty cell names none, and no step is a device's own."""
    (tmp_path / "a.csv").write_text("x,y,site\n1,2,A 7\n3,4,\n5,6,A 7\n7,8,012\n")
    source = make("csv", "a.csv", key="site", block=3)
    source.open("s", need, 0)

    frames = read_all(source)

    keys = [frame.keys.tolist() for frame in frames if frame.keys is not None]
    assert keys == [["A 7", None, "A 7"], ["012"]]


def test_without_a_key_there_are_no_devices(tmp_path: Path, make: Make, need: StreamSpec) -> None:
    """A recording of one device says so by nothing."""
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    source = make("csv", "a.csv")
    source.open("s", need, 0)

    assert [frame.keys for frame in read_all(source)] == [None]


def test_a_key_that_is_no_column_is_named(tmp_path: Path, make: Make, need: StreamSpec) -> None:
    """With the columns that there are."""
    (tmp_path / "a.csv").write_text("x,y,site\n1,2,a\n")

    with pytest.raises(ConfigError, match="no column 'sites'"):
        make("csv", "a.csv", key="sites").open("s", need, 0)


def test_missing_cells_are_nan(tmp_path: Path, make: Make, need: StreamSpec) -> None:
    """Blank cells and NaN are delivered as NaN, for the pipeline to count."""
    (tmp_path / "a.csv").write_text("x,y\n,2\nNaN, \n1e-3,-inf\n")

    samples, _ = _read(make("csv", "a.csv"), need)

    np.testing.assert_array_equal(samples, [[np.nan, 2], [np.nan, np.nan], [1e-3, -np.inf]])


def test_empty_lines_are_no_rows(tmp_path: Path, make: Make, need: StreamSpec) -> None:
    """Rows count without the empty lines."""
    (tmp_path / "a.csv").write_text("\nx,y\n1,2\n\n\n3,4\n\n")

    np.testing.assert_array_equal(_read(make("csv", "a.csv"), need)[0], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("kind", "cells", "expected"),
    [
        ("iso", ["2013-01-01T00:00:00Z", "2013-01-01 01:00:00.5+01:00"], [0, 500_000_000]),
        ("unix_s", ["1356998400", "1356998400.000000001"], [0, 1]),
        ("unix_ms", ["1356998400000", "1356998400000.000001"], [0, 1]),
        ("unix_ns", ["1356998400000000000", "1356998399999999999"], [0, -1]),
    ],
)
def test_times_are_read_to_the_nanosecond(
    tmp_path: Path, make: Make, need: StreamSpec, kind: str, cells: list[str], expected: list[int]
) -> None:
    """Every format gives exact instants, also back in time."""
    rows = "".join(f"{cell},1,2\n" for cell in cells)
    (tmp_path / "a.csv").write_text(f"t,x,y\n{rows}")

    _, times = _read(make("csv", "a.csv", time={"column": "t", "format": kind}), need)

    assert (times - START_NS).tolist() == expected


def test_rows_out_of_order_are_delivered_as_they_are(
    tmp_path: Path, make: Make, need: StreamSpec
) -> None:
    """Order is the pipeline's matter: the source hides nothing."""
    (tmp_path / "a.csv").write_text("t,x,y\n30,1,1\n10,2,2\n20,3,3\n")

    samples, times = _read(make("csv", "a.csv", time={"column": "t", "format": "unix_s"}), need)

    assert samples[:, 0].tolist() == [1, 2, 3]
    assert (times // 10**9).tolist() == [30, 10, 20]


BAD_FILES = [
    ("", SourceError, "the file is empty"),
    ("\n\n", SourceError, "the file is empty"),
    ("x,y\n", SourceError, "ends after 0 rows"),
    ("x,z\n1,2\n", ConfigError, "no column 'y'.*expected one of x, z"),
    ("x,y\n1,2\n3,four\n", SourceError, r"a.csv:3:2: cell of column 'y' is 'four'"),
    ("x,y\n1,2\n\n3,1;5\n", SourceError, r"a.csv:4:2: .*'1;5'"),
    ("x,y\n1,2\n3\n", SourceError, r"a.csv:3: the row has 1 cells; expected 2"),
    ("x,y\n1,2\n3,4,5\n", SourceError, r"a.csv:3: the row has 3 cells"),
    ('x,y\n1,"2\n', SourceError, "unexpected end of data"),
    ("x;y\n1;2\n", ConfigError, "no column 'x'"),
    ("x,y\n1," + "9" * 200_000 + "\n", SourceError, "field larger than"),
    ("x,y\n1,\x00\n", SourceError, r"a.csv:2:2|line contains NUL"),
]


@pytest.mark.parametrize(("text", "kind", "message"), BAD_FILES)
def test_bad_files_are_named(
    tmp_path: Path,
    make: Make,
    need: StreamSpec,
    text: str,
    kind: type[EdgeError],
    message: str,
) -> None:
    """Each bad file is an error with four parts before a sample is delivered."""
    (tmp_path / "a.csv").write_text(text)

    with pytest.raises(kind, match=message) as caught:
        _read(make("csv", "a.csv"), need)

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


def test_quoted_line_breaks_keep_line_numbers_right(
    tmp_path: Path, make: Make, need: StreamSpec
) -> None:
    """The line that is named is the one an editor shows."""
    (tmp_path / "a.csv").write_text('x,y,note\n1,2,"two\nlines"\n3,bad,z\n')

    with pytest.raises(SourceError, match=r"a.csv:4:2"):
        _read(make("csv", "a.csv"), need)


@pytest.mark.parametrize("cell", ["", "soon", "2013-13-01T00:00:00Z", "5"])
def test_bad_times_are_named(tmp_path: Path, make: Make, need: StreamSpec, cell: str) -> None:
    """A row without a time cannot be placed."""
    (tmp_path / "a.csv").write_text(f"t,x,y\n2013-01-01T00:00:00Z,1,2\n{cell},3,4\n")

    with pytest.raises(SourceError, match=r"a.csv:3:1: cell of column 't' .*format iso"):
        _read(make("csv", "a.csv", time={"column": "t"}), need)


@pytest.mark.parametrize("content", [b"TFL3\xff\xfe\x80", b"\x80\x81"])
def test_file_that_is_no_text_is_refused(
    tmp_path: Path, make: Make, need: StreamSpec, content: bytes
) -> None:
    """A model in place of a recording is a SourceError."""
    (tmp_path / "a.csv").write_bytes(content)

    with pytest.raises(SourceError, match="cannot be read") as caught:
        _read(make("csv", "a.csv"), need)

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_path_that_is_no_file_is_refused(make: Make, need: StreamSpec, name: str) -> None:
    """A missing file and a folder get a sentence."""
    with pytest.raises(SourceError, match="cannot be read") as caught:
        _read(make("csv", name), need)

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


def test_reading_stops_at_the_last_row(tmp_path: Path, make: Make, need: StreamSpec) -> None:
    """What stands behind last_row is not even parsed."""
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\nbad,bad\n")

    assert len(_read(make("csv", "a.csv", last_row=2), need)[0]) == 2


@given(st.lists(st.tuples(*[st.floats(allow_nan=False)] * 2), min_size=1, max_size=30))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_survive_to_the_last_bit(
    tmp_path: Path, make: Make, need: StreamSpec, rows: list[tuple[float, float]]
) -> None:
    """Reading what repr wrote gives the same float64."""
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{x!r},{y!r}\n" for x, y in rows))

    assert _read(make("csv", "a.csv"), need)[0].tobytes() == np.array(rows).tobytes()
