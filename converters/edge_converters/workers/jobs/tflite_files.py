"""Writes a float TFLite file as ONNX, and says what the TFLite file answers.

Runs in the worker ``keras``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_converters.workers.jobs.tensorflow_onnx import OPSET, as_onnx, written
from edge_converters.workers.jobs.windows import windows_of
from edge_converters.workers.refusal import Refusal

__all__ = ["to_onnx"]


def to_onnx(model: str, folder: str, is_trusted: bool, inputs: str | None) -> dict[str, object]:
    """Convert a file, and answer windows with it.

    Args:
        model: ``.tflite`` with one float32 input and one float32 output.
        folder: Where ``model.onnx``, ``inputs.npy`` and ``outputs.npy`` go.
        is_trusted: Without meaning: a TFLite file runs no code.
        inputs: ``.npy`` of windows to be asked, shape (n, …); None draws them.

    Returns:
        ``file`` and ``version``.

    Raises:
        Refusal: Its ends are not float32, or an operator has no counterpart in ONNX.
    """
    del is_trusted
    import tensorflow as tf

    place = Path(folder)
    interpreter = tf.lite.Interpreter(model)
    interpreter.allocate_tensors()
    source = _only("input", interpreter.get_input_details())
    target = _only("output", interpreter.get_output_details())
    windows = windows_of(tuple(source["shape"][1:].tolist()), inputs)
    answers = [_answer(interpreter, source, target, row) for row in windows]
    np.save(place / "inputs.npy", windows)
    np.save(place / "outputs.npy", np.concatenate(answers))
    made = as_onnx(lambda tf2onnx: tf2onnx.convert.from_tflite(model, opset=OPSET))
    return written(made, place / "model.onnx", tf)


def _only(what: str, details: list[dict[str, Any]]) -> dict[str, Any]:
    if len(details) != 1:
        raise Refusal(
            f"the file has {len(details)} {what}s",
            "one window in and one answer out",
            "Ship the TFLite file as it is: leave --to out.",
        )
    kind = np.dtype(details[0]["dtype"]).name
    if kind != "float32":
        raise Refusal(
            f"the file's {what} is {kind}",
            "float32: the scales of an integer tensor have no place in ONNX",
            "Convert the float file it was made of, and quantise that: --precision int8.",
        )
    return details[0]


def _answer(
    interpreter: Any, source: dict[str, Any], target: dict[str, Any], window: np.ndarray
) -> np.ndarray:
    interpreter.reset_all_variables()
    interpreter.set_tensor(source["index"], window[None])
    interpreter.invoke()
    return np.array(interpreter.get_tensor(target["index"]))
