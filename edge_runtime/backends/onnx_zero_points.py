"""Gives every DequantizeLinear of an ONNX file a zero point of its own.

Files in which operators share them mean the same, but ONNX Runtime cannot make the
weights of such a file unsigned. Source: ``onnx.proto3``, Protocol Buffers encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.backends.onnx_graph import (
    GRAPH_INITIALISER,
    GRAPH_NODE,
    MODEL_GRAPH,
    NODE_INPUT,
    NODE_TYPE,
    TENSOR_NAME,
    spans,
    text_of,
)

__all__ = ["unshared"]

_BYTES = 2
_ZERO_POINT = 2  # third input of a DequantizeLinear


def unshared(model: bytes) -> bytes:
    """Return the model with a copy of the zero point for each operator that shares one.

    Args:
        model: A complete ``.onnx`` file; what it computes stays the same.

    Raises:
        ValueError: The bytes are no ONNX file.
    """
    parts = (
        _field(MODEL_GRAPH, b"".join(_graph(part.value)))
        if part.number == MODEL_GRAPH
        else part.raw
        for part in spans(memoryview(model))
    )
    return b"".join(parts)


def _graph(graph: memoryview) -> Iterator[bytes]:
    """Yield the fields of a graph, renamed, and then the copies."""
    parts = list(spans(graph))
    names = {
        text_of(one.value): part.value
        for part in parts
        if part.number == GRAPH_INITIALISER
        for one in spans(part.value)
        if one.number == TENSOR_NAME
    }
    seen: set[str] = set()
    copies: list[bytes] = []
    for number, part in enumerate(parts):
        name = _zero_point_of(part.value) if part.number == GRAPH_NODE else None
        if name is None or name not in names or name not in seen:
            seen.add(name or "")
            yield bytes(part.raw)
            continue
        own = f"{name}_of_{number}"
        copies.append(_field(GRAPH_INITIALISER, _renamed(names[name], own)))
        yield _field(GRAPH_NODE, _with_zero_point(part.value, own))
    yield from copies


def _zero_point_of(node: memoryview) -> str | None:
    """Return the name of a DequantizeLinear's zero point; None for others."""
    parts = list(spans(node))
    kinds = [text_of(part.value) for part in parts if part.number == NODE_TYPE]
    inputs = [part.value for part in parts if part.number == NODE_INPUT]
    if kinds != ["DequantizeLinear"] or len(inputs) <= _ZERO_POINT:
        return None
    return text_of(inputs[_ZERO_POINT])


def _with_zero_point(node: memoryview, name: str) -> bytes:
    parts = list(spans(node))
    places = [place for place, part in enumerate(parts) if part.number == NODE_INPUT]
    raw = [bytes(part.raw) for part in parts]
    raw[places[_ZERO_POINT]] = _field(NODE_INPUT, name.encode())
    return b"".join(raw)


def _renamed(tensor: memoryview, name: str) -> bytes:
    kept = (bytes(part.raw) for part in spans(tensor) if part.number != TENSOR_NAME)
    return b"".join([*kept, _field(TENSOR_NAME, name.encode())])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
