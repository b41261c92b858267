"""TFLite files as objects: read whole, changed, and written as one FlatBuffer."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime.errors import ModelError

__all__ = ["read_file", "write_file"]

_IDENTIFIER = b"TFL3"


def read_file(model: bytes) -> Any:
    """Return the object of a file, of the schema's class ``ModelT``.

    Tools keep the weights of larger models behind the FlatBuffer, where only an offset
    leads to them: they are taken into it, or writing the object would lose them.

    Raises:
        ModelError: The bytes are no TFLite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    try:
        parsed = schema.ModelT.InitFromPackedBuf(model, 0)
        for buffer in parsed.buffers:
            # 0 and 1 stand for "inside".
            if buffer.offset > 1:
                buffer.data = _part(model, buffer.offset, buffer.size)
                buffer.offset = buffer.size = 0
        for graph in parsed.subgraphs:
            for one in graph.operators or ():
                if one.largeCustomOptionsOffset > 1:
                    place, size = one.largeCustomOptionsOffset, one.largeCustomOptionsSize
                    one.customOptions = _part(model, place, size)
                    one.largeCustomOptionsOffset = one.largeCustomOptionsSize = 0
    except Exception as error:
        raise ModelError(
            f"the file cannot be read: {error}",
            expected="a complete TFLite model",
            remedy="Compare the file's digest with its origin's; convert the model again.",
        ) from error
    return parsed


def write_file(parsed: Any) -> bytes:
    """Return the file of an object; equal objects give equal bytes."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(parsed.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def _part(model: bytes, place: int, size: int) -> np.ndarray:
    if place + size > len(model):
        raise ValueError(f"{size} bytes at {place} lie beyond its end at {len(model)}")
    return np.frombuffer(model, np.uint8, size, place)
