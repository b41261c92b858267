"""One operator of a finished file."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

__all__ = ["Operation", "count_macs"]


class Operation(msgspec.Struct, frozen=True):
    """One operator as it stands in a file.

    Attributes:
        kind: Type, such as ``CONV_2D`` or ``Conv``; of another domain ``com.microsoft.QGemm``.
        version: In TFLite the operator's own version, in ONNX that of its operator set.
        precision: What it computes with: a type, such as ``float32`` or ``int8``, or
            ``int8 weights`` for integer weights behind float activations.
        macs: Multiply-accumulates for one window; 0 for what multiplies nothing, None
            where nobody can tell, as inside a loop.
        lacking: Runtimes that do not know it.
        is_delegated: Whether XNNPACK takes it over; None where nobody asked.
    """

    kind: str
    version: int
    precision: str
    macs: int | None = 0
    lacking: tuple[str, ...] = ()
    is_delegated: bool | None = None


def count_macs(operations: Sequence[Operation]) -> int | None:
    """Return the multiply-accumulates of one window; None if one operator's are not known."""
    known = [one.macs for one in operations if one.macs is not None]
    return sum(known) if len(known) == len(operations) else None
