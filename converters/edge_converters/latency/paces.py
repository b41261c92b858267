"""What is published about boards, and how far it carries.

No board stands behind these numbers here: they are other people's, and a report that
uses them says *estimate*.
"""

from __future__ import annotations

import msgspec

__all__ = ["PACES", "SLOWEST", "Pace", "quickest"]

_MOBILENET_MACS = 569e6
_THREADS = 4
_XNNPACK = (
    "XNNPACK README of 2022: MobileNet v1 takes {} ms in float32 and {} ms in int8, 4 threads"
)


class Pace(msgspec.Struct, frozen=True):
    """How fast one core of a board computes with XNNPACK.

    Attributes:
        float_macs: Multiply-accumulates a second with floats.
        int8_macs: The same with integers.
        call_us: Time of a call that computes nothing, µs: 1.3 µs of a desktop processor,
            by how much slower Python is there.
        spread: How uncertain the way from the published board to this one is, a factor.
        source: Where it comes from.
    """

    float_macs: float
    int8_macs: float
    call_us: float
    spread: float
    source: str


def _published(float_ms: float, int8_ms: float, call_us: float) -> Pace:
    """Return the pace of one of four cores that shared the work evenly."""
    floats, integers = (_MOBILENET_MACS / (ms * 1e-3) / _THREADS for ms in (float_ms, int8_ms))
    return Pace(floats, integers, call_us, 1.0, _XNNPACK.format(f"{float_ms:g}", f"{int8_ms:g}"))


def _scaled(
    pace: Pace, by_float: float, by_int8: float, call_us: float, spread: float, why: str
) -> Pace:
    floats, integers = pace.float_macs * by_float, pace.int8_macs * by_int8
    return Pace(floats, integers, call_us, spread, f"{pace.source}; {why}")


_PI_4 = _published(77, 24, 7.0)
_PI_3 = _published(114, 46, 10.0)

PACES: dict[str, Pace] = {
    "raspberry-pi-zero-2w": _scaled(
        _PI_3, 1.0 / 1.4, 1.0 / 1.4, 14.0, 1.1, "the same core at 1.0 instead of 1.4 GHz"
    ),
    "raspberry-pi-3": _PI_3,
    "raspberry-pi-4": _PI_4,
    "raspberry-pi-5": _scaled(
        _PI_4, 2.4, 4.0, 3.5, 1.3, "2.3 to 2.5 times a Pi 4 on one thread, 3 to 5 times in int8"
    ),
}
"""By name of the board; one that is missing has nothing published that would do."""

SLOWEST = 2.0
"""How much slower than MobileNet a small network is for each multiply-accumulate, at most.

Source: the autoencoder of MLPerf Tiny in float, on x86-64; its int8 files stay above."""


def quickest(*, is_int8: bool) -> float:
    """Return the share of MobileNet's time that a network may take instead.

    Two parts: the networks of MLPerf Tiny, on x86-64, are up to 1.4 (float) and 2.7
    (int8) times quicker for each multiply-accumulate; and four threads are less than
    four times one, by 1.3 as a rule.
    """
    return 1 / ((2.7 if is_int8 else 1.4) * 1.3)
