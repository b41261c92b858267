"""Opens a Keras model that is a chain of recurrent and dense layers, and hands over its weights.

Runs in the worker ``keras``, which has no ONNX; the parent writes a graph of them with
the runtime's own GRU and LSTM, where general exporters write a loop. Gates are in the
order of ONNX here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge_converters.workers.jobs import keras_models
from edge_converters.workers.jobs.keras_models import check_model, load_model
from edge_converters.workers.jobs.windows import windows_of
from edge_converters.workers.refusal import Refusal

__all__ = ["to_onnx", "whole_to_onnx"]

# Keras and ONNX order the gates of a layer otherwise: which of Keras's parts come first.
_GATES = {"GRU": (0, 1, 2), "LSTM": (0, 3, 1, 2), "SimpleRNN": (0,)}
_KINDS = {"GRU": "GRU", "LSTM": "LSTM", "SimpleRNN": "RNN"}
_ACTIVATIONS = {
    "elu": "Elu",
    "linear": "",
    "relu": "Relu",
    "selu": "Selu",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "softplus": "Softplus",
    "tanh": "Tanh",
}
_IDLE = frozenset(
    {"ActivityRegularization", "Dropout", "GaussianDropout", "GaussianNoise", "InputLayer"}
    | {"SpatialDropout1D"}
)
_TAKEN = "GRU, LSTM, SimpleRNN, Dense, BatchNormalization, LayerNormalization and activations"

_Part = tuple[dict[str, object], dict[str, np.ndarray]]


def to_onnx(model: str, folder: str, is_trusted: bool, inputs: str | None) -> dict[str, object]:
    """Write the weights of a chain of layers, and answer windows with the original.

    Args:
        model: ``.keras`` or ``.h5``.
        folder: Where ``chain.npz``, ``inputs.npy`` and ``outputs.npy`` go.
        is_trusted: Whether a Lambda layer may run its code.
        inputs: ``.npy`` of windows to be asked, shape (n, …); None draws them.

    Returns:
        ``file``, its ``emitter``, ``version``, ``shape`` of a window, and the ``parts`` of
        the chain, whose arrays are called by their number.

    Raises:
        Refusal: It is not trusted, or has another kind of layer.
    """
    import keras

    network = load_model(keras, model, is_trusted)
    shape = check_model(network)
    parts = _parts(keras, network)
    return _written(keras, network, shape, parts, Path(folder), inputs)


def whole_to_onnx(
    model: str, folder: str, is_trusted: bool, inputs: str | None
) -> dict[str, object]:
    """Convert a network that is to stay whole: its weights where that spares a loop.

    A GRU is one operator of ONNX, and tf2onnx makes a slow Loop of it. A chain with a GRU is
    written by its weights, everything else by tf2onnx. Its batch is one, as a Loop's: a
    product over all steps of several windows is a rounding apart from that over one.
    Arguments and raises are those of `to_onnx`; returns also ``batch``, or what
    `keras_models.to_onnx` does.
    """
    import keras

    network = load_model(keras, model, is_trusted)
    shape = check_model(network)
    if any(type(layer).__name__ == "GRU" for layer in _layers(keras, network)):
        try:
            parts = _parts(keras, network)
        except Refusal:
            # A layer that the chain does not know; tf2onnx may.
            parts = []
        if parts:
            return _written(keras, network, shape, parts, Path(folder), inputs) | {"batch": 1}
    return keras_models.to_onnx(model, folder, is_trusted, inputs)


def _parts(keras: Any, network: Any) -> list[_Part]:
    return [part for layer in _layers(keras, network) for part in _parts_of(layer)]


def _written(
    keras: Any,
    network: Any,
    shape: tuple[int, ...],
    parts: list[_Part],
    place: Path,
    inputs: str | None,
) -> dict[str, object]:
    """Write weights, windows and what the network answers to them."""
    windows = windows_of(shape, inputs)
    np.save(place / "inputs.npy", windows)
    rows = [np.asarray(network(row[None], training=False), np.float32) for row in windows]
    np.save(place / "outputs.npy", np.concatenate(rows))
    arrays = {f"{n}_{name}": one for n, (_, of) in enumerate(parts) for name, one in of.items()}
    file = place / "chain.npz"
    np.savez(file, allow_pickle=False, **arrays)
    return {
        "file": str(file),
        "emitter": "chain",
        "version": f"keras {keras.__version__}",
        "shape": list(shape),
        "parts": [told for told, _ in parts],
    }


def _layers(keras: Any, network: Any) -> Iterator[Any]:
    """Yield the layers in order, those of networks inside too; a merge is refused by its name."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(keras, layer)
        else:
            yield layer


