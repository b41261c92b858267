"""Bodies of the Open Inference Protocol over HTTP: bytes to a `Request`, an `Answer` to bytes.

Source: Open Inference Protocol v2, "HTTP/REST", and Triton's binary tensor data
extension: a JSON header of ``Inference-Header-Content-Length`` bytes, then the
tensors that say ``binary_data_size`` in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime.errors import RequestError
from edge_runtime.modes.realtime.request import Answer, Parameters, Request
from edge_runtime.modes.realtime.tensors import (
    datatype_of,
    from_bytes,
    from_json,
    to_bytes,
    to_json,
)

__all__ = ["Asked", "decode", "encode"]

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
]
Name = Annotated[str, Meta(max_length=128)]
_NO_DATA = msgspec.Raw()


class _InputParameters(msgspec.Struct, frozen=True):
    binary_data_size: Annotated[int, Meta(ge=0)] | None = None
    shared_memory_region: str | None = None


class _Input(msgspec.Struct, frozen=True):
    name: Name
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=1 << 31)]], Meta(max_length=8)]
    datatype: Datatype
    parameters: _InputParameters = _InputParameters()
    data: msgspec.Raw = _NO_DATA


class _OutputParameters(msgspec.Struct, frozen=True):
    binary_data: bool | None = None
    classification: int = 0
    shared_memory_region: str | None = None


class _Output(msgspec.Struct, frozen=True):
    name: Name
    parameters: _OutputParameters = _OutputParameters()


class _Body(msgspec.Struct, frozen=True):
    inputs: Annotated[list[_Input], Meta(max_length=64)]
    id: Annotated[str, Meta(max_length=256)] = ""
    outputs: Annotated[list[_Output], Meta(max_length=64)] = []
    parameters: Parameters = Parameters()


class Asked(msgspec.Struct, frozen=True, eq=False):
    """A request, and how its answer is to be written.

    Attributes:
        request: What is asked.
        id: Goes back with the answer.
        binary: Names of the outputs that go as bytes.
        all_binary: Whether those do that did not say.
    """

    request: Request
    id: str = ""
    binary: frozenset[str] = frozenset()
    all_binary: bool = False


_BODY = msgspec.json.Decoder(_Body)
_JSON = msgspec.json.Encoder()


def decode(body: bytes, header_length: int | None) -> Asked:
    """Read the body of an ``infer`` request.

    Args:
        body: All of it.
        header_length: Bytes of JSON before the binary tensors; None for JSON alone.

    Raises:
        RequestError: It does not decode, or a tensor is not what it says.
    """
    header, rest = _split(body, header_length)
    found = _parsed(header)
    asked = found.outputs
    request = Request(
        _arrays(found.inputs, rest),
        tuple([output.name for output in asked]),
        found.parameters,
    )
    if not asked:
        return Asked(request, found.id, all_binary=found.parameters.binary_data_output)
    return Asked(request, found.id, _binary(asked, found.parameters.binary_data_output))


def encode(answer: Answer, asked: Asked) -> tuple[bytes, int | None]:
    """Write the body of an answer.

    Returns:
        The body, and the length of its JSON header where tensors follow as bytes.
    """
    outputs, parts = [], []
    for tensor in answer.outputs:
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": datatype_of(tensor.array.dtype),
            "shape": tensor.array.shape,
        }
        if asked.all_binary or tensor.name in asked.binary:
            content = to_bytes(tensor.array)
            entry["parameters"] = {"binary_data_size": len(content)}
            parts.append(content)
        else:
            entry["data"] = to_json(tensor.array)
        outputs.append(entry)
    body: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
    if asked.id:
        body["id"] = asked.id
    body["parameters"] = {"effective_id": answer.effective_id}
    body["outputs"] = outputs
    header = _JSON.encode(body)
    return (b"".join([header, *parts]), len(header)) if parts else (header, None)


def _split(body: bytes, header_length: int | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if header_length > len(body):
        raise RequestError(
            f"Inference-Header-Content-Length is {header_length}",
            where="header",
            expected=f"at most the body's {len(body)} bytes",
            remedy="Send the length of the JSON part alone.",
        )
    return body[:header_length], memoryview(body)[header_length:]


def _parsed(header: bytes) -> _Body:
    try:
        return _BODY.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(
            f"the body does not decode: {error}",
            where="body",
            expected="a JSON object with inputs, each with name, shape, datatype and data",
            remedy="The metadata of the model names its inputs: GET /v2/models/NAME.",
        ) from error


def _arrays(inputs: Sequence[_Input], rest: memoryview) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    offset = 0
    for item in inputs:
        where = f"input {item.name!r}"
        size = item.parameters.binary_data_size
        if size is None:
            array = _from_json(item, where)
        else:
            # A copy, for bytes in the middle of a body stand at any address.
            content = bytes(rest[offset : offset + size])
            array = from_bytes(content, item.datatype, item.shape, where)
            offset += size
        if item.name in arrays:
            raise RequestError("comes twice", where=where, expected="each input once")
        arrays[item.name] = array
    if offset != len(rest):
        raise RequestError(
            f"{len(rest)} bytes follow the JSON header",
            where="body",
            expected=f"{offset}, the sum of all binary_data_size",
            remedy="Send the tensors in the order of inputs, and nothing behind them.",
        )
    return arrays


def _from_json(item: _Input, where: str) -> np.ndarray:
    if item.parameters.shared_memory_region is not None:
        raise _no_shared_memory(where)
    if item.data is _NO_DATA:
        raise RequestError(
            "has neither data nor binary_data_size",
            where=where,
            expected="one of them",
            remedy="Send data as a list, or the bytes of the tensor behind the JSON header.",
        )
    return from_json(item.data, item.datatype, item.shape, where)


def _binary(outputs: Sequence[_Output], default: bool) -> frozenset[str]:
    for output in outputs:
        where = f"output {output.name!r}"
        if output.parameters.shared_memory_region is not None:
            raise _no_shared_memory(where)
        if output.parameters.classification:
            raise RequestError(
                "asks for the classification extension",
                where=where,
                expected="the values themselves",
                remedy="The labels, in the order of the values, are in the model's metadata.",
            )
    return frozenset(
        output.name
        for output in outputs
        if (default if output.parameters.binary_data is None else output.parameters.binary_data)
    )


def _no_shared_memory(where: str) -> RequestError:
    return RequestError(
        "names a region of shared memory",
        where=where,
        expected="the values in the request",
        remedy="This server has no shared memory extension.",
    )
