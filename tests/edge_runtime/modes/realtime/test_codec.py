"""Bodies decode to a request, or to an error that says why."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import RequestError
from edge_runtime.modes.realtime.codec import decode, encode
from edge_runtime.modes.realtime.request import Answer
from edge_runtime.modes.realtime.tensors import Tensor


def _body(*sizes: int, rest: bytes = b"", **more: object) -> tuple[bytes, int]:
    """Return a body of binary FP32 inputs, and the length of its header."""
    inputs = [
        {
            "name": f"x{number}",
            "shape": [size // 4],
            "datatype": "FP32",
            "parameters": {"binary_data_size": size},
        }
        for number, size in enumerate(sizes)
    ]
    header = json.dumps({"inputs": inputs, **more}).encode()
    return header + rest, len(header)


def test_binary_tensors_are_taken_in_order() -> None:
    """Each has the bytes behind those of the one before."""
    values = np.arange(3, dtype=np.float32)

    asked = decode(*_body(8, 4, rest=values.tobytes(), id="7"))

    assert asked.id == "7"
    assert asked.request.inputs["x0"].tolist() == [0, 1]
    assert asked.request.inputs["x1"].tolist() == [2]


@pytest.mark.parametrize(
    ("sizes", "rest", "words"),
    [((8,), b"1234", "binary_data_size is 4"), ((4,), b"12345678", "8 bytes follow")],
)
def test_bytes_that_are_missing_or_left_over_are_told(
    sizes: tuple[int, ...], rest: bytes, words: str
) -> None:
    """Half a tensor, or something behind the last one."""
    with pytest.raises(RequestError, match=words):
        decode(*_body(*sizes, rest=rest))


def test_a_header_longer_than_the_body_is_told() -> None:
    """The header's length cannot be beyond the body."""
    with pytest.raises(RequestError, match="at most the body's 2 bytes"):
        decode(b"{}", 3)


def test_outputs_are_bytes_where_the_client_wants_them() -> None:
    """For each output, else for the request, else JSON."""
    answer = Answer("m", "1", (Tensor("a", np.ones(1)), Tensor("b", np.ones(1))), effective_id="e")
    outputs = [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}]

    mixed, length = encode(
        answer, decode(*_body(outputs=outputs, parameters={"binary_data_output": True}))
    )
    plain, none = encode(answer, decode(*_body()))

    assert length is not None and none is None
    header = json.loads(mixed[:length])
    assert header["outputs"][0]["data"] == [1.0]
    assert header["outputs"][1]["parameters"] == {"binary_data_size": 8}
    assert mixed[length:] == np.ones(1).tobytes()
    assert [one["data"] for one in json.loads(plain)["outputs"]] == [[1.0], [1.0]]


def test_what_is_not_finite_is_null_in_json() -> None:
    """JSON stays JSON."""
    answer = Answer("m", "1", (Tensor("a", np.array([np.nan, np.inf])),), effective_id="e")

    body, _ = encode(answer, decode(*_body()))

    assert json.loads(body)["outputs"][0]["data"] == [None, None]


@given(st.binary(max_size=200), st.none() | st.integers(0, 200))
def test_any_bytes_are_a_request_or_an_error(body: bytes, length: int | None) -> None:
    """Nothing a client sends gets further than `RequestError`."""
    with pytest.raises(RequestError):
        decode(body, length)


@given(st.integers(0, 300), st.binary(min_size=1, max_size=3))
def test_a_damaged_request_is_a_request_or_an_error(place: int, damage: bytes) -> None:
    """Bytes that change in the middle of a sound body are no crash either."""
    body, length = _body(8, rest=b"12345678", parameters={"sequence_id": 3})
    damaged = body[:place] + damage + body[place + len(damage) :]

    with contextlib.suppress(RequestError):
        asked = decode(damaged, length)
        assert all(array.dtype.kind in "biuf" for array in asked.request.inputs.values())
