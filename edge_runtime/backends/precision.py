"""How a model is quantised, told by its tensors and never by its name."""

from __future__ import annotations

from typing import Literal

from edge_runtime.backends.onnx_graph import OnnxGraph, read_graph
from edge_runtime.backends.tflite_state import read_types

__all__ = ["Precision", "precision_of"]

Precision = Literal["float32", "float16", "dynamic", "int8", "int16x8", "mixed"]
"""``dynamic``: integer weights, floats in between. ``mixed``: some layers are
integer throughout, others are not."""

_BYTES = frozenset({"int8", "uint8", "int4"})
# Element types of ONNX tensors.
_FLOAT, _UINT8, _INT8, _FLOAT16 = 1, 2, 3, 10
_QUANTISED = frozenset({"QuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm"})


def precision_of(kind: str, model: bytes) -> Precision | None:
    """Classify a model file.

    Args:
        kind: ``tflite``, ``onnx`` or ``reference``.
        model: The file.

    Returns:
        None for a kind of file that nothing is known about.

    Raises:
        ValueError: The bytes are no such file.
    """
    if kind == "tflite":
        return _of_tflite(model)
    if kind == "onnx":
        return _of_onnx(read_graph(model))
    return "float32" if kind == "reference" else None


def _of_tflite(model: bytes) -> Precision:
    types = read_types(model)
    if not _BYTES & types.weights.keys():
        return "float16" if "float16" in types.weights else "float32"
    if "int16" in types.computed:
        return "int16x8"
    if not _BYTES & types.computed.keys():
        # A single integer layer computes nothing in between.
        return "dynamic" if "float32" in types.computed else "int8"
    return "mixed" if "float32" in types.computed else "int8"


def _of_onnx(graph: OnnxGraph) -> Precision:
    weights = graph.weight_types
    if not {_UINT8, _INT8} & weights.keys():
        return "float16" if _FLOAT16 in weights else "float32"
    if not _QUANTISED & graph.operators:
        return "dynamic"
    return "mixed" if _FLOAT in weights else "int8"
