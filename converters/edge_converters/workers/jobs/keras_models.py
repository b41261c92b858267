"""Opens a Keras model or SavedModel, writes it as float TFLite and says what it answers.

Runs in the worker ``keras``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from edge_converters.workers.refusal import Refusal

__all__ = ["check_model", "convert", "load_model", "windows_of"]

_WINDOWS = 16


def convert(model: str, folder: str, is_trusted: bool, inputs: str | None) -> dict[str, object]:
    """Convert a model with a batch of one, and answer windows with the original.

    Args:
        model: ``.keras``, ``.h5``, or a SavedModel folder.
        folder: Where ``model.tflite``, ``inputs.npy`` and ``outputs.npy`` go.
        is_trusted: Whether a Lambda layer may run its code.
        inputs: ``.npy`` of windows to be asked, shape (n, …); None draws them.

    Returns:
        ``file`` and ``version``.

    Raises:
        Refusal: It has a Lambda layer and is not trusted, or more than one input or output.
    """
    import tensorflow as tf

    place = Path(folder)
    if not Path(model).is_dir():
        model = _exported(tf, model, place / "saved", is_trusted)
    call, owner = _saved(tf, model)
    shape = _shape_of(call)
    windows = windows_of(shape, inputs)
    np.save(place / "inputs.npy", windows)
    np.save(place / "outputs.npy", np.concatenate([_answer(tf, call, row) for row in windows]))
    file = place / "model.tflite"
    file.write_bytes(_converted(tf, call, owner))
    return {"file": str(file), "version": f"tensorflow {tf.__version__}"}


def _exported(tf: Any, model: str, folder: Path, is_trusted: bool) -> str:
    """Write a Keras model as a SavedModel whose one signature takes a batch of one."""
    import keras

    loaded = load_model(keras, model, is_trusted)
    shape = [1, *check_model(loaded)]
    archive = keras.export.ExportArchive()
    archive.track(loaded)
    archive.add_endpoint(
        "serving_default",
        lambda window: loaded(window, training=False),
        input_signature=[tf.TensorSpec(shape, loaded.inputs[0].dtype, name="window")],
    )
    archive.write_out(str(folder), verbose=False)
    return str(folder)


def check_model(loaded: Any) -> tuple[int, ...]:
    """Return the shape of a window.

    Raises:
        Refusal: More than one window goes in or one answer out, or an axis is free.
    """
    _check_ends("inputs", loaded.inputs)
    _check_ends("outputs", loaded.outputs)
    shape = loaded.inputs[0].shape[1:]
    _check_axes([1, *shape])
    return tuple(shape)


def load_model(keras: Any, model: str, is_trusted: bool) -> Any:
    """Open a ``.keras`` or ``.h5`` file.

    Raises:
        Refusal: It is none, uses classes of its own, or a Lambda that is not trusted.
    """
    try:
        return keras.saving.load_model(model, compile=False, safe_mode=not is_trusted)
    except (TypeError, ValueError, OSError) as error:
        raise _unopened(str(error)) from error


def _unopened(text: str) -> Refusal:
    if "ambda" in text and "safe_mode" in text:
        return Refusal(
            "the model has a Lambda layer: opening it runs the code that it holds",
            "layers of Keras alone, or a file whose origin you trust",
            "Replace the Lambda by a layer of Keras; or, if you made it, say so: --trust.",
            exit_code=3,
        )
    own = re.search(r"Could not locate (?:class|function) '([^']+)'", text)
    if own is not None:
        return Refusal(
            f"the model uses {own[1]}, a class or function of its own",
            "layers of Keras alone",
            "Rewrite it with layers of Keras; or export a SavedModel where the class is known: "
            "model.export(folder).",
        )
    return Refusal(
        f"Keras cannot open it: {text.splitlines()[0][:300] if text else 'no reason given'}",
        "a complete .keras or .h5 file of a whole model",
        "Save it again with model.save('model.keras'), whole and not the weights alone.",
    )


def _saved(tf: Any, model: str) -> tuple[Any, Any]:
    loaded = tf.saved_model.load(model)
    names = sorted(loaded.signatures)
    name = next((one for one in ("serving_default", "serve") if one in names), None)
    if name is None:
        raise Refusal(
            f"the SavedModel has the signatures {names}",
            "one that is called serving_default",
            "Export it with model.export(folder).",
        )
    call = loaded.signatures[name]
    _check_ends("inputs", list(call.structured_input_signature[1]))
    _check_ends("outputs", list(call.structured_outputs))
    shape = call.inputs[0].shape.as_list()
    call.inputs[0].set_shape([1, *shape[1:]])
    _check_axes([1, *shape[1:]])
    return call, loaded


def _check_ends(what: str, ends: Any) -> None:
    if len(ends) != 1:
        raise Refusal(
            f"the model has {len(ends)} {what}",
            "one window in and one answer out",
            "Join them inside the model with a Concatenate layer, or cut it into parts.",
        )


def _check_axes(shape: list[int | None]) -> None:
    if None in shape[1:]:
        told = ["?" if axis is None else axis for axis in shape]
        raise Refusal(
            f"the model's input has the free axes {told}",
            "a window of fixed length",
            "Give the Input layer its shape: Input((length, channels)).",
        )


def _shape_of(call: Any) -> tuple[int, ...]:
    return tuple(call.inputs[0].shape.as_list()[1:])


def windows_of(shape: tuple[int, ...], inputs: str | None) -> np.ndarray:
    """Return the windows to be asked, shape (n, *shape), float32: those given, or normal ones."""
    if inputs is None:
        windows = np.random.default_rng(0).normal(size=(_WINDOWS, *shape))
    else:
        windows = np.load(inputs).reshape(-1, *shape)
    return np.asarray(windows, np.float32)


def _answer(tf: Any, call: Any, window: np.ndarray) -> np.ndarray:
    name = call.inputs[0].name.split(":")[0]
    tensor = tf.constant(window[None], call.inputs[0].dtype)
    try:
        answer = call(tensor)
    except TypeError:
        answer = call(**{name: tensor})
    if isinstance(answer, dict):
        answer = next(iter(answer.values()))
    elif isinstance(answer, (list, tuple)):
        answer = answer[0]
    return np.asarray(answer, np.float32)


def _converted(tf: Any, call: Any, owner: Any) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call], owner)
    return bytes(converter.convert())
