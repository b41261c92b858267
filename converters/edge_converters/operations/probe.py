"""Asks a TFLite runtime for operators, one at a time, with a graph of nothing else."""

from __future__ import annotations

from typing import Any

__all__ = ["MISSING", "graph_of", "is_known", "largest_versions"]

MISSING = ("Didn't find op", "out of range")
"""What a runtime says of an operator that it does not have."""
_CUSTOM = "CUSTOM"
# What every runtime registers beside the operators of the schema; asked with a graph that
# is not theirs, they crash. Source: TensorFlow, ``lite/core/kernels/register.cc``.
_CUSTOMS = ("AudioSpectrogram", "Mfcc", "NumericVerify", "TFLite_Detection_PostProcess")
_NEWEST = 24
_FLOAT32 = 0


def is_known(interpreter: Any, kind: str, version: int) -> bool:
    """Return whether a runtime has an operator; what else it says about the graph counts not.

    Args:
        interpreter: Class of the runtime.
        kind: Operator type, as in the schema; ``CUSTOM NAME`` for a custom one.
        version: Its version.
    """
    builtin, _, custom = kind.partition(" ")
    if builtin == _CUSTOM:
        return custom in _CUSTOMS
    if kind not in _codes():
        return False
    try:
        interpreter(model_content=graph_of(kind, version))
    except (RuntimeError, ValueError) as error:
        return not any(part in str(error) for part in MISSING)
    return True


def largest_versions(interpreter: Any) -> dict[str, int]:
    """Return the newest version that a runtime has of each operator it knows."""
    found = {
        kind: max((one for one in range(1, _NEWEST) if is_known(interpreter, kind, one)), default=0)
        for kind in sorted(_codes().keys() - {_CUSTOM})
    }
    return {kind: newest for kind, newest in found.items() if newest} | dict.fromkeys(
        (f"{_CUSTOM} {name}" for name in _CUSTOMS), 1
    )


def _codes() -> dict[str, int]:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    names = vars(BuiltinOperator).items()
    return {name: code for name, code in names if isinstance(code, int)}


def graph_of(kind: str, version: int) -> bytes:
    """Return a file with one operator that has one input and one output."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    code = _codes()[kind]
    model, graph, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorT()
    model.version, model.buffers = 3, [schema.BufferT()]
    named = schema.OperatorCodeT()
    named.builtinCode, named.deprecatedBuiltinCode, named.version = code, min(code, 127), version
    if code == schema.BuiltinOperator.LSTM:
        operator.builtinOptionsType = schema.BuiltinOptions.LSTMOptions
        operator.builtinOptions = schema.LSTMOptionsT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph.tensors = [_tensor(schema, b"in"), _tensor(schema, b"out")]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    model.operatorCodes, model.subgraphs = [named], [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(schema: Any, name: bytes) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [1], _FLOAT32, 0
    return tensor
