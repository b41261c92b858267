"""How far two sets of answers are from each other, and how far is too far."""

from __future__ import annotations

import numpy as np

from edge_converters.contracts import Parity
from edge_runtime.errors import ModelError

__all__ = ["FLOAT_GATE_DB", "check_parity", "parity_of"]

FLOAT_GATE_DB = 80.0
"""Between a float file and where it came from; sound conversions measured 130 and more."""


def parity_of(expected: np.ndarray, found: np.ndarray) -> Parity:
    """Compare answers, shape (n, …) each, in float64.

    The ratio is 10 log10(Σ expected² / Σ (expected - found)²).

    Raises:
        ModelError: Shapes differ, or an answer is not finite.
    """
    size = expected.size // max(1, len(expected))
    if found.size != expected.size or len(found) != len(expected):
        raise ModelError(
            f"answers have shape {found.shape}",
            expected=f"{expected.shape}, as before the conversion",
            remedy="The converter changed the layout; convert from another format.",
        )
    one, other = (np.asarray(side, np.float64).reshape(-1, size) for side in (expected, found))
    if not np.isfinite(other).all():
        raise ModelError(
            "an answer is not finite",
            expected="finite answers, as before the conversion",
            remedy="Look at the windows it was asked: a value may lie outside its range.",
        )
    difference = one - other
    top1 = float(np.mean(one.argmax(1) == other.argmax(1))) if size > 1 else None
    return Parity(_snr_db(one, difference), float(np.abs(difference).max()), top1, len(one))


def check_parity(parity: Parity, least_db: float, where: str) -> None:
    """Stop at a step that changed what the model answers.

    Raises:
        ModelError: The ratio is below ``least_db``.
    """
    if parity.snr_db is not None and parity.snr_db < least_db:
        raise ModelError(
            f"the answers changed: {parity.snr_db:.1f} dB, largest difference {parity.largest:g}",
            where=where,
            expected=f"at least {least_db:g} dB over {parity.windows} windows",
            remedy="The conversion is wrong for this model; nothing was written. "
            "Convert from another format, or replace the operator that differs.",
        )


def _snr_db(expected: np.ndarray, difference: np.ndarray) -> float | None:
    noise = float((difference**2).sum())
    if noise == 0.0:
        return None
    signal = float((expected**2).sum())
    return float(10.0 * np.log10(max(signal, np.finfo(np.float64).tiny) / noise))
