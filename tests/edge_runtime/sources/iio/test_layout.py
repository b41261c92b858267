"""Types of elements, their place in a scan, and their values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.sources.iio.layout import Element, Layout, ScanType, parse_type, scan_dtype


@st.composite
def _types(draw: st.DrawFn) -> str:
    """Draw an integer type of the ABI."""
    storage = draw(st.sampled_from([8, 16, 32, 64]))
    shift = draw(st.integers(0, storage - 1))
    bits = draw(st.integers(1, storage - shift))
    order, sign = draw(st.sampled_from(["le", "be"])), draw(st.sampled_from("su"))
    repeat = draw(st.sampled_from(["", "X2", "X4"]))
    return f"{order}:{sign}{bits}/{storage}{repeat}>>{shift}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("le:s12/16>>4", ScanType("<i2", 12, 4)),
        ("be:u24/32>>8", ScanType(">u4", 24, 8)),
        ("le:s64/64>>0", ScanType("<i8", 64)),
        ("le:s32/32X4>>0", ScanType("<i4", 32, 0, 4)),
        ("le:f16/16X4>>0", ScanType("<f2", 16, 0, 4)),
        ("be:s8/8", ScanType(">i1", 8)),
    ],
)
def test_types_are_read_as_the_kernel_writes_them(text: str, expected: ScanType) -> None:
    """Byte order, sign, bits, storage, repetitions and shift come from one word."""
    assert parse_type(text, "in_x_type") == expected


@pytest.mark.parametrize(
    "text",
    ["", "s12/16", "le:s12/24>>0", "le:s17/16>>0", "le:s12/16>>5", "le:f24/32", "le:s16/16X3"],
)
def test_a_type_that_nothing_defines_is_refused(text: str) -> None:
    """The message shows the type and names the way out."""
    with pytest.raises(ConfigError, match=r"in_x_type: .*type .*\n.*capture: poll"):
        parse_type(text, "in_x_type")


def test_elements_are_aligned_to_their_own_length() -> None:
    """As in the kernel's documentation: padding before wide elements, and at the end."""
    kinds = {"a": "le:s16/16>>0", "b": "le:s32/32>>0", "c": "le:u8/8>>0", "t": "le:s64/64>>0"}

    layout = scan_dtype([(name, parse_type(kind, "")) for name, kind in kinds.items()])

    assert [layout.fields[name][1] for name in "abct"] == [0, 4, 8, 16]
    assert layout.itemsize == 24


def test_a_scan_ends_on_the_boundary_of_its_longest_element() -> None:
    """Three axes of 16 bits fill six bytes alone, and sixteen with a stamp."""
    axes = [(axis, ScanType("<i2", 16)) for axis in "xyz"]

    assert scan_dtype(axes).itemsize == 6
    assert scan_dtype([*axes, ("t", ScanType("<i8", 64))]).itemsize == 16


@given(_types(), st.data())
def test_every_value_survives_packing(text: str, data: st.DataObject) -> None:
    """Shift, sign and byte order are undone, whatever the spare bits hold."""
    kind = parse_type(text, "")
    is_signed = np.dtype(kind.dtype).kind == "i"
    low, high = (
        (-(1 << kind.bits - 1), (1 << kind.bits - 1) - 1)
        if is_signed
        else (0, (1 << kind.bits) - 1)
    )
    numbers = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=5))
    storage = np.dtype(kind.dtype).itemsize
    junk = data.draw(st.integers(0, (1 << 8 * storage) - 1))
    mask = ((1 << kind.bits) - 1) << kind.shift
    order = "little" if text.startswith("le") else "big"
    stored = b"".join(
        (((number << kind.shift) & mask) | (junk & ~mask)).to_bytes(storage, order)
        for number in numbers
    )

    raw = kind.raw(np.frombuffer(stored, kind.dtype))

    assert raw.tolist() == numbers


def test_values_are_raw_plus_offset_times_scale() -> None:
    """The ABI's formula, in float32."""
    kind = ScanType("<i2", 12)
    layout = Layout([Element("temp", 0, kind, 0.5, 30.0)], [("temp", kind)])

    values, saturated = layout.decode(np.array([([10],), ([-40],)], layout.dtype))

    assert values.dtype == np.float32
    assert values.tolist() == [[20.0], [-5.0]]
    assert not saturated.any()


@pytest.mark.parametrize(
    ("kind", "stored", "saturated"),
    [
        (ScanType("<i2", 13), [4095, -4096, 4094, -4095], [True, True, False, False]),
        (ScanType("<u2", 12), [4095, 0, 1], [True, False, False]),
        (ScanType("<f4", 32), [1e30], [False]),
    ],
)
def test_samples_at_the_end_of_the_range_are_found(
    kind: ScanType, stored: list[float], saturated: list[bool]
) -> None:
    """Both ends of a signed part, the upper end of an unsigned one, no end of a float."""
    layout = Layout([Element("x", 0, kind)], [("x", kind)])
    scans = np.array([([number],) for number in stored], layout.dtype)

    assert layout.decode(scans)[1].tolist() == saturated
