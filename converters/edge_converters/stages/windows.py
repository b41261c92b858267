"""Windows of a stream, and what the model sees of them."""

from __future__ import annotations

import msgspec
import numpy as np

from edge_converters.datasets import Dataset, check_windows
from edge_runtime.errors import ConfigError
from edge_runtime.pipeline.features import compute, shape_of
from edge_runtime.pipeline.scales import normalise, scales_of
from edge_runtime.spec import MicroFrontend, ModelSpec, Raw

__all__ = [
    "drawn_windows",
    "features_of",
    "golden_windows_of",
    "model_inputs",
    "sequences_of",
    "stream_windows",
]

_GOLDEN = 16
_FEWEST_STEPS = 2
_LOUD = 8192


def stream_windows(dataset: Dataset, spec: ModelSpec) -> np.ndarray:
    """Return a data set's windows as the stream has them, shape (n, length, channels).

    Raises:
        ConfigError: They have another number of values.
    """
    return check_windows(dataset, (spec.window.length, len(spec.stream.channels)))


def sequences_of(dataset: Dataset, spec: ModelSpec) -> np.ndarray:
    """Return a data set's sequences for a model with state, shape (n, steps, length, channels).

    A step is a window of the model; the steps of a sequence follow each other.

    Raises:
        ConfigError: A sequence is no whole number of windows, or one window alone: the
            state that a stream has would never be seen.
    """
    shape = (spec.window.length, len(spec.stream.channels))
    steps, rest = divmod(int(np.prod(dataset.inputs.shape[1:])), shape[0] * shape[1])
    if rest or steps < _FEWEST_STEPS:
        raise ConfigError(
            f"sequences have shape {dataset.inputs.shape[1:]}",
            where=dataset.where,
            expected=f"(steps, …) with {shape[0]} samples of {shape[1]} channels a step, "
            f"{_FEWEST_STEPS} steps or more: the model carries state from step to step",
            remedy="Give recordings as (n, samples, channels), of several steps each; or choose "
            "a smaller --stream.",
        )
    windows = msgspec.structs.replace(
        dataset, inputs=dataset.inputs.reshape(len(dataset.inputs) * steps, *shape)
    )
    return check_windows(windows, shape).reshape(-1, steps, *shape)


def features_of(dataset: Dataset, spec: ModelSpec) -> np.ndarray:
    """Return what the model sees of a data set, shape (n, …); with state (n, steps, …).

    Raises:
        ConfigError: Its windows or sequences have another number of values.
    """
    if not spec.state.tensors:
        return model_inputs(stream_windows(dataset, spec), spec)
    sequences = sequences_of(dataset, spec)
    count, steps = sequences.shape[:2]
    found = model_inputs(sequences.reshape(count * steps, *sequences.shape[2:]), spec)
    return found.reshape(count, steps, *found.shape[1:])


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
    """Return up to 16 windows or sequences, spread evenly over those there are."""
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
