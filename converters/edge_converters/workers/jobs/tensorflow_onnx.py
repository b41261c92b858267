"""What every way from TensorFlow to ONNX shares; tf2onnx does the work.

Runs in the worker ``keras``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_converters.workers.refusal import Refusal

__all__ = ["OPSET", "as_onnx", "written"]

OPSET = 18


def as_onnx(convert: Callable[[Any], tuple[Any, Any]]) -> Any:
    """Return the ONNX model that tf2onnx makes.

    Args:
        convert: Gets the module; returns the model, and what tf2onnx keeps beside it.

    Raises:
        Refusal: An operator has no counterpart.
    """
    import tf2onnx

    try:
        return convert(tf2onnx)[0]
    except (ValueError, IndexError, KeyError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise Refusal(
            f"tf2onnx cannot convert it: {reason}",
            "operators that ONNX has too, and no variables that are written",
            "Ship the model as TFLite: --to tflite.",
        ) from error


def written(model: Any, file: Path, tensorflow: Any) -> dict[str, object]:
    """Write a model; return ``file``, and the ``version`` of all that made it."""
    import tf2onnx

    file.write_bytes(model.SerializeToString())
    made = f"tf2onnx {tf2onnx.__version__} and tensorflow {tensorflow.__version__}"
    return {"file": str(file), "version": made}
