"""Readers give the rows that stand in a file, from any row on, in one dtype."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.modes.batch import BatchJob
from edge_runtime.modes.batch.readers import Block, open_reader
from edge_runtime.spec import ChannelSpec, StreamSpec

NEED = StreamSpec((ChannelSpec("a"), ChannelSpec("b"), ChannelSpec("c")), 100.0)
SUFFIXES = (".csv", ".jsonl", ".npz", ".parquet")

Write = Callable[[Path, Any], Path]


def read(job: BatchJob, first: int = 0, rows: int = 64) -> list[Block]:
    """Read all blocks from row ``first`` on."""
    reader = open_reader(job, NEED)
    try:
        return list(reader.blocks(first, rows))
    finally:
        reader.close()


def joined(blocks: list[Block]) -> tuple[Any, Any, Any]:
    """Put samples, times and kept columns of all blocks together."""
    return (
        np.concatenate([np.empty((0, 3), np.float32), *(block.samples for block in blocks)]),
        [time for block in blocks for time in (block.time_ns if block.time_ns is not None else [])],
        {name: [x for b in blocks for x in b.kept[name]] for name in blocks[0].kept}
        if blocks
        else {},
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(first=st.integers(0, 300), rows=st.integers(1, 400))
def test_a_file_is_read_from_any_row_on(
    suffix: str,
    first: int,
    rows: int,
    make_rows: Any,
    write: Write,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Resuming at a row gives exactly the rows from there, whatever the size of blocks."""
    source = write(tmp_path_factory.mktemp("in") / f"in{suffix}", make_rows())
    job = BatchJob(
        input=source, output=Path("out.csv"), time="t", time_format="unix_ns", keep=("machine",)
    )

    everything, rest = joined(read(job)), joined(read(job, first, rows))

    assert everything[0].dtype == np.float32 and len(everything[0]) == 300
    np.testing.assert_array_equal(rest[0], everything[0][first:])
    assert rest[1] == everything[1][first:]
    if first < 300:
        assert rest[2]["machine"] == everything[2]["machine"][first:]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_share_behind_grows_to_all(
    suffix: str, make_rows: Any, write: Write, tmp_path: Path
) -> None:
    """Progress never goes back and ends at one."""
    job = BatchJob(input=write(tmp_path / f"in{suffix}", make_rows()), output=Path("out.csv"))

    shares = [block.share for block in read(job)]

    assert shares == sorted(shares) and shares[-1] == 1.0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_a_time_column_no_times_are_made_up(
    suffix: str, make_rows: Any, write: Write, tmp_path: Path
) -> None:
    """A block of rows without times has none."""
    job = BatchJob(input=write(tmp_path / f"in{suffix}", make_rows()), output=Path("out.csv"))

    assert {block.time_ns is None for block in read(job)} == {True}


def test_parquet_keeps_one_dtype_for_all_batches(tmp_path: Path) -> None:
    """Integers stay integers unless any row group lacks a value; then all are float32."""
    import pyarrow as pa
    from pyarrow import parquet

    found = []
    for name, last in (("whole", 9), ("holes", None)):
        values = pa.array([1, 2, 3, last], pa.int16())
        path = tmp_path / f"{name}.parquet"
        parquet.write_table(
            pa.table({"a": values, "b": values, "c": values}), path, row_group_size=2
        )
        blocks = read(BatchJob(input=path, output=Path("out.csv")), rows=2)
        found.append([block.samples.dtype.name for block in blocks])

    assert found == [["int16", "int16"], ["float32", "float32"]]


