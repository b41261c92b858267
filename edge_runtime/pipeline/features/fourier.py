"""Pieces that every spectrum shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.pipeline.features.feature import Reals, misfit
from edge_runtime.spec import FeatureSpec, Taper

__all__ = ["Spectra", "bins_of", "power_of", "rfft_into", "taper_of"]

Spectra = NDArray[np.complex128]

_HAS_OUT = np.lib.NumpyVersion(np.__version__) >= "2.0.0"

_COSINES: dict[str, tuple[float, float]] = {
    "hann": (0.5, 0.5),
    "hamming": (0.54, 0.46),
    "none": (1.0, 0.0),
}


def taper_of(name: Taper, length: int) -> Reals:
    """Return a window function, ``a - b cos(2 pi n / N)``, or over ``N - 1`` if symmetric.

    Hann: a = b = 0.5. Hamming: a = 0.54, b = 0.46.
    Source: Harris 1978, "On the use of windows for harmonic analysis with the DFT".
    """
    shape, _, is_symmetric = name.partition("_")
    level, swing = _COSINES[shape]
    period = max(1, length - 1) if is_symmetric else length
    return level - swing * np.cos(2 * np.pi * np.arange(length) / period)


def rfft_into(rows: Reals, spectra: Spectra) -> None:
    """Transform every row into the row of ``spectra`` beside it."""
    if _HAS_OUT:
        np.fft.rfft(rows, out=spectra)
    else:
        spectra[...] = np.fft.rfft(rows)


def power_of(spectra: Spectra) -> Reals:
    """Return ``|z|^2`` of a last axis that lies in one piece, and spoil ``spectra``.

    Basic operations only, which round alike on every machine.
    """
    parts = spectra.view(np.float64)
    np.multiply(parts, parts, out=parts)
    power: Reals = parts[..., 0::2] + parts[..., 1::2]
    return power


def bins_of(spec: FeatureSpec, first: int, last: int | None, length: int) -> slice:
    """Return the bins ``first`` to ``last`` inclusive of ``length`` samples' spectrum.

    Raises:
        ShapeError: There are no such bins.
    """
    highest = length // 2
    end = highest if last is None else last
    if not first <= end <= highest:
        raise misfit(
            spec, f"bins {first} to {end}", f"bins from 0 to {highest} for {length} samples"
        )
    return slice(first, end + 1)
