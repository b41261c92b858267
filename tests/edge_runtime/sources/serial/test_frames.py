"""Binary frames, whole and broken."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.sources.live import Health
from edge_runtime.sources.serial.checksums import CHECKSUMS
from edge_runtime.sources.serial.config import Binary, Checksum
from edge_runtime.sources.serial.frames import FrameDecoder, dtype_of

KINDS: tuple[Checksum, ...] = ("none", "sum8", "xor8", "crc16-modbus", "crc16-ccitt")
SHORTS = st.integers(-32768, 32767)
ROWS = st.lists(st.tuples(SHORTS, SHORTS), min_size=1, max_size=20)


def _sum(kind: Checksum, covered: bytes) -> bytes:
    """Return a checksum bit by bit, as its definition says."""
    if kind == "none":
        return b""
    if kind == "sum8":
        return bytes([sum(covered) % 256])
    crc = 0 if kind == "xor8" else 0xFFFF
    for byte in covered:
        if kind == "xor8":
            crc ^= byte
        elif kind == "crc16-modbus":
            crc ^= byte
            for _ in range(8):
                crc = (crc >> 1) ^ (0xA001 if crc & 1 else 0)
        else:
            crc ^= byte << 8
            for _ in range(8):
                crc = ((crc << 1) ^ (0x1021 if crc & 0x8000 else 0)) & 0xFFFF
    return crc.to_bytes(1 if kind == "xor8" else 2, "little")


def _config(kind: Checksum, covers: str = "numbers") -> Binary:
    return Binary(
        sync="AA55",
        layout="<Bhxh",
        fields=("", "x", "y"),
        checksum=kind,
        covers=covers,  # type: ignore[arg-type]
    )


def _frames(kind: Checksum, rows: Sequence[tuple[int, int]], covers: str = "numbers") -> bytes:
    frames = b""
    for x, y in rows:
        numbers = struct.pack("<Bhxh", 7, x, y)
        covered = numbers if covers == "numbers" else b"\xaa\x55" + numbers
        frames += b"\xaa\x55" + numbers + _sum(kind, covered)
    return frames


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("sum8", 0xDD), ("xor8", 0x31), ("crc16-modbus", 0x4B37), ("crc16-ccitt", 0x29B1)],
)
def test_checksums_give_the_published_values(kind: str, expected: int) -> None:
    """The check value of 123456789, in the catalogue of every CRC."""
    rows = np.frombuffer(b"123456789" * 2, np.uint8).reshape(2, 9)

    assert CHECKSUMS[kind].of(rows).tolist() == [expected, expected]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("covers", ["numbers", "frame"])
@settings(max_examples=15)
@given(rows=ROWS, cuts=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_any_chunking_gives_the_same_numbers(
    kind: Checksum, covers: str, rows: list[tuple[int, int]], cuts: list[int]
) -> None:
    """However bytes come in, every frame comes out once."""
    health = Health()
    decoder = FrameDecoder(_config(kind, covers), ("y", "x"), health)
    # Without a checksum, the next frame proves the one before.
    sent, found, first = _frames(kind, rows, covers) + b"\xaa\x55", [], 0

    while first < len(sent):
        for cut in cuts:
            found.append(decoder.push(sent[first : first + cut]))
            first += cut

    assert np.concatenate(found).tolist() == [[y, x] for x, y in rows]
    assert health.report().faults == {}


@pytest.mark.parametrize("kind", ["crc16-modbus", "crc16-ccitt"])
@given(rows=ROWS, place=st.integers(0, 10_000), flip=st.integers(1, 255), lost=st.booleans())
def test_a_byte_that_is_wrong_or_lost_costs_its_frame_alone(
    kind: Checksum, rows: list[tuple[int, int]], place: int, flip: int, lost: bool
) -> None:
    """No wrong number passes a CRC, the frames around it do, and it is counted."""
    sent = bytearray(_frames(kind, rows))
    place %= len(sent)
    if lost:
        del sent[place]
    else:
        sent[place] ^= flip
    health = Health()

    found = FrameDecoder(_config(kind), ("x", "y"), health).push(bytes(sent) + bytes(64))

    rest = iter([list(row) for row in rows])
    assert all(row in rest for row in found.tolist()), "in order, and none that was not sent"
    assert len(found) == len(rows) - 1
    assert sum(health.report().faults.values()) >= 1


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(noise=st.lists(st.binary(max_size=60), max_size=8))
def test_noise_never_stops_the_stream(kind: Checksum, noise: list[bytes]) -> None:
    """Whatever the bytes, nothing is raised, and frames afterwards are found."""
    decoder = FrameDecoder(_config(kind), ("x", "y"), Health())
    for piece in noise:
        decoder.push(piece)
    decoder.push(bytes(32))

    found = decoder.push(_frames(kind, [(1, -2)] * 4))

    assert found[-2:].tolist() == [[1, -2]] * min(2, len(found))
    assert len(found) >= 2
    assert len(decoder._rest) < 64


def test_wrong_checksums_and_noise_are_counted_apart() -> None:
    """The reason tells a disturbed line from a wrong baud rate."""
    health = Health()
    decoder = FrameDecoder(_config("sum8"), ("x", "y"), health)
    bad = bytearray(_frames("sum8", [(1, 2)]))
    bad[-1] ^= 1

    found = decoder.push(b"\x01\x02\x03" + _frames("sum8", [(5, 6)]) + bad + bytes(9))

    assert found.tolist() == [[5, 6]]
    assert health.report().faults["framing"] >= 1
    assert health.report().faults["checksum"] == 1


def test_without_a_checksum_a_shortened_frame_is_not_believed() -> None:
    """Its numbers would be shifted, though its sync bytes are right."""
    health = Health()
    decoder = FrameDecoder(_config("none"), ("x", "y"), health)
    frames = _frames("none", [(1, 2), (3, 4), (5, 6), (7, 8)])
    size = len(frames) // 4

    found = decoder.push(frames[: 2 * size - 1] + frames[2 * size :])

    assert found.tolist() == [[1, 2], [5, 6]]
    assert health.report().faults == {"framing": 1}


@given(
    st.sampled_from("<>"),
    st.lists(
        st.tuples(st.sampled_from(["", "0", "1", "3"]), st.sampled_from("bBhHiIlLqQefdx")),
        min_size=1,
        max_size=8,
    ),
    st.data(),
)
def test_layouts_mean_what_they_mean_in_struct(
    order: str, items: list[tuple[str, str]], data: st.DataObject
) -> None:
    """Sizes, places, repetitions and padding are those of the standard library."""
    layout = order + "".join(repeat + code for repeat, code in items)
    packed = data.draw(
        st.binary(min_size=struct.calcsize(layout), max_size=struct.calcsize(layout))
    )
    dtype = dtype_of(layout)

    assert dtype.itemsize == struct.calcsize(layout)
    if dtype.itemsize:
        found = np.frombuffer(packed, dtype)[0].item()
        np.testing.assert_array_equal(found, struct.unpack(layout, packed))


@pytest.mark.parametrize(
    ("layout", "message"),
    [("<hh", "2 numbers in 4 bytes"), ("<9999h", "9999 numbers"), ("<3", "<3")],
)
def test_a_layout_that_does_not_fit_its_fields_is_refused(layout: str, message: str) -> None:
    """Before a port is opened."""
    with pytest.raises(ConfigError, match=message):
        Binary(sync="aa", layout=layout, fields=("x",))