def test_parquet_keeps_instants_text_and_nulls(tmp_path: Path) -> None:
    """Instants are nanoseconds, a dictionary is its text, and null is None."""
    import pyarrow as pa
    from pyarrow import parquet

    noon = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
    table = pa.table(
        {
            **{name: pa.array([1.0, 2.0]) for name in "abc"},
            "when": pa.array([noon, None], pa.timestamp("ms", tz="UTC")),
            "line": pa.array(["x", None]).dictionary_encode(),
            "count": pa.array([7, None], pa.uint32()),
            "flag": pa.array([True, None]),
        }
    )
    path = tmp_path / "in.parquet"
    parquet.write_table(table, path)
    job = BatchJob(input=path, output=Path("out.csv"), keep=("when", "line", "count", "flag"))
    reader = open_reader(job, NEED)

    kept = {name: column.tolist() for name, column in next(reader.blocks(0, 9)).kept.items()}

    assert reader.kept == {"when": "int64", "line": "text", "count": "uint32", "flag": "bool"}
    assert kept == {
        "when": [1714564800000000000, None],
        "line": ["x", None],
        "count": [7, None],
        "flag": [True, None],
    }


def test_a_parquet_timestamp_is_a_time(tmp_path: Path) -> None:
    """A column of timestamps needs no format."""
    import pyarrow as pa
    from pyarrow import parquet

    times = pa.array([1_000, 2_000], pa.timestamp("ms"))
    path = tmp_path / "in.parquet"
    parquet.write_table(pa.table({"a": [1.0, 2], "b": [1.0, 2], "c": [1.0, 2], "t": times}), path)

    (block,) = read(BatchJob(input=path, output=Path("out.csv"), time="t"))

    assert block.time_ns is not None and block.time_ns.tolist() == [10**9, 2 * 10**9]


def test_json_members_left_out_are_missing_values(tmp_path: Path) -> None:
    """A member that other lines have may be absent or null; numbers too large are infinite."""
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"a": 1, "b": 2, "c": 3, "t": "2024-05-01T12:00:00Z", "note": {"x": [1]}}\n\n'
        '{"a": 4, "c": null, "t": "2024-05-01T12:00:01Z"}\n'
        '{"a": 1e300, "b": 2, "c": 3, "t": "2024-05-01T12:00:02", "note": "plain"}'
    )
    job = BatchJob(input=path, output=Path("out.csv"), time="t", keep=("note",))

    (block,) = read(job)

    np.testing.assert_array_equal(
        block.samples, np.array([[1, 2, 3], [4, np.nan, np.nan], [np.inf, 2, 3]], np.float32)
    )
    assert block.time_ns is not None and np.diff(block.time_ns).tolist() == [10**9, 10**9]
    assert block.kept["note"].tolist() == ['{"x":[1]}', None, "plain"]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("[1, 2, 3]", "Expected `object`"),
        ('{"a": true, "b": 1, "c": 2}', "Expected `float"),
        ('{"a": 1, "b": 1, "c"', "truncated"),
        ('{"a": "\udcff"}', "in.jsonl:2"),
        ("[" * 100_000, "in.jsonl:2"),
    ],
)
def test_a_line_that_is_no_row_is_named(line: str, match: str, tmp_path: Path) -> None:
    """File and line, what stands there, and what should."""
    path = tmp_path / "in.jsonl"
    text = '{"a": 1, "b": 2, "c": 3}\n' + line + "\n"
    path.write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(SourceError, match=match) as told:
        read(BatchJob(input=path, output=Path("out.csv")))

    assert told.value.where == f"{path}:2"


def test_tabs_part_cells_of_a_tsv(tmp_path: Path) -> None:
    """The suffix tells the delimiter."""
    path = tmp_path / "in.tsv"
    path.write_text("a\tb\tc\n1\t2\t3\n")

    (block,) = read(BatchJob(input=path, output=Path("out.csv")))

    assert block.samples.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("arrays", "keep", "match"),
    [
        ({"all": np.zeros((4, 3, 2))}, (), "shape \\(4, 3, 2\\)"),
        ({"all": np.zeros((4, 3)), "note": np.zeros((4, 2))}, ("note",), "Leave it out of --keep"),
        ({"other": np.zeros((4, 3))}, (), "no column 'all'"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    arrays: dict[str, np.ndarray], keep: tuple[str, ...], match: str, tmp_path: Path
) -> None:
    """Shape or name of an array, and what is expected."""
    path = tmp_path / "in.npz"
    np.savez(path, **arrays)

    with pytest.raises((SourceError, ConfigError), match=match):
        open_reader(BatchJob(input=path, output=Path("out.csv"), array="all", keep=keep), NEED)
