"""Reads the operators of an ONNX file."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from edge_converters.operations.operation import Operation
from edge_runtime.errors import ModelError

__all__ = ["read_onnx"]

# Where the weights of a product or convolution are.
_WEIGHTS = {
    "Conv": 1,
    "ConvInteger": 1,
    "Gemm": 1,
    "MatMul": 1,
    "MatMulInteger": 1,
    "QGemm": 3,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
}
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "QLinearConv"})
_INTEGER = frozenset({"QGemm", "QLinearConv", "QLinearMatMul"})
_DYNAMIC = frozenset({"ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul"})
# What repeats, branches, keeps state or walks a tree: its cost is not in its shapes.
_UNKNOWN = frozenset(
    {
        "ConvTranspose",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "Einsum",
        "GRU",
        "If",
        "LSTM",
        "Loop",
        "RNN",
        "SVMClassifier",
        "SVMRegressor",
        "Scan",
        "TreeEnsemble",
        "TreeEnsembleClassifier",
        "TreeEnsembleRegressor",
    }
)
_BEHIND = frozenset({"Clip", "Relu"})


def read_onnx(model: bytes) -> tuple[Operation, ...]:
    """Return the operators of a file's main graph, in order of execution.

    A product or convolution between DequantizeLinear and QuantizeLinear is int8: that is
    how ONNX Runtime runs it.

    Raises:
        ModelError: The bytes are no ONNX file.
    """
    try:
        proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    except Exception as error:
        raise ModelError(
            f"the file cannot be read: {error}",
            expected="a complete ONNX model",
            remedy="Compare the file's digest with its origin's; convert the model again.",
        ) from error
    graph = _Graph(proto)
    return tuple(graph.operation(node) for node in proto.graph.node)


class _Graph:
    """What stands around the nodes of a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._opsets = {one.domain: one.version for one in model.opset_import}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self._shapes: dict[str, tuple[int, ...]] = {
            one.name: tuple(one.dims) for one in graph.initializer
        }
        self._types: dict[str, int] = {one.name: one.data_type for one in graph.initializer}
        self._constants = frozenset(self._shapes)
        for value in (*graph.input, *graph.value_info, *graph.output):
            tensor = value.type.tensor_type
            self._types.setdefault(value.name, tensor.elem_type)
            shape = tuple(one.dim_value for one in tensor.shape.dim)
            self._shapes.setdefault(value.name, shape)

    def operation(self, node: onnx.NodeProto) -> Operation:
        kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        version = self._opsets.get(node.domain, 1)
        return Operation(kind, version, self._precision(node), self._macs(node))

    def _precision(self, node: onnx.NodeProto) -> str:
        if node.op_type in _INTEGER:
            return "int8"
        if node.op_type in _DYNAMIC:
            return "int8 weights"
        place = _WEIGHTS.get(node.op_type)
        if place is not None and self._is_integer_constant(node.input[place]):
            return "int8" if self._is_between(node) else "int8 weights"
        elem_type = self._types.get(node.output[0], 0)
        return _type_name(elem_type)

    def _is_integer_constant(self, name: str) -> bool:
        maker = self._makers.get(name)
        return (
            maker is not None
            and maker.op_type == "DequantizeLinear"
            and maker.input[0] in self._constants
        )

    def _is_between(self, node: onnx.NodeProto) -> bool:
        """Whether integers go in and come out."""
        maker = self._makers.get(node.input[0])
        if maker is None or maker.op_type != "DequantizeLinear":
            return False
        users = self._users.get(node.output[0], [])
        if len(users) == 1 and users[0].op_type in _BEHIND:
            users = self._users.get(users[0].output[0], [])
        return bool(users) and all(one.op_type == "QuantizeLinear" for one in users)

    def _macs(self, node: onnx.NodeProto) -> int | None:
        if node.op_type in _UNKNOWN:
            return None
        place = _WEIGHTS.get(node.op_type)
        if place is None:
            return 0
        weights = self._shape(node.input[place])
        output = self._shapes.get(node.output[0], ())
        # A free batch axis is one window; any other free axis is a cost nobody can tell.
        inner = output[2:] if node.op_type in _CONVOLUTIONS else output[1:-1]
        if not weights or not all(weights) or not all(inner):
            return None
        return int(np.prod(weights)) * int(np.prod(inner))

    def _shape(self, name: str) -> tuple[int, ...]:
        maker = self._makers.get(name)
        if name not in self._shapes and maker is not None:
            name = maker.input[0]
        return self._shapes.get(name, ())


def _type_name(elem_type: int) -> str:
    names: dict[int, Any] = {9: "bool", 8: "string", 1: "float32", 11: "float64"}
    if elem_type in names:
        return str(names[elem_type])
    return onnx.TensorProto.DataType.Name(elem_type).lower() if elem_type else "unknown"
