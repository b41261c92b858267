"""Which state a TFLite model keeps between calls, read from the file itself.

The runtimes do not say: neither variable tensors nor resource variables stand
in their tensor details, and the two reset differently. Source: the TFLite
schema (``schema.fbs``, version 3) and the FlatBuffers binary layout.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from edge_runtime.types import StateKind

__all__ = ["TFLiteState", "read_state"]

_IDENTIFIER = b"TFL3"
_VAR_HANDLE = 142  # BuiltinOperator; every resource variable is opened by one

# Slots of the fields in their tables.
_MODEL_OPERATOR_CODES, _MODEL_SUBGRAPHS = 1, 2
_CODE_DEPRECATED, _CODE_BUILTIN = 0, 3
_SUBGRAPH_TENSORS = 0
_TENSOR_IS_VARIABLE = 5


class TFLiteState(msgspec.Struct, frozen=True):
    """What a model keeps between calls.

    Attributes:
        kind: Whether and how.
        variables: Index of every variable tensor of the main graph.
    """

    kind: StateKind
    variables: tuple[int, ...] = ()


def read_state(model: bytes) -> TFLiteState:
    """Return what a model keeps between calls.

    Args:
        model: A ``.tflite`` file.

    Raises:
        ValueError: The bytes are no TFLite file.
    """
    if model[4:8] != _IDENTIFIER:
        raise ValueError(f"it begins with {bytes(model[:8])!r}, not with the mark of a TFLite file")
    try:
        return _state(_Table.root(model))
    except struct.error as error:
        raise ValueError(f"it points outside itself ({error})") from error


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

    def tables(self, slot: int) -> Iterator[_Table]:
        """Yield the tables of a vector field."""
        place = self._place(slot)
        if not place:
            return
        vector = place + self._read("<I", place)
        for entry in range(vector + 4, vector + 4 + 4 * self._read("<I", vector), 4):
            yield _Table(self._content, entry + self._read("<I", entry))

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
