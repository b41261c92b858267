"""Tensors survive JSON and bytes; what does not fit is told."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from edge_runtime.errors import RequestError
from edge_runtime.modes.realtime.tensors import (
    DATATYPES,
    datatype_of,
    from_bytes,
    from_json,
    to_bytes,
    to_json,
)

ARRAYS = st.sampled_from(list(DATATYPES.values())).flatmap(
    lambda dtype: nps.arrays(
        dtype,
        nps.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5),
        elements={"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else None,
    )
)


@given(ARRAYS)
def test_bytes_round_trip(array: np.ndarray) -> None:
    """What goes out as bytes comes in equal, byte for byte."""
    datatype = datatype_of(array.dtype)

    again = from_bytes(to_bytes(array), datatype, array.shape, "here")

    assert again.dtype == array.dtype
    assert again.tobytes() == array.tobytes()


@given(ARRAYS, st.booleans())
def test_json_round_trips(array: np.ndarray, is_nested: bool) -> None:
    """Numbers in JSON, flat or nested, are the same numbers; -0.0 keeps its sign."""
    data = array.tolist() if is_nested else to_json(array)
    raw = msgspec.Raw(msgspec.json.encode(data))

    again = from_json(raw, datatype_of(array.dtype), array.shape, "here")

    assert again.tobytes() == array.tobytes()


def test_text_goes_out_with_its_length() -> None:
    """An element of ``BYTES`` is four bytes of length and UTF-8."""
    array = np.array(["a", "é"])

    assert (datatype_of(array.dtype), to_json(array)) == ("BYTES", ["a", "é"])
    assert to_bytes(array) == b"\x01\0\0\0a\x02\0\0\0\xc3\xa9"


def test_a_missing_number_is_nan() -> None:
    """JSON has no NaN: null stands for it."""
    array = from_json(msgspec.Raw(b"[1, null]"), "FP32", [2], "here")

    assert array[0] == 1 and math.isnan(array[1])


# Every number of JSON fits the two that are left out.
@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("BOOL", "FP64")])
def test_what_is_out_of_range_is_told(datatype: str) -> None:
    """Nothing wraps and nothing becomes infinite."""
    for value in (1e300, -1e300) if datatype.startswith("FP") else (2**64, -(2**63) - 1):
        raw = msgspec.Raw(msgspec.json.encode([value]))

        with pytest.raises(RequestError) as error:
            from_json(raw, datatype, [1], "input 'x'")

        assert error.value.kind == "invalid"


@pytest.mark.parametrize(
    ("data", "datatype", "told"),
    [
        (b"[1, 0.5]", "INT8", "data has 0.5; expected whole numbers for INT8"),
        (b'[[1, "warm"]]', "FP32", 'data has "warm"; expected numbers for FP32'),
        (b"[true, null]", "BOOL", "data has null; expected true or false for BOOL"),
        (b"[[1, 2], 3]", "FP32", "lists of one depth"),
    ],
)
def test_an_element_of_another_kind_is_named(data: bytes, datatype: str, told: str) -> None:
    """The message has the element and the datatype, not just that something is wrong."""
    with pytest.raises(RequestError) as error:
        from_json(msgspec.Raw(data), datatype, [2], "input 'x'")

    assert told in str(error.value)


@given(
    st.sampled_from(list(DATATYPES)),
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists),
)
def test_any_json_is_an_array_or_an_error(datatype: str, data: Any) -> None:
    """Whatever a client sends as data, it is understood or refused, never a crash."""
    raw = msgspec.Raw(msgspec.json.encode(data))
    with contextlib.suppress(RequestError):
        assert from_json(raw, datatype, [1], "here").shape == (1,)


def test_bytes_of_another_length_are_told() -> None:
    """The message has both lengths."""
    with pytest.raises(RequestError, match=r"7.*expected 8 bytes for FP32"):
        from_bytes(b"1234567", "FP32", [2], "here")
