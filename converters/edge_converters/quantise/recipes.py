"""Recipes: what calibration gives them, and what a refreshed model keeps of the one before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
import numpy as np

from edge_converters.quantise.contracts import (
    Calibration,
    Cure,
    Format,
    Precision,
    Quantiser,
    Recipe,
    Scale,
)
from edge_runtime.errors import ConfigError

__all__ = ["recipe_for", "refreshed", "saturated_weights"]

_LARGEST = 127


def recipe_for(
    format: Format,  # noqa: A002 - as in `Recipe`
    model: bytes,
    precision: Precision,
    calibration: Calibration | None,
    cures: Mapping[str, Cure],
    *,
    is_equalised: bool,
) -> Recipe:
    """Write down how a file is made.

    Raises:
        ConfigError: ``precision`` needs ranges, and nothing was calibrated.
    """
    needs_ranges = precision in {"int8", "mixed"}
    if needs_ranges and calibration is None:
        raise ConfigError(
            f"precision {precision} needs calibration data",
            expected="windows that show what the model will see",
            remedy="Give calibration data, or choose float32, float16 or dynamic.",
        )
    seen = calibration if needs_ranges and calibration else Calibration(windows=0, tensors={})
    factors = seen.factors if is_equalised else {}
    tensors = seen.equalised if factors else seen.tensors
    return Recipe(
        format=format,
        precision=precision,
        model=hashlib.sha256(model).hexdigest(),
        cures=dict(cures),
        ranges={name: (one.minimum, one.maximum) for name, one in tensors.items()},
        factors=factors,
    )


def refreshed(before: Recipe, quantiser: Quantiser, scales: Mapping[str, Scale]) -> Recipe:
    """Return the recipe that quantises retrained weights in the scales of the file before.

    What did not change in the float file then stays the same to the byte, so a delta
    carries the changed weights alone.

    Args:
        before: Recipe of the file that devices have.
        quantiser: The float model with the new weights; the same graph.
        scales: Of the file that devices have, from `Quantiser.scales`.
    """
    kept = {name: scales[name] for name in quantiser.weights({}) if name in scales}
    digest = hashlib.sha256(quantiser.model).hexdigest()
    return msgspec.structs.replace(before, model=digest, scales=kept)


def saturated_weights(quantiser: Quantiser, recipe: Recipe) -> float:
    """Return the share of new weights that old scales cannot hold, 0 to 1.

    Above a thousandth, quantise anew: the delta grows, and the weights are right again.
    """
    over = total = 0
    for name, values in quantiser.weights(recipe.factors).items():
        if name in recipe.scales:
            over += int(np.count_nonzero(np.abs(values) > _limits(recipe.scales[name], values)))
            total += values.size
    return over / total if total else 0.0


def _limits(scale: Scale, values: np.ndarray) -> np.ndarray:
    """Return the largest value of each channel, half a step beyond the last integer."""
    shape = [-1 if place == scale.axis else 1 for place in range(values.ndim)]
    limits: np.ndarray = np.array(scale.scale).reshape(shape) * (_LARGEST + 0.5)
    return limits
