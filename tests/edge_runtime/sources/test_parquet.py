"""Parquet files: nulls become NaN, timestamps become nanoseconds."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_runtime.errors import ConfigError, MissingExtra, SourceError
from edge_runtime.sources import Recording
from edge_runtime.spec import StreamSpec

START_NS = 1_356_998_400_000_000_000
Make = Callable[..., Recording]


def _save(path: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), path)


def test_columns_become_channels(tmp_path: Path, make: Make, need: StreamSpec) -> None:
    """Nulls are missing samples."""
    _save(tmp_path / "a.parquet", y=[1.5, None], z=["a", "b"], x=[1, 2])
    source = make("parquet", "a.parquet")

    source.open("s", need, 0)
    frame = source.read(0)

    assert frame is not None
    np.testing.assert_array_equal(frame.samples, [[1, 1.5], [2, np.nan]])


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_speak_for_themselves(
    tmp_path: Path, make: Make, need: StreamSpec, unit: str
) -> None:
    """Whatever the unit, times are nanoseconds UTC."""
    times = pa.array([1, 2], pa.int64()).cast(pa.timestamp(unit, "UTC"))
    _save(tmp_path / "a.parquet", x=[1.0, 2.0], y=[1.0, 2.0], t=times)
    source = make("parquet", "a.parquet", time={"column": "t"})
    factor = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit]

    source.open("s", need, 0)
    frame = source.read(0)

    assert frame is not None
    assert frame.time_ns.tolist() == [factor, 2 * factor]


def test_times_as_text_are_read(tmp_path: Path, make: Make, need: StreamSpec) -> None:
    """ISO text in a column is understood."""
    _save(tmp_path / "a.parquet", x=[1.0], y=[1.0], t=["2013-01-01T00:00:00Z"])
    source = make("parquet", "a.parquet", time={"column": "t"})

    source.open("s", need, 0)
    frame = source.read(0)

    assert frame is not None
    assert frame.time_ns.tolist() == [START_NS]


def test_text_is_no_channel(tmp_path: Path, make: Make, need: StreamSpec) -> None:
    """A column of text cannot be sampled."""
    _save(tmp_path / "a.parquet", x=[1.0], y=["a"])

    with pytest.raises(SourceError, match=r"parquet: column 'y' is object"):
        make("parquet", "a.parquet").open("s", need, 0)


def test_missing_column_is_named(tmp_path: Path, make: Make, need: StreamSpec) -> None:
    """The columns that are there are listed."""
    _save(tmp_path / "a.parquet", x=[1.0], z=[1.0])

    with pytest.raises(ConfigError, match="no column 'y'; expected one of x, z"):
        make("parquet", "a.parquet").open("s", need, 0)


def test_unsound_files_are_refused(tmp_path: Path, make: Make, need: StreamSpec) -> None:
    """Missing, empty, truncated and foreign files are SourceErrors with four parts."""
    _save(tmp_path / "whole.parquet", x=[1.0] * 50, y=[2.0] * 50)
    whole = (tmp_path / "whole.parquet").read_bytes()
    for name, content in [("empty", b""), ("cut", whole[:-9]), ("text", b"x,y\n1,2\n")]:
        (tmp_path / name).write_bytes(content)

    for name in ("missing", "empty", "cut", "text", "."):
        with pytest.raises(SourceError, match="cannot be read") as caught:
            make("parquet", name).open("s", need, 0)
        assert all((caught.value.where, caught.value.expected, caught.value.remedy))


def test_missing_pyarrow_says_how_to_install_it(
    tmp_path: Path, make: Make, need: StreamSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base install can name the source, and says what opening it needs."""
    real_import = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real_import(name, *args, **options)

    source = make("parquet", "a.parquet")
    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(MissingExtra, match=r'pip install "edge-runtime\[cloud\]"'):
        source.open("s", need, 0)


def test_a_column_may_name_the_device_of_each_row(
    tmp_path: Path, make: Make, need: StreamSpec
) -> None:
    """Text or whole numbers, as they stand there; a null names none."""
    _save(tmp_path / "a.parquet", x=[1.0] * 3, y=[1.0] * 3, site=[7, None, 12])
    source = make("parquet", "a.parquet", key="site")

    source.open("s", need, 0)
    frame = source.read(0)

    assert frame is not None
    assert frame.keys is not None
    assert frame.keys.tolist() == ["7", None, "12"]
