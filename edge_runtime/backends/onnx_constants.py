"""Writes what never changes into an ONNX file, so that the runtime can compute it once.

An input that is a constant, such as a sample rate, makes ONNX Runtime decide at
every call what it could have decided when it loaded the model; the same goes for an
input whose free axes always have one size. Source: ``onnx.proto3``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edge_runtime.backends import onnx_fields as fields
from edge_runtime.backends.onnx_graph import Port, read_port
from edge_runtime.backends.protobuf import field, number_field, spans

__all__ = ["with_constants"]

_DTYPES = {
    1: "<f4",
    2: "<u1",
    3: "<i1",
    4: "<u2",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    9: "?",
    10: "<f2",
    11: "<f8",
    12: "<u4",
    13: "<u8",
}


def with_constants(
    model: bytes, constants: Mapping[str, float], shapes: Mapping[str, Sequence[int]]
) -> bytes:
    """Return the model with inputs turned into constants, and with axes that are no longer free.

    Args:
        model: A complete ``.onnx`` file.
        constants: Value of each input that becomes a constant; free axes get one entry.
        shapes: Shape of each input that keeps its name, every axis 1 or more.

    Returns:
        A file that answers the same, without the inputs ``constants`` names.

    Raises:
        ValueError: The bytes are no ONNX file, or an input holds no numbers.
    """
    parts = (
        field(fields.MODEL_GRAPH, b"".join(_graph(part.value, constants, shapes)))
        if part.number == fields.MODEL_GRAPH
        else part.raw
        for part in spans(memoryview(model))
    )
    return b"".join(parts)


def _graph(
    graph: memoryview, constants: Mapping[str, float], shapes: Mapping[str, Sequence[int]]
) -> Iterator[bytes | memoryview]:
    for part in spans(graph):
        port = read_port(part.value) if part.number == fields.GRAPH_INPUT else None
        if port is not None and port.name in constants:
            yield field(fields.GRAPH_INITIALISER, _tensor(port, constants[port.name]))
        elif port is not None and port.name in shapes:
            yield field(fields.GRAPH_INPUT, _value(port, shapes[port.name]))
        else:
            yield part.raw


def _tensor(port: Port, value: float) -> bytes:
    if port.element not in _DTYPES:
        raise ValueError(f"input {port.name!r} has the element type {port.element}")
    shape = [size if isinstance(size, int) else 1 for size in port.shape]
    numbers = np.full(shape, value, _DTYPES[port.element])
    return b"".join(
        [
            *(number_field(fields.TENSOR_DIMS, size) for size in shape),
            number_field(fields.TENSOR_TYPE, port.element),
            field(fields.TENSOR_NAME, port.name.encode()),
            field(fields.TENSOR_RAW, numbers.tobytes()),
        ]
    )


def _value(port: Port, sizes: Sequence[int]) -> bytes:
    shape = b"".join(
        field(fields.SHAPE_DIM, number_field(fields.DIM_VALUE, size)) for size in sizes
    )
    tensor = number_field(fields.TYPE_ELEMENT, port.element) + field(fields.TENSOR_SHAPE, shape)
    return field(fields.VALUE_NAME, port.name.encode()) + field(
        fields.VALUE_TYPE, field(fields.TYPE_TENSOR, tensor)
    )
