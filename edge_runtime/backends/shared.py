"""What a device's process and the child that runs its model have in common.

Orders of eight bytes go through one pipe, answers of one byte through another.
Rows, answers and state lie in memory that both have mapped, one block per stream.
"""

from __future__ import annotations

import mmap
import struct

import msgspec
import numpy as np

from edge_runtime.ports import SessionOptions
from edge_runtime.types import StateKind, TensorSpec

__all__ = [
    "DONE",
    "FAILED",
    "ORDER",
    "Fault",
    "Layout",
    "Lines",
    "Loaded",
    "Memory",
    "Order",
    "Setting",
]

ORDER = struct.Struct("<BxHI")
"""Order, number of the stream, count of rows or bytes."""
DONE, FAILED = b"\x01", b"\x02"
_LARGEST_BLOCK_BYTES = 1 << 20
_MOST_ROWS = 64


class Order:
    """What the parent may ask for."""

    OPEN, RESUME, RUN, RESET, RESTORE, CLOSE = range(1, 7)


class Lines(msgspec.Struct, frozen=True):
    """File descriptors that the child gets.

    Attributes:
        orders: To read from.
        answers: To write to.
        life: Never written; it ends with the parent.
        model: The model file.
        memory: Memory of all streams.
    """

    orders: int
    answers: int
    life: int
    model: int
    memory: int


class Setting(msgspec.Struct, frozen=True):
    """What the child is started with.

    Attributes:
        backend: Model runtime; None for the default of ``kind``.
        kind: Kind of model file.
        options: How the runtime runs it.
        limit_s: Longest time one call may take.
        memory_mb: Memory the model may take beyond its runtime, MiB.
    """

    backend: str | None
    kind: str
    options: SessionOptions
    limit_s: float
    memory_mb: int


class Fault(msgspec.Struct, frozen=True):
    """An error of the child, to be raised in the parent."""

    kind: str
    what: str
    where: str = ""
    expected: str = ""
    remedy: str = ""


class Loaded(msgspec.Struct, frozen=True):
    """What the child says of its model.

    Attributes:
        inputs: As in `Session`.
        outputs: As in `Session`.
        state_kind: As in `Session`.
        state_bytes: Length of its state; None where nobody can read it.
        fault: Why it does not load; the rest is then empty.
    """

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    state_kind: StateKind = "stateless"
    state_bytes: int | None = None
    fault: Fault | None = None


class Layout(msgspec.Struct, frozen=True):
    """Where rows, answers and state lie in a stream's memory."""

    rows: int
    source: TensorSpec
    target: TensorSpec
    state_bytes: int

    @classmethod
    def of(cls, loaded: Loaded) -> Layout:
        """Lay out the memory for a model; large rows come one by one."""
        source, target = loaded.inputs[0], loaded.outputs[0]
        widest = max(_row_bytes(source), _row_bytes(target), 1)
        rows = max(1, min(_MOST_ROWS, _LARGEST_BLOCK_BYTES // widest))
        return cls(rows, source, target, loaded.state_bytes or 0)

    @property
    def size(self) -> int:
        """Bytes that one stream needs, in whole pages."""
        used = self.rows * (_aligned(self.source) + _aligned(self.target)) + self.state_bytes
        return -(-used // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY


class Memory:
    """One stream's memory, mapped.

    Args:
        layout: What lies where.
        file: Descriptor of the file that holds the memory of all streams.
        number: Of the stream.

    Attributes:
        source: Rows to answer, shape (rows, …).
        target: Their answers, shape (rows, …).
        state: State after the last call, bytes.
    """

    def __init__(self, layout: Layout, file: int, number: int) -> None:
        self._mapped = mmap.mmap(file, layout.size, offset=number * layout.size)
        first = layout.rows * _aligned(layout.source)
        second = first + layout.rows * _aligned(layout.target)
        self.source = self._array(layout.rows, layout.source, 0)
        self.target = self._array(layout.rows, layout.target, first)
        self.state = np.frombuffer(self._mapped, np.uint8, layout.state_bytes, second)

    def _array(self, rows: int, tensor: TensorSpec, offset: int) -> np.ndarray:
        shape = (rows, *tensor.shape[1:])
        return np.ndarray(shape, tensor.dtype, self._mapped, offset)


def _row_bytes(tensor: TensorSpec) -> int:
    return int(np.prod(tensor.shape[1:], dtype=np.int64)) * np.dtype(tensor.dtype).itemsize


def _aligned(tensor: TensorSpec) -> int:
    return -(-_row_bytes(tensor) // 64) * 64
