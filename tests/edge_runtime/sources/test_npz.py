"""NumPy archives are delivered in their own dtype, and never unpickled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, EdgeError, SourceError
from edge_runtime.sources import Recording
from edge_runtime.sources.instants import to_instants
from edge_runtime.spec import StreamSpec

START_NS = 1_356_998_400_000_000_000
Make = Callable[..., Recording]


def _save(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


def test_arrays_become_channels_in_their_dtype(
    tmp_path: Path, make: Make, need: StreamSpec
) -> None:
    """Integers stay integers."""
    _save(tmp_path / "a.npz", y=np.arange(3, dtype=np.int16), x=np.ones(3, np.int16))
    source = make("npz", "a.npz")

    source.open("s", need, 1)
    frame = source.read(0)

    assert frame is not None
    assert frame.index == 1
    assert frame.samples.dtype == np.int16
    assert frame.samples.tolist() == [[1, 1], [1, 2]]


@pytest.mark.parametrize("columns", [None, {"x": 2, "y": 0}])
def test_one_array_may_hold_all_channels(
    tmp_path: Path, make: Make, need: StreamSpec, columns: dict[str, int] | None
) -> None:
    """Places follow the model's order, or the mapping."""
    _save(tmp_path / "a.npz", acc=np.array([[1.0, 2.0, 3.0]]))
    source = make("npz", "a.npz", array="acc", columns=columns)

    source.open("s", need, 0)
    frame = source.read(0)

    assert frame is not None
    assert frame.samples.tolist() == ([[3, 1]] if columns else [[1, 2]])


@pytest.mark.parametrize("columns", [None, {"x": 1, "y": 0}])
def test_however_an_array_lies_in_the_file_rows_are_contiguous(
    tmp_path: Path, make: Make, need: StreamSpec, columns: dict[str, int] | None
) -> None:
    """Order of axes and of bytes are the file's affair."""
    array = np.asfortranarray(np.arange(6, dtype=">i4").reshape(3, 2))
    _save(tmp_path / "a.npz", acc=array)
    source = make("npz", "a.npz", array="acc", columns=columns)

    source.open("s", need, 0)
    frame = source.read(0)

    assert frame is not None
    assert frame.samples.flags.c_contiguous
    assert frame.samples.dtype == np.dtype("=i4")
    assert frame.samples.tolist() == (array[:, ::-1] if columns else array).tolist()


@pytest.mark.parametrize(("dtype", "unit_ns"), [("i8", 1), ("u8", 1), ("i4", 10**9), ("u4", 10**9)])
def test_whole_numbers_become_exact_instants(dtype: str, unit_ns: int) -> None:
    """A float64 would lose hundreds of nanoseconds of today's date."""
    numbers = np.array([START_NS + 1, START_NS + 3] if unit_ns == 1 else [1_356_998_400], dtype)

    instants = to_instants(numbers, "unix_ns" if unit_ns == 1 else "unix_s")

    assert instants.dtype == np.int64
    assert instants.tolist() == [int(number) * unit_ns for number in numbers]


@pytest.mark.parametrize("number", [-(2**63), 2**62])
def test_whole_numbers_out_of_range_are_refused(number: int) -> None:
    """Nothing wraps around."""
    with pytest.raises(ValueError, match="out of range"):
        to_instants(np.array([0, number]), "unix_s")


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (np.array([0, 500_000_000], "datetime64[ns]") + START_NS, "iso"),
        (np.array([START_NS, START_NS + 500_000_000]), "unix_ns"),
        (np.array([1_356_998_400, 1_356_998_400.5]), "unix_s"),
        (np.array([1_356_998_400_000, 1_356_998_400_500]), "unix_ms"),
        (np.array(["2013-01-01T00:00:00Z", "2013-01-01T00:00:00.5"]), "iso"),
    ],
)
def test_times_come_from_an_array(
    tmp_path: Path, make: Make, need: StreamSpec, column: np.ndarray, kind: str
) -> None:
    """Instants, numbers and text are understood."""
    _save(tmp_path / "a.npz", x=np.zeros(2), y=np.zeros(2), t=column)
    source = make("npz", "a.npz", time={"column": "t", "format": kind})

    source.open("s", need, 0)
    frame = source.read(0)

    assert frame is not None
    assert (frame.time_ns - START_NS).tolist() == [0, 500_000_000]


