"""Frames lose no bit, stay small, and cannot be used as bombs."""

from __future__ import annotations

import hashlib
import tracemalloc
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.errors import WireError
from edge_runtime.sync.columns import Column, pack_column, unpack_column
from edge_runtime.sync.frames import (
    MAX_ROWS,
    RowFrame,
    decode_frame,
    decode_table,
    encode_frame,
    encode_table,
)
from edge_runtime.types import Table

DTYPES = st.sampled_from(
    ["<f4", "<f8", "<f2", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8", "|b1", "<U3"]
)


LONG_DICTIONARY = zlib.compress(bytes(9) + b"\xdd" + b"\xff" * 4)
NESTED_DICTIONARY = zlib.compress(bytes(9) + b"\x91" * (2**24 - 9))


def frame_of(table: Table, **fields: object) -> RowFrame:
    defaults = {"kind": "estimate", "n": len(table), "made_ns": 5, "seq0": 100}
    return RowFrame(
        device="pump", stream="main", epoch=3, incarnation=2**62, table=table, **defaults | fields
    )


def sensors(n: int) -> Table:
    """Return the 500 x 4 fixture: decimals from four sensors, and jittered times."""
    rng = np.random.default_rng(1)
    walk = {
        "temperature": np.round(21.5 + np.cumsum(rng.normal(0, 0.02, n)), 2),
        "pressure": np.round(1013.2 + np.cumsum(rng.normal(0, 0.1, n)), 1),
        "humidity": np.round(40 + np.cumsum(rng.normal(0, 0.1, n)), 1),
        "vibration": np.round(rng.normal(0, 1, n), 3).astype(np.float32),
    }
    time_ns = 1_700_000_000 * 10**9 + np.arange(n) * 10**7 + rng.integers(0, 10, n) * 1000
    return Table({"time_ns": time_ns, **walk})


def same(left: Table, right: Table) -> bool:
    """Whether two tables are the same, bit for bit."""
    return list(left.columns) == list(right.columns) and all(
        right.columns[name].tobytes() == column.tobytes()
        and right.columns[name].shape == column.shape
        and right.columns[name].dtype == column.dtype
        for name, column in left.columns.items()
    )


@st.composite
def tables(draw: st.DrawFn) -> Table:
    n = draw(st.integers(1, 12))
    names = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4, unique=True))
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)
    columns = {}
    for name in names:
        dtype = draw(DTYPES)
        shape = (n, *draw(st.lists(st.integers(0, 3), max_size=2)))
        elements = text if dtype == "<U3" else None
        columns[name.encode("utf-8", "replace").decode()] = draw(
            hnp.arrays(dtype, shape, elements=elements)
        )
    return Table(columns)


@settings(max_examples=150)
@given(tables())
def test_no_bit_is_lost(table: Table) -> None:
    """Any table of the allowed types comes back bit for bit: NaN payloads, -0.0, extremes."""
    assert same(table, decode_frame(encode_frame(frame_of(table))).table)
    assert same(table, decode_table(encode_table(table)))


@settings(max_examples=60)
@given(
    st.lists(st.decimals(-9999, 9999, places=3), min_size=1, max_size=40),
    st.sampled_from([np.float32, np.float64]),
)
def test_decimals_travel_as_integers(values: list[object], dtype: type) -> None:
    """Sensor values with few decimals are packed as integers and come back bit for bit."""
    array = np.array([float(str(value)) for value in values], dtype) + dtype(0)

    column, packed = pack_column("x", array)

    assert column.filter == "decimals"
    assert unpack_column(column, len(array), packed).tobytes() == array.tobytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0, 0.1 + 0.2, 1e300])
def test_a_value_that_is_no_short_decimal_travels_raw(value: float) -> None:
    """One such value makes the whole column fall back, and it survives."""
    array = np.array([1.5, value, 2.5])

    column, packed = pack_column("x", array)

    assert column.filter == "raw"
    assert unpack_column(column, 3, packed).tobytes() == array.tobytes()


def test_the_sensor_fixture_takes_at_most_eight_bytes_a_row() -> None:
    """500 rows of four decimal sensors and a time, header included."""
    payload = encode_frame(frame_of(sensors(500)))

    assert len(payload) / 500 <= 8.0


