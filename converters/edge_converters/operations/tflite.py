"""Reads the operators of a TFLite file."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_converters.operations.operation import Operation
from edge_converters.tflite_file import read_file

__all__ = ["macs_of", "read_tflite"]

_WEIGHTS = 1
_INTEGERS = frozenset({"int4", "int8", "uint8"})
# What repeats, branches or keeps state: its cost is not in its weights and its answer.
_UNKNOWN = frozenset(
    {
        "BIDIRECTIONAL_SEQUENCE_LSTM",
        "BIDIRECTIONAL_SEQUENCE_RNN",
        "CALL",
        "CONV_3D_TRANSPOSE",
        "CUSTOM",
        "IF",
        "LSTM",
        "RNN",
        "SVDF",
        "TRANSPOSE_CONV",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "UNIDIRECTIONAL_SEQUENCE_RNN",
        "WHILE",
    }
)


def read_tflite(model: bytes) -> tuple[Operation, ...]:
    """Return the operators of a file's main graph, in order of execution.

    Raises:
        ModelError: The bytes are no TFLite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    parsed = read_file(model)
    kinds = _names(schema.BuiltinOperator)
    types = {number: name.lower() for number, name in _names(schema.TensorType).items()}
    graph = parsed.subgraphs[0]
    return tuple(
        _operation(parsed, graph.tensors, one, kinds, types) for one in graph.operators or ()
    )


def macs_of(kind: str, weights: tuple[int, ...], output: tuple[int, ...]) -> int | None:
    """Return the multiply-accumulates of one call.

    Args:
        kind: Operator type.
        weights: Shape of its second input; empty without one.
        output: Shape of its output.
    """
    if kind.partition(" ")[0] in _UNKNOWN:
        return None
    size = int(np.prod(weights))
    if kind == "FULLY_CONNECTED":
        return size * max(1, int(np.prod(output)) // weights[0])
    if kind in {"CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D"}:
        return size * int(np.prod(output[1:-1]))
    if kind == "BATCH_MATMUL":
        return int(np.prod(output)) * (size // max(1, int(np.prod(weights[:-2])) * output[-1]))
    return 0


def _operation(
    model: Any, tensors: list[Any], operator: Any, kinds: dict[int, str], types: dict[int, str]
) -> Operation:
    code = model.operatorCodes[operator.opcodeIndex]
    kind = kinds.get(max(code.deprecatedBuiltinCode, code.builtinCode), "UNKNOWN")
    if kind == "CUSTOM":
        kind = f"CUSTOM {code.customCode.decode()}"
    inputs = [tensors[place] for place in operator.inputs if place >= 0]
    outputs = [tensors[place] for place in operator.outputs]
    if not outputs:
        return Operation(kind, int(code.version), types[inputs[-1].type] if inputs else "none")
    weights = inputs[_WEIGHTS] if len(inputs) > _WEIGHTS else None
    precision = types[outputs[0].type]
    if weights is not None and precision == "float32" and types[weights.type] in _INTEGERS:
        precision = f"{types[weights.type]} weights"
    macs = macs_of(kind, _shape(weights) if weights is not None else (), _shape(outputs[0]))
    return Operation(kind, int(code.version), precision, macs)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in (tensor.shape if tensor.shape is not None else ()))


def _names(enumeration: type) -> dict[int, str]:
    found = {number: name for name, number in vars(enumeration).items() if isinstance(number, int)}
    return {number: name for number, name in found.items() if not name.startswith("_")}