ZEROS = np.zeros(3)
BAD: list[tuple[dict[str, Any], dict[str, Any], type[EdgeError], str]] = [
    ({"x": ZEROS}, {}, ConfigError, "no column 'y'"),
    ({"x": ZEROS, "y": np.zeros(2)}, {}, SourceError, r"column 'y' is float64 of shape \(2,\)"),
    ({"x": ZEROS, "y": np.zeros((3, 1))}, {}, SourceError, r"shape \(3, 1\)"),
    ({"x": ZEROS, "y": ZEROS.astype("U1")}, {}, SourceError, "column 'y' is <U1"),
    ({"x": ZEROS, "y": ZEROS.astype(complex)}, {}, SourceError, "column 'y' is complex128"),
    ({"x": ZEROS, "y": ZEROS.astype(object)}, {}, SourceError, "cannot be read"),
    ({"x": ZEROS[:0], "y": ZEROS[:0]}, {}, SourceError, "ends after 0 rows"),
    ({"x": ZEROS, "y": ZEROS, "k": ZEROS[:2]}, {"key": "k"}, SourceError, "the device of each row"),
    ({"a": ZEROS}, {"array": "a"}, SourceError, r"array 'a' has shape \(3,\)"),
    ({"a": np.zeros((3, 1))}, {"array": "a"}, ConfigError, "no column 1"),
    ({"x": ZEROS, "y": ZEROS}, {"time": {"column": "t"}}, ConfigError, "no column 't'"),
    ({"x": ZEROS, "y": ZEROS}, {"time": {"column": "x"}}, SourceError, "no time in format iso"),
    (
        {"x": ZEROS, "y": ZEROS, "t": np.array([1.0, np.nan, 2.0])},
        {"time": {"column": "t", "format": "unix_s"}},
        SourceError,
        "missing or out of range",
    ),
    (
        {"x": ZEROS, "y": ZEROS, "t": np.array(["NaT"] * 3, "datetime64[ns]")},
        {"time": {"column": "t"}},
        SourceError,
        "a time is missing",
    ),
    (
        {"x": ZEROS, "y": ZEROS, "t": np.zeros(2)},
        {"time": {"column": "t", "format": "unix_s"}},
        SourceError,
        r"it has shape \(2,\)",
    ),
]


@pytest.mark.parametrize(("arrays", "options", "kind", "message"), BAD)
def test_arrays_that_do_not_fit_are_named(
    tmp_path: Path,
    make: Make,
    need: StreamSpec,
    arrays: dict[str, Any],
    options: dict[str, Any],
    kind: type[EdgeError],
    message: str,
) -> None:
    """Each is an error with four parts."""
    _save(tmp_path / "a.npz", **arrays)

    with pytest.raises(kind, match=message) as caught:
        make("npz", "a.npz", **options).open("s", need, 0)

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


def test_truncated_archive_is_refused_at_any_length(
    tmp_path: Path, make: Make, need: StreamSpec
) -> None:
    """However an archive is cut, it is a SourceError."""
    _save(tmp_path / "whole.npz", x=np.zeros(3), y=np.zeros(3))
    content = (tmp_path / "whole.npz").read_bytes()

    for length in range(0, len(content), 37):
        (tmp_path / "a.npz").write_bytes(content[:length])
        with pytest.raises(SourceError, match="cannot be read"):
            make("npz", "a.npz").open("s", need, 0)


def test_single_array_is_no_archive(tmp_path: Path, make: Make, need: StreamSpec) -> None:
    """An .npy file has no named channels."""
    np.save(tmp_path / "a.npy", np.zeros(3))

    with pytest.raises(SourceError, match="single array"):
        make("npz", "a.npy").open("s", need, 0)


def test_an_array_may_name_the_device_of_each_row(
    tmp_path: Path, make: Make, need: StreamSpec
) -> None:
    """Of text; the empty one names none."""
    _save(tmp_path / "a.npz", x=np.zeros(3), y=np.zeros(3), site=np.array(["a", "", "b"]))
    source = make("npz", "a.npz", key="site")

    source.open("s", need, 0)
    frame = source.read(0)

    assert frame is not None
    assert frame.keys is not None
    assert frame.keys.tolist() == ["a", None, "b"]