@settings(max_examples=60)
@given(tables())
def test_the_readable_form_is_the_same_frame(table: Table) -> None:
    """JSON decodes to the same rows; of a NaN it keeps no payload bits."""
    readable = Table(
        {
            name: np.where(np.isnan(column), column.dtype.type("nan"), column)
            if column.dtype.kind == "f"
            else column
            for name, column in table.columns.items()
        }
    )
    frame = frame_of(readable, kind="decision", clock="ntp")

    back = decode_frame(encode_frame(frame, json=True))

    assert same(readable, back.table)
    assert (back.kind, back.clock, back.seq0, back.n) == ("decision", "ntp", 100, len(table))


def test_the_bytes_of_columns_are_the_same_in_every_version() -> None:
    """Filters are chosen and applied as they always were; zlib's part is not ours to pin."""
    score = np.random.default_rng(2).random((500, 2))
    edges = np.array(["start", "end"] * 250)
    more = {"score": score, "edge": edges, "tier": np.full(500, "edge"), "none": edges == "no"}
    columns = sensors(500).columns | more

    packed = [pack_column(name, values) for name, values in columns.items()]

    described = {column.name: (column.filter, column.order, column.digits) for column, _ in packed}
    assert described == {
        "time_ns": ("integers", 2, 0),
        "temperature": ("decimals", 1, 2),
        "pressure": ("decimals", 1, 1),
        "humidity": ("decimals", 1, 1),
        "vibration": ("decimals", 0, 3),
        "score": ("raw", 0, 0),
        "edge": ("texts", 0, 0),
        "tier": ("texts", 0, 0),
        "none": ("integers", 0, 0),
    }
    assert (
        hashlib.sha256(b"".join(raw for _, raw in packed)).hexdigest()
        == "ed9733d737c5e7d6e7d0e9c10aa9345b30133ed1043e4a6f7deedca5f0ee7e39"
    )


def test_a_gap_says_how_many_rows_are_lost() -> None:
    """A gap has a count and a reason, and no columns; it may stand for any number of rows."""
    gap = frame_of(Table({}), kind="gap", n=10**9, reason="quota")

    for json in (False, True):
        back = decode_frame(encode_frame(gap, json=json))
        assert (back.kind, back.n, back.reason, len(back.table)) == ("gap", 10**9, "quota", 0)


@pytest.mark.parametrize(
    "frame",
    [
        frame_of(Table({}), n=0),
        frame_of(Table({"x": np.zeros(3)}), n=2),
        frame_of(Table({"x": np.zeros(1)}), kind="gap"),
        frame_of(Table({"x": np.zeros(MAX_ROWS + 1)})),
        frame_of(Table({"x": np.array([object()])})),
        frame_of(Table({"x": np.array(["\ud800"])})),
        frame_of(Table({"": np.zeros(1)})),
        frame_of(Table({str(i): np.zeros(1) for i in range(65)})),
        frame_of(Table({"x": np.zeros((1, 2, 2, 2, 2, 2))})),
        frame_of(Table({"x": np.random.default_rng(0).random(20_000)})),
    ],
    ids=[
        "empty", "miscounted", "gap-with-rows", "too-many-rows", "objects", "surrogate",
        "no-name", "too-many-columns", "too-many-axes", "too-large",
    ],
)  # fmt: skip
def test_what_breaks_a_limit_is_not_encoded(frame: RowFrame) -> None:
    """The sender learns of a limit before the cloud does."""
    with pytest.raises(WireError):
        encode_frame(frame)


@given(st.binary(max_size=600))
def test_any_bytes_are_a_frame_or_a_wire_error(payload: bytes) -> None:
    """Bytes from outside never fail in any other way."""
    for reader in (decode_frame, decode_table):
        try:
            reader(payload)
        except WireError as error:
            assert error.what  # noqa: PT017 - both outcomes are fine


def _enveloped(fields: object) -> bytes:
    inner = msgspec.msgpack.encode(fields)
    return msgspec.msgpack.encode({"v": 1, "crc32": zlib.crc32(inner), "frame": msgspec.Raw(inner)})


def _fields(payload: bytes) -> dict[str, object]:
    frame: dict[str, object] = msgspec.msgpack.decode(payload)["frame"]
    return frame


