"""The bare runtimes: set, invoke, get, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["BARE", "Answer", "litert", "onnx"]

Answer = Callable[[np.ndarray], np.ndarray]


def litert(model: bytes, count: int = 1) -> Answer:
    """Return a function that answers batches of ``count`` rows, one thread."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    source = interpreter.get_input_details()[0]
    if count > 1:
        interpreter.resize_tensor_input(source["index"], (count, *source["shape"][1:]))
    interpreter.allocate_tensors()
    target = interpreter.get_output_details()[0]["index"]
    set_tensor, invoke, get_tensor = (
        interpreter.set_tensor,
        interpreter.invoke,
        interpreter.get_tensor,
    )
    place = source["index"]

    def answer(batch: np.ndarray) -> np.ndarray:
        set_tensor(place, batch)
        invoke()
        result: np.ndarray = get_tensor(target)
        return result

    return answer


def onnx(model: bytes, count: int = 1) -> Answer:  # noqa: ARG001 - any number of rows fits
    """Return a function that answers batches, one thread that does not spin."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    source, names = session.get_inputs()[0].name, [session.get_outputs()[0].name]

    def answer(batch: np.ndarray) -> np.ndarray:
        result: np.ndarray = session.run(names, {source: batch})[0]
        return result

    return answer


BARE: dict[str, Callable[..., Answer]] = {"litert": litert, "onnx": onnx}
