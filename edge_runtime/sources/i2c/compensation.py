"""From what a BME280 counts to physical values.

Source of all formulas: Bosch Sensortec, BME280 data sheet BST-BME280-DS002, revision
1.6, section 8.1 (appendix A, double precision floating point).
"""

from __future__ import annotations

import struct

import msgspec
import numpy as np

__all__ = ["Calibration", "compensate"]


class Calibration(msgspec.Struct, frozen=True):
    """The trimming values of one part, section 4.2.2, table 16."""

    t1: int
    t2: int
    t3: int
    p1: int
    p2: int
    p3: int
    p4: int
    p5: int
    p6: int
    p7: int
    p8: int
    p9: int
    h1: int
    h2: int
    h3: int
    h4: int
    h5: int
    h6: int

    @classmethod
    def parse(cls, low: bytes, high: bytes) -> Calibration:
        """Read the trimming values.

        Args:
            low: Registers 0x88 to 0xA1.
            high: Registers 0xE1 to 0xE7.
        """
        thermal = struct.unpack_from("<HhhH8h", low)
        h2, h3, middle, shared, last, h6 = struct.unpack("<hBbBbb", high)
        # Two values of 12 bits share 0xE5: its low half ends h4, its high half ends h5.
        h4, h5 = middle << 4 | shared & 0x0F, last << 4 | shared >> 4
        return cls(*(*thermal, low[25], h2, h3, h4, h5, h6))

    @property
    def is_plausible(self) -> bool:
        """Whether a part can have these values; one that answers nonsense has not."""
        return self.t1 not in (0, 0xFFFF) and self.p1 not in (0, 0xFFFF)


def compensate(counts: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Turn counts into temperature, pressure and relative humidity.

    Args:
        counts: Shape (n, 3): temperature and pressure, 20 bits, and humidity, 16 bits.
        calibration: Of the part that counted.

    Returns:
        Shape (n, 3), float64: °C, Pa, and % limited to 0 to 100.
    """
    values = np.empty(counts.shape)
    temperature, pressure, humidity = counts.T.astype(np.float64)
    fine = _fine_temperature(temperature, calibration)
    values[:, 0] = fine / 5120.0
    values[:, 1] = _pressure(pressure, fine, calibration)
    values[:, 2] = _humidity(humidity, fine, calibration)
    return values


def _fine_temperature(counts: np.ndarray, c: Calibration) -> np.ndarray:
    linear = (counts / 16384.0 - c.t1 / 1024.0) * c.t2
    square = (counts / 131072.0 - c.t1 / 8192.0) ** 2 * c.t3
    fine: np.ndarray = linear + square
    return fine


def _pressure(counts: np.ndarray, fine: np.ndarray, c: Calibration) -> np.ndarray:
    x = fine / 2.0 - 64000.0
    offset = x * x * c.p6 / 32768.0 + x * c.p5 * 2.0
    offset = offset / 4.0 + c.p4 * 65536.0
    scale = (c.p3 * x * x / 524288.0 + c.p2 * x) / 524288.0
    scale = (1.0 + scale / 32768.0) * c.p1
    p = (1048576.0 - counts - offset / 4096.0) * 6250.0 / scale
    square = c.p9 * p * p / 2147483648.0
    pressure: np.ndarray = p + (square + p * c.p8 / 32768.0 + c.p7) / 16.0
    return pressure


def _humidity(counts: np.ndarray, fine: np.ndarray, c: Calibration) -> np.ndarray:
    x = fine - 76800.0
    slope = 1.0 + c.h6 / 67108864.0 * x * (1.0 + c.h3 / 67108864.0 * x)
    h = (counts - (c.h4 * 64.0 + c.h5 / 16384.0 * x)) * (c.h2 / 65536.0 * slope)
    limited: np.ndarray = np.clip(h * (1.0 - c.h1 * h / 524288.0), 0.0, 100.0)
    return limited