@settings(max_examples=300)
@given(st.data())
def test_a_mutated_frame_is_a_frame_or_a_wire_error(data: st.DataObject) -> None:
    """Wrong sizes, filters, types and bodies behind a valid checksum never fail otherwise."""
    table = Table(
        {"t": np.arange(5), "f": np.linspace(0, 1, 5), "s": np.array(["a", "bb", "a", "c", "a"])}
    )
    fields = _fields(encode_frame(frame_of(table)))
    body = bytearray(zlib.decompress(fields["body"]))
    columns = fields["columns"]
    for _ in range(data.draw(st.integers(1, 3))):
        column = columns[data.draw(st.integers(0, 2))]
        match data.draw(st.integers(0, 4)):
            case 0:
                position = data.draw(st.integers(1, len(column) - 1))
                column[position] = data.draw(
                    st.sampled_from(
                        ["<f4", "<i8", "|b1", "<U2", "<U9999", "raw", "texts", "integers",
                         "decimals", 0, 1, 2, 5, 8, 40, 2**24, 2**40, -1, [], [3], [0], [2**24] * 4]
                    )
                )  # fmt: skip
            case 1:
                fields["n"] = data.draw(st.sampled_from([0, 1, 4, 6, 65536, 65537, 2**40]))
            case 2 if body:
                body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
            case 3:
                body = body[: data.draw(st.integers(0, len(body)))]
            case _:
                fields["kind"] = data.draw(st.sampled_from(["gap", "decision", "x"]))
    fields["body"] = zlib.compress(bytes(body))

    try:
        decode_frame(_enveloped(fields))
    except WireError as error:
        assert error.what  # noqa: PT017 - both outcomes are fine


@given(st.data())
def test_a_damaged_frame_never_passes_its_checksum(data: st.DataObject) -> None:
    """A flipped bit is refused, or hit nothing of the rows."""
    table = sensors(20)
    payload = bytearray(encode_frame(frame_of(table)))
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    try:
        back = decode_frame(bytes(payload))
    except WireError:
        return
    assert same(table, back.table)


def _bomb(n: int, column: list[object], body: bytes) -> bytes:
    fields = _fields(encode_frame(frame_of(Table({"x": np.arange(1)}))))
    return _enveloped(fields | {"n": n, "columns": [column], "body": body})


@pytest.mark.parametrize(
    "payload",
    [
        _bomb(65536, ["x", "<f8", [], "raw", 2**19, 0, 0, 0], zlib.compress(bytes(80_000_000), 9)),
        _bomb(65536, ["x", "<U9999", [], "texts", 2**17, 0, 0, 1], zlib.compress(bytes(2**17))),
        _bomb(65536, ["x", "<f8", [2**24] * 4, "raw", 8, 0, 0, 0], zlib.compress(bytes(8))),
        _bomb(2**53, ["x", "<f8", [0], "raw", 0, 0, 0, 0], zlib.compress(b"")),
        _bomb(9, ["x", "<U1", [], "texts", 14, 0, 0, 1], LONG_DICTIONARY),
        _bomb(9, ["x", "<U1", [], "texts", 2**24, 0, 0, 1], NESTED_DICTIONARY),
    ],
    ids=["zlib", "wide-text", "many-axes", "many-rows", "long-dictionary", "nested-dictionary"],
)  # fmt: skip
def test_bombs_are_refused_within_bounds(payload: bytes) -> None:
    """A frame that unfolds beyond the limits is refused before memory is taken."""
    assert len(payload) <= 96 * 1024
    tracemalloc.start()

    with pytest.raises(WireError):
        decode_frame(payload)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 1024 * 1024


def test_another_version_is_refused() -> None:
    """A frame of protocol version 2 is not taken for one of version 1."""
    payload = msgspec.msgpack.encode({"v": 2, "crc32": 0, "frame": {}})

    with pytest.raises(WireError, match="Invalid enum value 2"):
        decode_frame(payload)


def test_column_descriptions_say_what_they_hold() -> None:
    """A description tells the size of what it describes."""
    column = Column(name="x", dtype="<f4", shape=(3, 2))

    assert (column.elements(10), column.decoded_bytes(10)) == (60, 240)
