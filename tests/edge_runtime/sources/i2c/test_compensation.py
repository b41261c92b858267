"""Physical values agree with worked examples and with the integer formulas."""

from __future__ import annotations

import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.sources.i2c.compensation import Calibration, compensate

# BMP280 data sheet BST-BMP280-DS001, section 3.12: temperature and pressure of both
# parts are compensated alike. The humidity values are those of a real part's kind.
EXAMPLE = Calibration(
    t1=27504, t2=26435, t3=-1000,
    p1=36477, p2=-10685, p3=3024, p4=2855, p5=140, p6=-7, p7=15500, p8=-14600, p9=6000,
    h1=75, h2=370, h3=0, h4=313, h5=50, h6=30,
)  # fmt: skip

calibrations = st.builds(
    lambda **changes: msgspec.structs.replace(EXAMPLE, **changes),
    t1=st.integers(26000, 29000),
    t2=st.integers(25000, 28000),
    t3=st.integers(-2000, 100),
    h1=st.integers(0, 255),
    h2=st.integers(300, 420),
    h3=st.integers(0, 20),
    h4=st.integers(250, 400),
    h5=st.integers(-50, 100),
    h6=st.integers(-128, 127),
)


def _values(calibration: Calibration, *counts: int) -> np.ndarray:
    return compensate(np.array([counts]), calibration)[0]


def test_the_worked_example_of_the_data_sheet_comes_out() -> None:
    """25.08 °C and 100653.27 Pa, as printed."""
    temperature, pressure, _ = _values(EXAMPLE, 519888, 415148, 0)

    assert temperature == pytest.approx(25.08, abs=0.005)
    assert pressure == pytest.approx(100653.27, abs=0.05)


@given(calibrations, st.integers(400_000, 620_000), st.integers(250_000, 600_000))
def test_temperature_and_pressure_agree_with_the_integer_formulas(
    calibration: Calibration, temperature: int, pressure: int
) -> None:
    """Section 4.2.3: the 32 and 64 bit integers of the data sheet give the same values."""
    fine = _fine(calibration, temperature)

    celsius, pascal, _ = _values(calibration, temperature, pressure, 0)

    assert celsius == pytest.approx((fine * 5 + 128 >> 8) / 100, abs=0.02)
    assert pascal == pytest.approx(_integer_pressure(calibration, pressure, fine), abs=2.0)


@given(calibrations, st.integers(400_000, 620_000), st.integers(15_000, 45_000))
def test_humidity_agrees_with_the_integer_formula(
    calibration: Calibration, temperature: int, humidity: int
) -> None:
    """Section 4.2.3: the 32 bit integers of the data sheet give the same per cent."""
    expected = _integer_humidity(calibration, humidity, _fine(calibration, temperature))

    found = _values(calibration, temperature, 415148, humidity)[2]

    assert found == pytest.approx(expected, abs=0.1)
    assert 0 <= found <= 100


@given(calibrations)
def test_calibration_is_read_as_it_is_stored(calibration: Calibration) -> None:
    """Section 4.2.2, table 16: two values of 12 bits share a register."""
    c = calibration
    low = struct.pack(
        "<HhhHhhhhhhhhxB",
        c.t1, c.t2, c.t3, c.p1, c.p2, c.p3, c.p4, c.p5, c.p6, c.p7, c.p8, c.p9, c.h1,
    )  # fmt: skip
    shared = (c.h4 & 0xF) | (c.h5 & 0xF) << 4
    high = struct.pack("<hBbBbb", c.h2, c.h3, c.h4 >> 4, shared, c.h5 >> 4, c.h6)

    assert Calibration.parse(low, high) == calibration
    assert calibration.is_plausible


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_a_bus_that_always_reads_the_same_calibrates_nothing(byte: bytes) -> None:
    """All zeros and all ones are no trimming values."""
    assert not Calibration.parse(26 * byte, 7 * byte).is_plausible


def _fine(c: Calibration, counts: int) -> int:
    linear = ((counts >> 3) - (c.t1 << 1)) * c.t2 >> 11
    square = (((counts >> 4) - c.t1) ** 2 >> 12) * c.t3 >> 14
    return linear + square


def _integer_pressure(c: Calibration, counts: int, fine: int) -> float:
    x = fine - 128000
    offset = x * x * c.p6 + (x * c.p5 << 17) + (c.p4 << 35)
    scale = (x * x * c.p3 >> 8) + (x * c.p2 << 12)
    scale = ((1 << 47) + scale) * c.p1 >> 33
    p = ((1048576 - counts << 31) - offset) * 3125 // scale
    square = c.p9 * (p >> 13) * (p >> 13) >> 25
    return ((p + square + (c.p8 * p >> 19) >> 8) + (c.p7 << 4)) / 256


def _integer_humidity(c: Calibration, counts: int, fine: int) -> float:
    x = fine - 76800
    offset = (counts << 14) - (c.h4 << 20) - c.h5 * x + 16384 >> 15
    slope = ((x * c.h6 >> 10) * ((x * c.h3 >> 11) + 32768) >> 10) + 2097152
    h = offset * (slope * c.h2 + 8192 >> 14)
    h -= ((h >> 15) * (h >> 15) >> 7) * c.h1 >> 4
    return min(max(h, 0), 419430400) / 4096 / 1024
