"""Dense float networks as ONNX files, made on the spot with a fixed seed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

__all__ = ["dense_onnx"]

_FLOAT = 1


def dense_onnx(sizes: Sequence[int], *, seed: int = 3) -> bytes:
    """Return a network of dense layers with ReLU between them, batch axis free.

    Args:
        sizes: Inputs, then the units of each layer.
        seed: Of the weights.
    """
    random = np.random.default_rng(seed)
    nodes, constants, name = [], [], "x"
    for i, (inputs, units) in enumerate(itertools.pairwise(sizes)):
        weights = random.normal(size=(inputs, units)) / np.sqrt(inputs)
        constants += [_constant(f"w{i}", weights), _constant(f"b{i}", np.zeros(units))]
        is_last = i == len(sizes) - 2
        product = "y" if is_last else f"g{i}"
        nodes.append(_node("Gemm", [name, f"w{i}", f"b{i}"], product))
        name = f"h{i}"
        if not is_last:
            nodes.append(_node("Relu", [product], name))
    graph = b"".join(
        [
            *(_field(1, node) for node in nodes),
            _field(2, "dense"),
            *(_field(5, constant) for constant in constants),
            _field(11, _value("x", sizes[0])),
            _field(12, _value("y", sizes[-1])),
        ]
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 17))


# The few messages of ``onnx.proto3`` that this takes, by field number.


def _node(operator: str, inputs: Sequence[str], output: str) -> bytes:
    return b"".join(_field(1, one) for one in inputs) + _field(2, output) + _field(4, operator)


def _constant(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(_field(1, size) for size in values.shape)
    content = values.astype("<f4").tobytes()
    return dims + _field(2, _FLOAT) + _field(8, name) + _field(9, content)


def _value(name: str, size: int) -> bytes:
    dims = _field(1, _field(2, "n")) + _field(1, _field(1, size))
    return _field(1, name) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, dims)))


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])
