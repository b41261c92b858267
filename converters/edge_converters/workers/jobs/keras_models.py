"""Opens a Keras model or SavedModel, writes it as float TFLite or ONNX, and says what it answers.

Runs in the worker ``keras``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from edge_converters.workers.jobs.tensorflow_onnx import OPSET, as_onnx, written
from edge_converters.workers.jobs.windows import windows_of
from edge_converters.workers.refusal import Refusal

__all__ = ["to_onnx", "to_tflite"]


def to_tflite(model: str, folder: str, is_trusted: bool, inputs: str | None) -> dict[str, object]:
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

    call, owner = _opened(tf, model, Path(folder), is_trusted, batch=1)
    call.inputs[0].set_shape([1, *_shape_of(call)])
    _answered(tf, call, Path(folder), inputs)
    file = Path(folder) / "model.tflite"
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call], owner)
    file.write_bytes(converter.convert())
    return {"file": str(file), "version": f"tensorflow {tf.__version__}"}


def to_onnx(model: str, folder: str, is_trusted: bool, inputs: str | None) -> dict[str, object]:
    """Convert a model with any batch, and answer windows with the original.

    A recurrent net that becomes a Loop answers a window in a batch a rounding apart
    from the same window alone, so that its batch is one.
    Arguments, returns and raises are those of `to_tflite`.
    """
    import tensorflow as tf

    call, _ = _opened(tf, model, Path(folder), is_trusted, batch=None)
    _answered(tf, call, Path(folder), inputs)
    made = _as_onnx(tf, call, batch=None)
    if any(node.op_type == "Loop" for node in made.graph.node):
        made = _as_onnx(tf, call, batch=1)
    return written(made, Path(folder) / "model.onnx", tf)


def _as_onnx(tf: Any, call: Any, *, batch: int | None) -> Any:
    window = tf.TensorSpec([batch, *_shape_of(call)], call.inputs[0].dtype, name="window")
    whole = tf.function(lambda window: _called(call, window), input_signature=[window])
    return as_onnx(lambda tf2onnx: tf2onnx.convert.from_function(whole, [window], opset=OPSET))


def _opened(
    tf: Any, model: str, folder: Path, is_trusted: bool, *, batch: int | None
) -> tuple[Any, Any]:
    """Return the model's one function, and what keeps its variables."""
    if not Path(model).is_dir():
        model = _exported(tf, model, folder / "saved", is_trusted, batch)
    return _saved(tf, model)


def _exported(tf: Any, model: str, folder: Path, is_trusted: bool, batch: int | None) -> str:
    """Write a Keras model as a SavedModel whose one signature takes such a batch."""
    import keras

    loaded = _loaded(keras, model, is_trusted)
    _check_ends("inputs", loaded.inputs)
    _check_ends("outputs", loaded.outputs)
    shape = [batch, *loaded.inputs[0].shape[1:]]
    _check_axes(shape)
    archive = keras.export.ExportArchive()
    archive.track(loaded)
    archive.add_endpoint(
        "serving_default",
        lambda window: loaded(window, training=False),
        input_signature=[tf.TensorSpec(shape, loaded.inputs[0].dtype, name="window")],
    )
    archive.write_out(str(folder), verbose=False)
    return str(folder)


def _loaded(keras: Any, model: str, is_trusted: bool) -> Any:
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
    _check_axes(call.inputs[0].shape.as_list())
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


def _answered(tf: Any, call: Any, folder: Path, inputs: str | None) -> None:
    """Write windows and what the original answers to each."""
    windows = windows_of(_shape_of(call), inputs)
    kind = call.inputs[0].dtype
    answers = [np.asarray(_called(call, tf.constant(row[None], kind))) for row in windows]
    np.save(folder / "inputs.npy", windows)
    np.save(folder / "outputs.npy", np.concatenate(answers).astype(np.float32))


def _called(call: Any, tensor: Any) -> Any:
    """Return the one answer of a signature with one input."""
    (name,) = call.structured_input_signature[1]
    (answer,) = call(**{name: tensor}).values()
    return answer