def _parts_of(layer: Any) -> list[_Part]:
    kind = type(layer).__name__
    if kind in _IDLE:
        return []
    if kind in _GATES:
        return [_recurrent(layer, kind)]
    if kind == "TimeDistributed":
        return _parts_of(layer.layer)
    rules: dict[str, Callable[[], list[_Part]]] = {
        "Activation": lambda: _activation(layer, layer.activation),
        "BatchNormalization": lambda: [_batch_normalised(layer)],
        "Dense": lambda: [_product(layer), *_activation(layer, layer.activation)],
        "LayerNormalization": lambda: [_layer_normalised(layer)],
        "Normalization": lambda: [_scaled(1 / _spread(layer), -_mean(layer) / _spread(layer))],
        "ReLU": lambda: _rectified(layer),
        "Rescaling": lambda: [_scaled(np.asarray(layer.scale), np.asarray(layer.offset))],
        "Softmax": lambda: [({"op": "Softmax"}, {})],
    }
    if kind not in rules:
        why = _BIDIRECTIONAL if kind == "Bidirectional" else ""
        raise _unknown(layer, f"is of kind {kind}{why}")
    return rules[kind]()


_BIDIRECTIONAL = ": it reads the sequence from its end, which a stream does not have"


def _unknown(layer: Any, what: str) -> Refusal:
    return Refusal(
        f"layer {layer.name!r} {what}",
        f"a chain of {_TAKEN}, whose way to ONNX is here",
        "Convert it to TFLite, whole: --to tflite, without --stream.",
    )


def _recurrent(layer: Any, kind: str) -> _Part:
    for name in ("go_backwards", "stateful"):
        if getattr(layer, name):
            raise _unknown(layer, f"has {name}=True")
    told = {"activation": layer.activation, "recurrent_activation": _gate_of(layer)}
    for name, usual in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        if told[name] is not None and told[name].__name__ != usual:
            raise _unknown(layer, f"has {name}={told[name].__name__!r}")
    weights = [np.asarray(one) for one in layer.get_weights()]
    kernel, recurrent = weights[:2]
    is_reset_after = kind == "GRU" and layer.reset_after
    sides = _biases(weights, kernel.shape[1])
    arrays = {
        "w": _ordered(kernel, kind).T[None],
        "r": _ordered(recurrent, kind).T[None],
        "b": np.concatenate([_ordered(one[None], kind)[0] for one in sides])[None],
    }
    about = {
        "op": _KINDS[kind],
        "is_reset_after": bool(is_reset_after),
        "is_sequence": bool(layer.return_sequences),
    }
    return about, arrays


def _gate_of(layer: Any) -> Any:
    return getattr(layer, "recurrent_activation", None)


def _biases(weights: list[np.ndarray], size: int) -> np.ndarray:
    """Return the biases of inputs and of state, shape (2, size)."""
    found = np.zeros((2, size), np.float32)
    if len(weights) > 2:
        bias = weights[2].reshape(-1, size)
        found[: len(bias)] = bias
    return found


def _ordered(values: np.ndarray, kind: str) -> np.ndarray:
    """Return the gates, side by side along the last axis, in the order of ONNX."""
    gates = np.split(values, len(_GATES[kind]), axis=-1)
    return np.concatenate([gates[one] for one in _GATES[kind]], axis=-1)


def _product(layer: Any) -> _Part:
    kernel, *bias = (np.asarray(one) for one in layer.get_weights())
    shift = bias[0] if bias else np.zeros(kernel.shape[1], np.float32)
    return {"op": "product"}, {"weights": kernel, "bias": shift}


def _activation(layer: Any, activation: Any) -> list[_Part]:
    name = getattr(activation, "__name__", str(activation))
    if name not in _ACTIVATIONS:
        raise _unknown(layer, f"has activation={name!r}")
    return [({"op": _ACTIVATIONS[name]}, {})] if _ACTIVATIONS[name] else []


def _rectified(layer: Any) -> list[_Part]:
    if layer.max_value is not None or layer.negative_slope or layer.threshold:
        raise _unknown(layer, "is no plain ReLU")
    return [({"op": "Relu"}, {})]


def _batch_normalised(layer: Any) -> _Part:
    _check_last(layer, layer.axis)
    gain = 1 / np.sqrt(np.asarray(layer.moving_variance, np.float64) + layer.epsilon)
    if layer.scale:
        gain = gain * np.asarray(layer.gamma)
    shift = -np.asarray(layer.moving_mean) * gain
    return _scaled(gain, shift + np.asarray(layer.beta) if layer.center else shift)


def _layer_normalised(layer: Any) -> _Part:
    _check_last(layer, layer.axis)
    size = layer.input.shape[-1]
    gain = np.asarray(layer.gamma) if layer.scale else np.ones(size, np.float32)
    shift = np.asarray(layer.beta) if layer.center else np.zeros(size, np.float32)
    return {"op": "layer", "epsilon": float(layer.epsilon)}, {"gain": gain, "shift": shift}


def _check_last(layer: Any, axis: Any) -> None:
    last = len(layer.input.shape) - 1
    if list(np.ravel(axis)) not in ([-1], [last]):
        raise _unknown(layer, f"has axis={axis}")


def _mean(layer: Any) -> np.ndarray:
    return np.asarray(layer.mean, np.float64)


def _spread(layer: Any) -> np.ndarray:
    return np.maximum(np.sqrt(np.asarray(layer.variance, np.float64)), 1e-7)


def _scaled(gain: np.ndarray, shift: np.ndarray) -> _Part:
    return {"op": "scale"}, {
        "gain": np.asarray(gain, np.float32),
        "shift": np.asarray(shift, np.float32),
    }
