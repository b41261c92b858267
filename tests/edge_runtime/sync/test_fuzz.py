"""No bytes from outside crash a decoder, hold it up, or make it take much memory."""

from __future__ import annotations

import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import WireError
from edge_runtime.sync.columns import MAX_DECODED_BYTES
from edge_runtime.sync.frames import decode_frame
from edge_runtime.sync.identity import messages as bodies
from edge_runtime.sync.messages import MAX_PAYLOAD_BYTES
from edge_runtime.sync.topics import Topics

VECTORS = sorted((Path(__file__).parents[2] / "vectors" / "frames").glob("*.bin"))
# A table of the largest size, the bytes it is made from, and what stands between them.
MEMORY_BYTES = 6 * MAX_DECODED_BYTES
# Far above what it takes, for an emulated board runs this too.
LONG_S = 120.0

NUMBERS = st.sampled_from(
    [-1, 0, 1, 2, 3, 4, 8, 255, 256, 65535, 65536, 2**24, 2**31, 2**53, 2**64]
)
ODD = st.one_of(
    NUMBERS, st.none(), st.text(max_size=4), st.binary(max_size=4), st.floats(), st.just([])
)
DTYPES = st.sampled_from(
    ["<f4", "<f8", "<f2", "|i1", "<i2", "<i8", "|u1", "<u8", "|b1", "<U1", "<U9999", "|O8", ">f4"]
)


def envelope(fields: dict[str, Any]) -> bytes:
    inner = msgspec.msgpack.encode(fields)
    return msgspec.msgpack.encode({"v": 1, "crc32": zlib.crc32(inner), "frame": msgspec.Raw(inner)})


@st.composite
def columns(draw: st.DrawFn) -> list[Any]:
    """Draw a description that is nearly right."""
    column = [
        draw(st.text(min_size=1, max_size=3)),
        draw(DTYPES),
        draw(st.lists(st.sampled_from([0, 1, 2, 64, 256, 65536, 2**24]), max_size=3)),
        draw(st.sampled_from(["integers", "decimals", "raw", "texts"])),
        draw(st.sampled_from([0, 1, 8, 100, 65536, 2**20, 2**24])),
        draw(st.integers(0, 2)),
        draw(st.integers(0, 6)),
        draw(st.sampled_from([0, 1, 2, 4, 8])),
    ]
    if draw(st.integers(0, 9)) == 0:
        column[draw(st.integers(0, 7))] = draw(ODD)
    return column


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Draw a frame with a good checksum whose parts may contradict each other."""
    described = draw(st.lists(columns(), max_size=3))
    sizes = [each[4] for each in described if isinstance(each[4], int)]
    size = min(max(sum(sizes), 0), 2**24) + draw(st.sampled_from([0, 0, 0, -1, 1]))
    fill = draw(st.sampled_from([b"\0", b"\xff", b"\x91", b"\xa1", b"\x7f"]))
    fields: dict[str, Any] = {
        "device": "pump",
        "stream": "main",
        "epoch": 1,
        "incarnation": 1,
        "seq0": 0,
        "n": draw(st.sampled_from([1, 2, 256, 65536, 65537, 2**24, 2**53])),
        "kind": draw(st.sampled_from(["estimate", "decision", "gap"])),
        "every": draw(st.sampled_from([1, 1, 2, 65536, 2**53])),
        "columns": described,
        "body": zlib.compress(fill * max(size, 0), 1),
    }
    if draw(st.integers(0, 9)) == 0:
        fields[draw(st.sampled_from(sorted(fields)))] = draw(ODD)
    return envelope(fields)


def measured(read: Callable[[bytes], object], payload: bytes) -> tuple[int, float]:
    """Return the memory and time that a reader took; only a `WireError` may come of it."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        read(payload)
    except WireError as error:
        assert error.what  # noqa: PT017 - both outcomes are fine
    finally:
        took_s = time.perf_counter() - began
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak, took_s


@settings(max_examples=150)
@given(frames())
def test_a_frame_that_contradicts_itself_costs_little(payload: bytes) -> None:
    """Whatever a frame announces, reading it takes bounded memory and time."""
    peak, took_s = measured(decode_frame, payload)

    assert peak <= MEMORY_BYTES
    assert took_s <= LONG_S


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_what_once_was_trouble_costs_little(path: Path) -> None:
    """Every frame of the collection is read or refused within the same bounds."""
    payload = path.read_bytes()

    peak, took_s = measured(decode_frame, payload)

    assert len(payload) <= MAX_PAYLOAD_BYTES
    assert peak <= MEMORY_BYTES
    assert took_s <= LONG_S


def test_the_collection_is_there() -> None:
    """The test above has something to read."""
    assert len(VECTORS) >= 8


@given(st.binary(max_size=400) | st.text(max_size=100).map(str.encode))
def test_any_body_is_one_or_a_wire_error(body: bytes) -> None:
    """Enrolment reads requests from anybody."""
    for kind in (bodies.EnrollRequest, bodies.RenewRequest, bodies.Issued, bodies.Authority):
        try:
            bodies.decode_body(body, kind)
        except WireError as error:
            assert error.where == kind.__name__  # noqa: PT017 - both outcomes are fine


@pytest.mark.parametrize("body", [b"[" * 16_000, b'{"request":' + b"[" * 16_000, bytes(20_000)])
def test_nested_and_large_bodies_are_refused(body: bytes) -> None:
    """Depth and size are limited before anything is made of a body."""
    with pytest.raises(WireError):
        bodies.decode_body(body, bodies.RenewRequest)


LEVELS = st.text(max_size=6) | st.sampled_from(
    ["er", "1", "d", "up", "dn", "all", "tel", "pump", "+", "#", "", "..", "\0", "%2e%2e", "$share"]
)


@given(st.lists(LEVELS, max_size=9).map("/".join) | st.text(max_size=700))
def test_a_topic_is_of_the_tree_or_a_wire_error(topic: str) -> None:
    """Names that come out of a topic may stand in a path; nothing else comes out."""
    try:
        address = Topics().parse(topic)
    except WireError as error:
        assert error.what  # noqa: PT017 - both outcomes are fine
        return
    for name in filter(None, (address.device, address.leaf, address.name)):
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
