"""The window itself, as it is or scaled to peak 1."""

from __future__ import annotations

import numpy as np

__all__ = ["as_they_are", "to_peak_one"]


def as_they_are(windows: np.ndarray) -> np.ndarray:
    """Return the windows."""
    return windows


def to_peak_one(windows: np.ndarray) -> np.ndarray:
    """Divide each window by its largest sample, as the keyword reference does.

    A window whose largest sample is not positive has no such peak and stays.
    Source: MLPerf Tiny keyword spotting, ``get_dataset.py``: audio over its maximum.

    Args:
        windows: Shape (n, length, channels), float32.

    Returns:
        Same shape, float32.
    """
    flat = windows.reshape(len(windows), -1)
    peak = flat.max(axis=1, keepdims=True)
    peak[~(peak > 0)] = 1.0
    scaled: np.ndarray = flat / peak
    return scaled.reshape(windows.shape)
