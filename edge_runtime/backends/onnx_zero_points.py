"""Gives every DequantizeLinear of an ONNX file a zero point of its own.

Files in which operators share them mean the same, but ONNX Runtime cannot make the
weights of such a file unsigned. Source: ``onnx.proto3``, Protocol Buffers encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.backends import onnx_fields as fields
from edge_runtime.backends.protobuf import field, spans, text_of

__all__ = ["unshared"]

_ZERO_POINT = 2  # third input of a DequantizeLinear


def unshared(model: bytes) -> bytes:
    """Return the model with a copy of the zero point for each operator that shares one.

    Args:
        model: A complete ``.onnx`` file; what it computes stays the same.

    Raises:
        ValueError: The bytes are no ONNX file.
    """
    parts = (
        field(fields.MODEL_GRAPH, b"".join(_graph(part.value)))
        if part.number == fields.MODEL_GRAPH
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
        if part.number == fields.GRAPH_INITIALISER
        for one in spans(part.value)
        if one.number == fields.TENSOR_NAME
    }
    seen: set[str] = set()
    copies: list[bytes] = []
    for number, part in enumerate(parts):
        name = _zero_point_of(part.value) if part.number == fields.GRAPH_NODE else None
        if name is None or name not in names or name not in seen:
            seen.add(name or "")
            yield bytes(part.raw)
            continue
        own = f"{name}_of_{number}"
        copies.append(field(fields.GRAPH_INITIALISER, _renamed(names[name], own)))
        yield field(fields.GRAPH_NODE, _with_zero_point(part.value, own))
    yield from copies


def _zero_point_of(node: memoryview) -> str | None:
    """Return the name of a DequantizeLinear's zero point; None for others."""
    parts = list(spans(node))
    kinds = [text_of(part.value) for part in parts if part.number == fields.NODE_TYPE]
    inputs = [part.value for part in parts if part.number == fields.NODE_INPUT]
    if kinds != ["DequantizeLinear"] or len(inputs) <= _ZERO_POINT:
        return None
    return text_of(inputs[_ZERO_POINT])


def _with_zero_point(node: memoryview, name: str) -> bytes:
    parts = list(spans(node))
    places = [place for place, part in enumerate(parts) if part.number == fields.NODE_INPUT]
    raw = [bytes(part.raw) for part in parts]
    raw[places[_ZERO_POINT]] = field(fields.NODE_INPUT, name.encode())
    return b"".join(raw)


def _renamed(tensor: memoryview, name: str) -> bytes:
    kept = (bytes(part.raw) for part in spans(tensor) if part.number != fields.TENSOR_NAME)
    return b"".join([*kept, field(fields.TENSOR_NAME, name.encode())])
