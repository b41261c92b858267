"""Which state a TFLite model keeps between calls, and of which types its tensors are.

Both are read from the file itself; the runtimes do not say. Neither variable
tensors nor resource variables stand in their tensor details, and the two reset
differently. Source: the TFLite schema (``schema.fbs``, version 3) and the
FlatBuffers binary layout.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator

import msgspec

from edge_runtime.types import StateKind

__all__ = ["TFLiteState", "TensorTypes", "read_state", "read_types"]

_IDENTIFIER = b"TFL3"
_VAR_HANDLE = 142  # BuiltinOperator; every resource variable is opened by one

# Slots of the fields in their tables.
_MODEL_OPERATOR_CODES, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 1, 2, 4
_CODE_DEPRECATED, _CODE_BUILTIN = 0, 3
_SUBGRAPH_TENSORS, _SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS = 0, 1, 2
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_IS_VARIABLE = 0, 1, 2, 5
_BUFFER_DATA = 0
_TYPES = {0: "float32", 1: "float16", 3: "uint8", 7: "int16", 9: "int8", 17: "int4"}


class TFLiteState(msgspec.Struct, frozen=True):
    """What a model keeps between calls.

    Attributes:
        kind: Whether and how.
        variables: Index of every variable tensor of the main graph.
    """

    kind: StateKind
    variables: tuple[int, ...] = ()


class TensorTypes(msgspec.Struct, frozen=True):
    """How many tensors of which type a model has; integers for counting are left out.

    Attributes:
        weights: Constants of two and more axes.
        computed: What it computes inside, without its inputs and outputs.
    """

    weights: dict[str, int]
    computed: dict[str, int]


def read_state(model: bytes) -> TFLiteState:
    """Return what a model keeps between calls.

    Args:
        model: A ``.tflite`` file.

    Raises:
        ValueError: The bytes are no TFLite file.
    """
    try:
        return _state(_root(model))
    except struct.error as error:
        raise ValueError(f"it points outside itself ({error})") from error


def read_types(model: bytes) -> TensorTypes:
    """Return of which types a model's tensors are.

    Raises:
        ValueError: The bytes are no TFLite file.
    """
    try:
        return _types(_root(model))
    except struct.error as error:
        raise ValueError(f"it points outside itself ({error})") from error


def _root(model: bytes) -> _Table:
    if model[4:8] != _IDENTIFIER:
        raise ValueError(f"it begins with {bytes(model[:8])!r}, not with the mark of a TFLite file")
    return _Table.root(model)


def _types(root: _Table) -> TensorTypes:
    is_filled = [buffer.length(_BUFFER_DATA) > 0 for buffer in root.tables(_MODEL_BUFFERS)]
    weights: Counter[str] = Counter()
    computed: Counter[str] = Counter()
    for subgraph in root.tables(_MODEL_SUBGRAPHS):
        outside = {*subgraph.numbers(_SUBGRAPH_INPUTS), *subgraph.numbers(_SUBGRAPH_OUTPUTS)}
        for index, tensor in enumerate(subgraph.tables(_SUBGRAPH_TENSORS)):
            kind = _TYPES.get(tensor.number(_TENSOR_TYPE, "<b"))
            buffer = tensor.number(_TENSOR_BUFFER, "<I")
            if kind is None or buffer >= len(is_filled):
                continue
            if not is_filled[buffer]:
                computed[kind] += index not in outside
            elif tensor.length(_TENSOR_SHAPE) > 1:
                weights[kind] += 1
    return TensorTypes(dict(weights), dict(+computed))


def _state(root: _Table) -> TFLiteState:
    if any(_operator(code) == _VAR_HANDLE for code in root.tables(_MODEL_OPERATOR_CODES)):
        return TFLiteState("resources")
    variables = [_variables(subgraph) for subgraph in root.tables(_MODEL_SUBGRAPHS)]
    if not any(variables):
        return TFLiteState("stateless")
    return TFLiteState("variables", variables[0])


def _variables(subgraph: _Table) -> tuple[int, ...]:
    tensors = enumerate(subgraph.tables(_SUBGRAPH_TENSORS))
    return tuple(index for index, one in tensors if one.number(_TENSOR_IS_VARIABLE, "<?"))


def _operator(code: _Table) -> int:
    # Old files know only the first field; new ones set it to 127 and use the second.
    return max(code.number(_CODE_DEPRECATED, "<b"), code.number(_CODE_BUILTIN, "<i"))


class _Table:
    """A FlatBuffers table: fields by slot, each behind an offset."""

    def __init__(self, content: bytes, start: int) -> None:
        self._content = content
        self._start = start

    @classmethod
    def root(cls, content: bytes) -> _Table:
        return cls(content, *struct.unpack_from("<I", content, 0))

    def number(self, slot: int, layout: str) -> int:
        """Return a scalar field; 0, its default here, where it is not set."""
        place = self._place(slot)
        return self._read(layout, place) if place else 0

    def length(self, slot: int) -> int:
        """Return how many entries a vector field has."""
        place = self._place(slot)
        return self._read("<I", place + self._read("<I", place)) if place else 0

    def numbers(self, slot: int) -> list[int]:
        """Return a vector field of 32-bit integers."""
        return [self._read("<i", entry) for entry in self._entries(slot)]

    def tables(self, slot: int) -> Iterator[_Table]:
        """Yield the tables of a vector field."""
        for entry in self._entries(slot):
            yield _Table(self._content, entry + self._read("<I", entry))

    def _entries(self, slot: int) -> range:
        """Return where the entries of a vector field stand, 4 bytes each."""
        place = self._place(slot)
        if not place:
            return range(0)
        first = place + self._read("<I", place) + 4
        return range(first, first + 4 * self._read("<I", first - 4), 4)

    def _place(self, slot: int) -> int:
        """Return where a field stands, 0 where it is not set."""
        layout = self._start - self._read("<i", self._start)
        if 4 + 2 * slot >= self._read("<H", layout):
            return 0
        offset = self._read("<H", layout + 4 + 2 * slot)
        return self._start + offset if offset else 0

    def _read(self, layout: str, place: int) -> int:
        # Python would count a negative place from the end.
        if place < 0:
            raise struct.error("an offset is negative")
        number: int = struct.unpack_from(layout, self._content, place)[0]
        return number
