"""New weights for a network that devices already have: in its old scales where they fit.

What does not change in the float file then stays the same to the byte, and the delta
that devices fetch carries the changed weights alone.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping

import msgspec
import numpy as np

from edge_converters.metrics import snr_db
from edge_converters.quantise.contracts import Calibration, Candidate, Quantiser, Recipe, Scale
from edge_converters.quantise.recipes import refreshed, saturated_weights
from edge_runtime.errors import ModelError

__all__ = ["MOST_CLIPPED", "Refit", "delta_bytes", "refit"]

MOST_CLIPPED = 0.001
"""Share of new weights that old scales may clip."""

# A bit is worth 6 dB; half of one is what old scales may cost.
_MOST_LOST_DB = 3.0


class Refit(msgspec.Struct, frozen=True):
    """What became of new weights.

    Attributes:
        keeps_scales: Whether the file has the scales of the one before.
        clipped: Share of the new weights that these cannot hold, 0 to 1.
        kept_db: Output against the new float model with the old scales, dB; None where
            they are equal.
        anew_db: The same with scales made anew, dB.
        why: One sentence.
        kept_delta_bytes: Compressed difference of the finished file from the one before,
            with the old scales; None until it is finished.
        anew_delta_bytes: The same with scales made anew.
    """

    keeps_scales: bool
    clipped: float
    kept_db: float | None
    anew_db: float | None
    why: str
    kept_delta_bytes: int | None = None
    anew_delta_bytes: int | None = None

    def __str__(self) -> str:
        if self.kept_delta_bytes is None:
            return self.why
        deltas = f"delta {self.kept_delta_bytes} bytes with the old scales"
        return f"{self.why}; {deltas}, {self.anew_delta_bytes} with new ones"


def refit(
    before: Recipe, old: bytes, quantiser: Quantiser, windows: np.ndarray
) -> tuple[Candidate, Candidate, Refit]:
    """Quantise new weights in the scales of the file before, or anew where they do not fit.

    They fit if no more than `MOST_CLIPPED` of the weights are clipped, and the answers
    are at most 3 dB worse than with scales made anew.

    Args:
        before: Recipe of the file that devices have.
        old: That file.
        quantiser: The new float model, with the same graph.
        windows: Shape (n, …), as the model sees them; they set the ranges of scales made
            anew, and both files are asked them.

    Returns:
        The file to ship, the other one, and the grounds.

    Raises:
        ModelError: The new model is another network.
    """
    calibration = quantiser.calibrate(windows)
    scales = quantiser.scales(old)
    _check_same_network(before, calibration, quantiser, scales)
    kept = _made(quantiser, refreshed(before, quantiser, scales), windows)
    anew = _made(quantiser, _anew(before, quantiser, calibration), windows)
    clipped = saturated_weights(quantiser, kept.recipe)
    lost_db = (anew.snr_db or 0.0) - (kept.snr_db or 0.0)
    if clipped > MOST_CLIPPED:
        chosen, other = anew, kept
        why = f"quantised anew: the old scales clip {clipped:.2%} of the weights"
    elif lost_db > _MOST_LOST_DB:
        chosen, other = anew, kept
        why = f"quantised anew: the old scales cost {lost_db:.1f} dB"
    else:
        chosen, other = kept, anew
        why = f"the old scales were kept: they clip {clipped:.2%} of the weights"
    told = Refit(
        keeps_scales=chosen is kept,
        clipped=clipped,
        kept_db=_finite(kept.snr_db),
        anew_db=_finite(anew.snr_db),
        why=why,
    )
    return chosen, other, told


def delta_bytes(old: bytes, new: bytes) -> int:
    """Return the size of the aligned difference of two files, compressed with LZMA."""
    size = max(len(old), len(new))
    first, second = (np.frombuffer(one.ljust(size, b"\0"), np.uint8) for one in (old, new))
    return len(lzma.compress((second - first).tobytes()))


def _made(quantiser: Quantiser, recipe: Recipe, windows: np.ndarray) -> Candidate:
    model = quantiser.quantise(recipe)
    reference = quantiser.run(quantiser.model, windows)
    return Candidate(recipe, model, snr_db=snr_db(reference, quantiser.run(model, windows)))


def _anew(before: Recipe, quantiser: Quantiser, calibration: Calibration) -> Recipe:
    """Return a recipe with the old cures and scales made anew."""
    made = quantiser.recipe(
        before.precision, calibration, before.cures, is_equalised=bool(before.factors)
    )
    return msgspec.structs.replace(made, per_channel=before.per_channel, integers=before.integers)


def _check_same_network(
    before: Recipe, calibration: Calibration, quantiser: Quantiser, scales: Mapping[str, Scale]
) -> None:
    """Compare names of tensors, and sizes of weights with their scales."""
    others = sorted(calibration.tensors.keys() ^ before.ranges.keys())
    sizes = [
        name
        for name, values in quantiser.weights({}).items()
        if (given := scales.get(name)) is not None
        and given.axis is not None
        and len(given.scale) != values.shape[given.axis]
    ]
    if others or sizes:
        raise ModelError(
            f"it is another network: {', '.join([*others, *sizes][:4])} differ",
            expected="the graph of the model before, with other weights",
            remedy="Convert it as a new model, without --refresh.",
        )


def _finite(db: float | None) -> float | None:
    return db if db is not None and np.isfinite(db) else None
