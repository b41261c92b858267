"""What ONNX Runtime does not tell about a model, read from the file itself.

Integer inputs and outputs carry their scale in the neighbouring
(De)QuantizeLinear node; and a matrix product with a computed right-hand side
is rounded differently in a batch than alone. Source: ``onnx.proto3`` and the
Protocol Buffers encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from edge_runtime.backends import onnx_fields as fields
from edge_runtime.backends.protobuf import read_varint, spans, text_of

__all__ = ["OnnxGraph", "Port", "Quantisation", "read_graph", "read_port"]

_RAW_DTYPES = {1: "<f4", 2: "<u1", 3: "<i1", 4: "<u2", 5: "<i2", 6: "<i4"}
_MOVES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_PRODUCTS = frozenset({"Gemm", "MatMul"})
_SCALED_TOGETHER = frozenset(
    {"DynamicQuantizeLSTM", "DynamicQuantizeLinear", "DynamicQuantizeMatMul"}
)


class Quantisation(msgspec.Struct, frozen=True):
    """How the integers of a tensor stand for real values."""

    scale: float
    zero_point: int


class Port(msgspec.Struct, frozen=True):
    """An input or output of the graph; a free axis has a name, or ``?``.

    Attributes:
        name: Of the tensor.
        shape: Of the tensor.
        element: Number of its element type in ``onnx.proto3``; 0 if it is no tensor.
    """

    name: str
    shape: tuple[int | str, ...]
    element: int = 0


class _Node(msgspec.Struct, frozen=True):
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class OnnxGraph:
    """The main graph of a model.

    Args:
        nodes: Its nodes in order.
        constants: Its initialisers, undecoded, by name.
        inputs: What has to be fed.
        outputs: What it answers.
    """

    def __init__(
        self,
        nodes: list[_Node],
        constants: dict[str, memoryview],
        inputs: tuple[Port, ...] = (),
        outputs: tuple[Port, ...] = (),
    ) -> None:
        self._nodes = nodes
        self._constants = constants
        # Old files list their constants among the inputs.
        self.inputs = tuple(one for one in inputs if one.name not in constants)
        self.outputs = outputs

    @property
    def operators(self) -> frozenset[str]:
        """The kinds of nodes in it."""
        return frozenset(node.operator for node in self._nodes)

    @property
    def weight_types(self) -> dict[int, int]:
        """How many constants of two and more axes have which element type."""
        counts: dict[int, int] = {}
        for tensor in self._constants.values():
            kind, rank = _kind_of(tensor)
            if rank > 1:
                counts[kind] = counts.get(kind, 0) + 1
        return counts

    @property
    def has_computed_product(self) -> bool:
        """Whether some matrix product has a right-hand side that is no plain constant.

        ONNX Runtime packs constant ones in advance and multiplies every row
        alike. For others, dequantised weights among them, it takes another
        kernel for a single row, which adds up in another order.
        """
        return any(
            node.operator in _PRODUCTS and node.inputs[1] not in self._constants
            for node in self._nodes
        )

    @property
    def scales_rows_together(self) -> bool:
        """Whether the rows of a batch share a scale that is made from all of them."""
        return not self.operators.isdisjoint(_SCALED_TOGETHER)

    def readers_of(self, name: str) -> frozenset[str]:
        """Return the kinds of nodes that read a tensor."""
        return frozenset(node.operator for node in self._nodes if name in node.inputs)

    def input_quantisation(self, name: str) -> Quantisation | None:
        """Return how an input is dequantised, or None if it is not."""
        names = {name}
        for node in self._nodes:
            if node.inputs and node.inputs[0] in names:
                if node.operator == "DequantizeLinear":
                    return self._quantisation(node)
                if node.operator in _MOVES:
                    names.add(node.outputs[0])
        return None

    def output_quantisation(self, name: str) -> Quantisation | None:
        """Return how an output was quantised, or None if it was not."""
        for node in reversed(self._nodes):
            if name in node.outputs:
                if node.operator == "QuantizeLinear":
                    return self._quantisation(node)
                if node.operator not in _MOVES:
                    return None
                name = node.inputs[0]
        return None

    def _quantisation(self, node: _Node) -> Quantisation:
        scale = self._number(node.inputs[1])
        # The zero point may be left out, or be named by nothing.
        name = node.inputs[2] if len(node.inputs) > 2 else ""
        return Quantisation(scale, int(self._number(name)) if name else 0)

    def _number(self, name: str) -> float:
        if name not in self._constants:
            raise ValueError(f"the scale or zero point {name!r} is no constant")
        return _scalar(self._constants[name], name)


def read_graph(model: bytes) -> OnnxGraph:
    """Read the main graph of an ``.onnx`` file.

    Raises:
        ValueError: The bytes are no ONNX model, or its weights are elsewhere.
    """
    nodes: list[_Node] = []
    constants: dict[str, memoryview] = {}
    ports: dict[int, list[Port]] = {fields.GRAPH_INPUT: [], fields.GRAPH_OUTPUT: []}
    for number, part in _parts(_graph_of(model)):
        if number == fields.GRAPH_NODE:
            nodes.append(_node(part))
        elif number == fields.GRAPH_INITIALISER:
            constants[_name_of(part)] = part
        elif number in ports:
            ports[number].append(read_port(part))
    return OnnxGraph(
        nodes, constants, tuple(ports[fields.GRAPH_INPUT]), tuple(ports[fields.GRAPH_OUTPUT])
    )


def _graph_of(model: bytes) -> memoryview:
    for number, part in _parts(memoryview(model)):
        if number == fields.MODEL_GRAPH:
            return part
    raise ValueError("it holds no graph")


def _node(message: memoryview) -> _Node:
    operator, inputs, outputs = "", [], []
    for number, part in _parts(message):
        if number == fields.NODE_INPUT:
            inputs.append(text_of(part))
        elif number == fields.NODE_OUTPUT:
            outputs.append(text_of(part))
        elif number == fields.NODE_TYPE:
            operator = text_of(part)
    return _Node(operator, tuple(inputs), tuple(outputs))


def read_port(value: memoryview) -> Port:
    """Read a ``ValueInfoProto``.

    Raises:
        ValueError: The bytes are no such message.
    """
    parts = list(_parts(value))
    names = [text_of(part) for number, part in parts if number == fields.VALUE_NAME]
    tensors = [
        tensor
        for number, part in parts
        if number == fields.VALUE_TYPE
        for tensor in _inner(part, fields.TYPE_TENSOR)
    ]
    shape = tuple(
        _dimension(dim)
        for tensor in tensors
        for dims in _inner(tensor, fields.TENSOR_SHAPE)
        for dim in _inner(dims, fields.SHAPE_DIM)
    )
    elements = [
        number
        for tensor in tensors
        for field, number in _fields(tensor)
        if field == fields.TYPE_ELEMENT and isinstance(number, int)
    ]
    return Port(names[-1] if names else "", shape, elements[-1] if elements else 0)


def _inner(message: memoryview, wanted: int) -> list[memoryview]:
    return [part for number, part in _parts(message) if number == wanted]


def _dimension(dim: memoryview) -> int | str:
    for number, value in _fields(dim):
        if number == fields.DIM_VALUE and isinstance(value, int):
            return value
        if number == fields.DIM_NAME and isinstance(value, memoryview):
            return text_of(value)
    return "?"


def _kind_of(tensor: memoryview) -> tuple[int, int]:
    """Return element type and number of axes; dimensions may be packed or one by one."""
    kind = rank = 0
    for number, value in _fields(tensor):
        if number == fields.TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == fields.TENSOR_DIMS:
            # A varint ends with a byte below 128.
            rank += 1 if isinstance(value, int) else sum(byte < 128 for byte in value)
    return kind, rank


def _name_of(tensor: memoryview) -> str:
    name = ""
    for number, value in _fields(tensor):
        if number == fields.TENSOR_NAME and isinstance(value, memoryview):
            name = text_of(value)
        elif number == fields.TENSOR_LOCATION and value == 1:
            raise ValueError("its weights are in another file; save it as one file")
    return name


def _scalar(tensor: memoryview, name: str) -> float:
    """Return the one number of a tensor, from whichever field holds it."""
    held = dict(_fields(tensor))
    values = _numbers(held)
    if len(values) != 1:
        raise ValueError(f"{name!r} has {len(values)} numbers; a tensor here has one scale")
    return float(values[0])


def _numbers(held: dict[int, int | memoryview]) -> list[float]:
    raw, floats, integer = (
        held.get(n) for n in (fields.TENSOR_RAW, fields.TENSOR_FLOAT, fields.TENSOR_INT32)
    )
    if isinstance(raw, memoryview):
        dtype = held.get(fields.TENSOR_TYPE)
        if dtype not in _RAW_DTYPES:
            raise ValueError(f"a scale or zero point has the data type {dtype!r}")
        return [float(value) for value in np.frombuffer(raw, _RAW_DTYPES[dtype])]
    if isinstance(floats, memoryview):
        return [float(value) for value in np.frombuffer(floats, "<f4")]
    if isinstance(integer, memoryview):
        integer = read_varint(integer, 0)[0] if len(integer) else None
    # Negative numbers are written as their 64-bit complement.
    return [] if integer is None else [integer - (1 << 64) if integer >> 63 else integer]


def _parts(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the fields of a message that are messages or texts themselves."""
    for number, value in _fields(message):
        if isinstance(value, memoryview):
            yield number, value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and undecoded value of every field."""
    return ((part.number, part.value) for part in spans(message))
