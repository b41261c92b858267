"""Tensors of the Open Inference Protocol and NumPy arrays: as JSON and as bytes.

Source: Open Inference Protocol v2, "Tensor Data Types" and "Tensor Data", and the
binary tensor data extension: little-endian, row-major; every element of ``BYTES``
after its length in four bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from edge_runtime.errors import RequestError

__all__ = ["DATATYPES", "Tensor", "datatype_of", "from_bytes", "from_json", "to_bytes", "to_json"]

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""Datatypes with elements of one size; ``BYTES`` only goes out."""

# What `struct` calls them, at the sizes of all machines.
_CODES = dict(zip(DATATYPES, "?BHIQbhiqefd", strict=True))
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_PYTHON = {"b": bool, "i": int, "u": int, "f": float}
_WORDS = {bool: "true or false", int: "whole numbers", float: "numbers"}
_OTHER_DATATYPE = "Choose the datatype that the metadata of the model gives."
# Of a value that does not fit, in a message.
_SHOWN_BYTES = 40
_FLOATS = msgspec.json.Decoder(list[float])
_INTEGERS = msgspec.json.Decoder(list[int])
_TRUTHS = msgspec.json.Decoder(list[bool])
_DECODERS: dict[str, Any] = {"b": _TRUTHS, "i": _INTEGERS, "u": _INTEGERS, "f": _FLOATS}
_ANY = msgspec.json.Decoder()


class Tensor(msgspec.Struct, frozen=True, eq=False):
    """A named array; text, dtype ``<U``, is what the protocol calls ``BYTES``."""

    name: str
    array: np.ndarray


def datatype_of(dtype: np.dtype) -> str:
    """Return the protocol's name of a dtype; ``BYTES`` for text."""
    return "BYTES" if dtype.kind == "U" else _NAMES[dtype]


def from_json(raw: msgspec.Raw, datatype: str, shape: Sequence[int], where: str) -> np.ndarray:
    """Read ``data``: a list of all elements in row-major order, or nested lists.

    Raises:
        RequestError: It has another number of elements, or one does not fit.
    """
    dtype = DATATYPES[datatype]
    values = _values(raw, datatype, where)
    count = len(values)
    if count != math.prod(shape):
        raise _count_error(count, shape, where)
    try:
        # A third of the time of np.array, and it looks at every range.
        content = struct.pack(f"<{count}{_CODES[datatype]}", *values)
    except (struct.error, OverflowError) as error:
        raise _range_error(values, datatype, dtype, where) from error
    return np.frombuffer(content, dtype).reshape(shape)


def from_bytes(content: bytes, datatype: str, shape: Sequence[int], where: str) -> np.ndarray:
    """Read the elements of a tensor in the binary extension.

    Raises:
        RequestError: They are not as many bytes as the shape says.
    """
    dtype = DATATYPES[datatype]
    expected = math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise RequestError(
            f"binary_data_size is {len(content)}",
            where=where,
            expected=f"{expected} bytes for {datatype} {list(shape)}",
            remedy="Send the elements in row-major order, little-endian.",
        )
    return np.frombuffer(content, dtype).reshape(shape)


def to_json(array: np.ndarray) -> list[Any]:
    """Return all elements in row-major order; what is not finite becomes null in JSON."""
    elements: list[Any] = array.ravel().tolist()
    return elements


def to_bytes(array: np.ndarray) -> bytes:
    """Return all elements in the binary extension."""
    if array.dtype.kind != "U":
        return array.tobytes()
    texts = [text.encode() for text in array.ravel().tolist()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _values(raw: msgspec.Raw, datatype: str, where: str) -> list[Any]:
    try:
        values: list[Any] = _DECODERS[DATATYPES[datatype].kind].decode(raw)
        return values
    except msgspec.ValidationError:
        return _flattened(raw, datatype, where)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _unfit(str(error), where) from error


def _flattened(raw: msgspec.Raw, datatype: str, where: str) -> list[Any]:
    """Read nested lists; null is a missing number, as NaN is in bytes."""
    try:
        values = _ANY.decode(raw)
        if not isinstance(values, list):
            raise TypeError(values)
        while values and isinstance(values[0], list):
            values = [item for row in values for item in row]
    except (TypeError, RecursionError, msgspec.DecodeError) as error:
        raise _unfit("it is no list of numbers, or its lists have several depths", where) from error
    return [_element(value, datatype, where) for value in values]


def _element(value: object, datatype: str, where: str) -> object:
    type_ = _PYTHON[DATATYPES[datatype].kind]
    if value is None and type_ is float:
        return math.nan
    if type(value) is type_ or (type_ is float and type(value) is int):
        return value
    if isinstance(value, (list, dict)):
        raise _unfit("its lists have several depths, or it has objects", where)
    raise RequestError(
        f"data has {msgspec.json.encode(value)[:_SHOWN_BYTES].decode(errors='replace')}",
        where=where,
        expected=f"{_WORDS[type_]} for {datatype}",
        remedy=_OTHER_DATATYPE,
    )


def _count_error(count: int, shape: Sequence[int], where: str) -> RequestError:
    return RequestError(
        f"data has {count} elements",
        where=where,
        expected=f"{math.prod(shape)} for shape {list(shape)}",
        remedy="Send all elements in row-major order.",
    )


def _range_error(values: list[Any], datatype: str, dtype: np.dtype, where: str) -> RequestError:
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return RequestError(
        f"data has values from {min(values)} to {max(values)}",
        where=where,
        expected=f"{limits.min} to {limits.max} for {datatype}",
        remedy=_OTHER_DATATYPE,
    )


def _unfit(what: str, where: str) -> RequestError:
    return RequestError(
        f"data cannot be read: {what}",
        where=where,
        expected="a list of elements in row-major order, or lists of lists of one depth",
        remedy="Send data, or the bytes of the tensor with binary_data_size.",
    )
