"""Operator versions in a TFLite file, made honest.

A quantiser may leave the versions of the float file on operators that now use newer
kernels. An older runtime then loads the file and answers garbage; with the true
version it refuses. Source: TensorFlow, ``lite/tools/versioning/op_version.cc``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge_converters.tflite_file import read_file, write_file

__all__ = ["Stamp", "restamp"]

_FLOAT32, _INT8 = 0, 9
_FULLY_CONNECTED, _CONV_2D, _DEPTHWISE_CONV_2D = 9, 3, 4
_NAMES = {
    _FULLY_CONNECTED: "FULLY_CONNECTED",
    _CONV_2D: "CONV_2D",
    _DEPTHWISE_CONV_2D: "DEPTHWISE_CONV_2D",
}
# Float activations with int8 weights: one scale for the tensor, one for each channel.
_HYBRID = {_FULLY_CONNECTED: (3, 12), _CONV_2D: (2, 5), _DEPTHWISE_CONV_2D: (4, 6)}
_INTEGER = {_FULLY_CONNECTED: 4, _CONV_2D: 3, _DEPTHWISE_CONV_2D: 3}


class Stamp(msgspec.Struct, frozen=True):
    """A version that was too low.

    Attributes:
        operator: Its name in the schema.
        stamped: What the file said.
        needed: What its kernels need.
    """

    operator: str
    stamped: int
    needed: int

    def __str__(self) -> str:
        return f"{self.operator} was stamped version {self.stamped} and needs {self.needed}"


def restamp(model: bytes) -> tuple[bytes, tuple[Stamp, ...]]:
    """Raise operator versions to what the operators really are.

    Looks at FULLY_CONNECTED, CONV_2D and DEPTHWISE_CONV_2D, float and int8; others keep
    what they say.

    Args:
        model: A ``.tflite`` file.

    Returns:
        The file, the same bytes where nothing was wrong, and what was changed.

    Raises:
        ModelError: The bytes are no TFLite file.
    """
    parsed = read_file(model)
    stamps = _corrected(parsed)
    return (write_file(parsed), stamps) if stamps else (model, ())


def _corrected(model: Any) -> tuple[Stamp, ...]:
    needed: dict[int, int] = {}
    for graph in model.subgraphs:
        for operator in graph.operators or []:
            code = model.operatorCodes[operator.opcodeIndex]
            version = _needed(_builtin(code), operator, graph.tensors)
            needed[operator.opcodeIndex] = max(version, needed.get(operator.opcodeIndex, 0))
    stamps = []
    for index, version in sorted(needed.items()):
        code = model.operatorCodes[index]
        if code.version < version:
            stamps.append(Stamp(_NAMES[_builtin(code)], code.version, version))
            code.version = version
    return tuple(stamps)


def _builtin(code: Any) -> int:
    # Old files know only the first field; new ones set it to 127 and use the second.
    return int(max(code.deprecatedBuiltinCode, code.builtinCode))


def _needed(builtin: int, operator: Any, tensors: list[Any]) -> int:
    if builtin not in _HYBRID:
        return 0
    window, weights = (tensors[index] for index in operator.inputs[:2])
    if weights.type != _INT8:
        return 0
    if window.type == _INT8:
        return _INTEGER[builtin]
    if window.type != _FLOAT32:
        return 0
    scales = weights.quantization.scale if weights.quantization is not None else None
    return _HYBRID[builtin][scales is not None and len(scales) > 1]
