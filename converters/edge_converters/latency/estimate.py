"""An estimate from the multiply-accumulates of a file and the pace of a board."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from edge_converters.latency.paces import PACES, SLOWEST, Pace, quickest
from edge_converters.latency.target import TargetLatency
from edge_converters.operations import Operation, count_macs
from edge_converters.quantise.contracts import Format

__all__ = ["estimate"]

_FLOATS = frozenset({"float32", "float16"})
_INTEGERS = frozenset({"int8", "uint8"})
# ONNX Runtime against LiteRT with the same float file on x86-64: the networks of MLPerf Tiny.
_ONNX_QUICKEST, _ONNX_SLOWEST = 0.9, 1.7


class _Share(msgspec.Struct, frozen=True):
    """Time of some operators, µs, and how far it may be off either way."""

    us: float
    low_us: float
    high_us: float


def estimate(board: str, form: Format, operations: Sequence[Operation]) -> TargetLatency:
    """Estimate the call for one window on one core of a board.

    Each operator takes its multiply-accumulates at the board's pace for floats or for
    integers; what multiplies nothing takes nothing. Integer weights behind float
    activations lie somewhere between both.

    Args:
        board: Name in `edge_runtime.boards.BOARDS`.
        form: Of the file.
        operations: Of the file.
    """
    macs, pace = count_macs(operations), PACES.get(board)
    if pace is None:
        return _unknown(board, "nothing is published that would carry over to this board")
    if not macs:
        return _unknown(board, "its cost is not in multiply-accumulates: trees, loops or state")
    kinds = {one.precision for one in operations if one.macs}
    if form == "onnx" and kinds - {"float32"}:
        others = ", ".join(sorted(kinds - {"float32"}))
        return _unknown(board, f"nothing is published for {others} in ONNX Runtime on it")
    odd = sorted(kinds - _FLOATS - _INTEGERS - {f"{one} weights" for one in _INTEGERS})
    if odd:
        return _unknown(board, f"nothing is published for {', '.join(odd)} on it")
    shares = list(_shares(operations, pace))
    low, high = (_ONNX_QUICKEST, _ONNX_SLOWEST) if form == "onnx" else (1.0, 1.0)
    return TargetLatency(
        board=board,
        how="estimate",
        p50_us=pace.call_us + sum(one.us for one in shares),
        low_us=pace.call_us + low / pace.spread * sum(one.low_us for one in shares),
        high_us=pace.call_us + high * pace.spread * sum(one.high_us for one in shares),
        source=pace.source,
    )


def _shares(operations: Sequence[Operation], pace: Pace) -> Iterator[_Share]:
    for one in operations:
        slow = 1e6 * (one.macs or 0) / pace.float_macs
        quick = 1e6 * (one.macs or 0) / pace.int8_macs
        if one.precision in _FLOATS:
            yield _Share(slow, slow * quickest(is_int8=False), slow * SLOWEST)
        elif one.precision in _INTEGERS:
            yield _Share(quick, quick * quickest(is_int8=True), quick * SLOWEST)
        else:
            between = (slow * quick) ** 0.5
            yield _Share(between, quick * quickest(is_int8=True), slow * SLOWEST)


def _unknown(board: str, why: str) -> TargetLatency:
    return TargetLatency(board=board, how="unknown", source=why)
