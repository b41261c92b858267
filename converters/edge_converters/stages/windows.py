"""Windows of a stream, and what the model sees of them."""

from __future__ import annotations

import numpy as np

from edge_converters.datasets import Dataset, check_windows
from edge_runtime.pipeline.features import compute, shape_of
from edge_runtime.pipeline.scales import normalise, scales_of
from edge_runtime.spec import MicroFrontend, ModelSpec, Raw

__all__ = ["drawn_windows", "golden_windows_of", "model_inputs", "stream_windows"]

_GOLDEN = 16
_LOUD = 8192


def stream_windows(dataset: Dataset, spec: ModelSpec) -> np.ndarray:
    """Return a data set's windows as the stream has them, shape (n, length, channels).

    Raises:
        ConfigError: They have another number of values.
    """
    return check_windows(dataset, (spec.window.length, len(spec.stream.channels)))


def model_inputs(windows: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Return what the model sees of windows: features, normalised, float32.

    Args:
        windows: Shape (n, length, channels).
        spec: Its features and normaliser count; filters act on streams, not here.
    """
    if spec.features == (Raw(),) and spec.normalise is None:
        return windows
    features: np.ndarray = compute(spec.features, windows, rate_hz=spec.stream.rate_hz)
    if spec.normalise is None:
        return features
    shape = shape_of(spec.features, windows.shape[1:])
    return np.asarray(normalise(features, scales_of(spec.normalise, shape, spec.name)))


def golden_windows_of(windows: np.ndarray) -> np.ndarray:
    """Return up to 16 windows, spread evenly over those there are."""
    chosen = np.linspace(0, len(windows) - 1, min(_GOLDEN, len(windows))).round().astype(int)
    return np.asarray(windows[chosen])


def drawn_windows(spec: ModelSpec, probe: np.ndarray) -> np.ndarray:
    """Return windows where nobody gave any.

    Args:
        spec: What they are for.
        probe: Tensors over the range of the model's input; raw windows are those.
    """
    shape = (spec.window.length, len(spec.stream.channels))
    if int(np.prod(shape)) == int(np.prod(probe.shape[1:])) and spec.features == (Raw(),):
        return probe.reshape(len(probe), *shape)
    dice = np.random.default_rng(0)
    if any(isinstance(one, MicroFrontend) for one in spec.features):
        return np.asarray(dice.integers(-_LOUD, _LOUD, (_GOLDEN, *shape), np.int16))
    return dice.normal(size=(_GOLDEN, *shape)).astype(np.float32)
