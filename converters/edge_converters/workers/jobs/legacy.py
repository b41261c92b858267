"""Asks a TFLite file questions on tflite-runtime 2.14; runs in the worker ``verify-legacy``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["answer"]


def answer(model: str, inputs: str, outputs: str) -> dict[str, object]:
    """Answer windows one by one, each by an interpreter that has forgotten the others.

    Args:
        model: A ``.tflite`` file.
        inputs: ``.npy``, shape (n, …), real values or the model's own dtype.
        outputs: Where the answers go, ``.npy``, float32, shape (n, …).
    """
    from importlib.metadata import version

    from tflite_runtime.interpreter import Interpreter

    interpreter = Interpreter(model_content=Path(model).read_bytes(), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for window in np.load(inputs):
        interpreter.reset_all_variables()
        interpreter.set_tensor(source["index"], _tensor(window, source))
        interpreter.invoke()
        rows.append(_real(interpreter.get_tensor(target["index"]), target))
    np.save(outputs, np.concatenate(rows))
    return {"runtime": f"tflite-runtime {version('tflite-runtime')}"}


def _tensor(window: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero = tensor["quantization"]
    dtype = tensor["dtype"]
    values = window.reshape(tensor["shape"])
    if window.dtype == dtype:
        return values
    if scale:
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values / np.float32(scale)) + zero, limits.min, limits.max)
    return np.asarray(values.astype(dtype))


def _real(answer: np.ndarray, tensor: dict[str, Any]) -> np.ndarray:
    scale, zero = tensor["quantization"]
    real = (answer.astype(np.float64) - zero) * scale if scale else answer
    return np.asarray(real, np.float32)
