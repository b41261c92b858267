"""Which operators a runtime knows: asked of those that are here, looked up for the others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_converters.operations.operation import Operation

__all__ = [
    "TABLE",
    "TFLITE_RUNTIME",
    "knows_litert",
    "knows_onnxruntime",
    "knows_tflite_runtime",
    "marked",
]

TFLITE_RUNTIME = "tflite-runtime 2.14.0"
TABLE = Path(__file__).with_name("tflite_runtime_2_14.json")
"""Newest version of each operator that tflite-runtime 2.14.0 knows, JSON."""
_CPU = "CPUExecutionProvider"
_OPEN = 2**31 - 1
# Becomes a constant when a file is opened, and is never run.
_FOLDED = "Constant"

Knows = Callable[[Operation], bool]


def marked(
    operations: Sequence[Operation], runtimes: dict[str, Knows], delegated: Sequence[bool] | None
) -> tuple[Operation, ...]:
    """Write down which runtimes lack each operator, and what XNNPACK takes over.

    Args:
        operations: Of one file.
        runtimes: By name; each is asked of every operator.
        delegated: As many; None where nobody asked.
    """
    taken = delegated if delegated is not None else [None] * len(operations)
    return tuple(
        msgspec.structs.replace(
            one,
            lacking=tuple(name for name, knows in runtimes.items() if not knows(one)),
            is_delegated=is_taken,
        )
        for one, is_taken in zip(operations, taken, strict=True)
    )


def knows_tflite_runtime(one: Operation) -> bool:
    """Return whether tflite-runtime 2.14.0 has the operator in that version.

    Source: every version of every operator was asked of the runtime itself, by
    `edge_converters.operations.probe.largest_versions`.
    """
    return one.version <= _table().get(one.kind, 0)


def knows_litert(one: Operation) -> bool:
    """Return whether the LiteRT that is installed has the operator in that version."""
    from ai_edge_litert.interpreter import Interpreter

    from edge_converters.operations.probe import is_known

    return is_known(Interpreter, one.kind, one.version)


def knows_onnxruntime(one: Operation) -> bool:
    """Return whether the ONNX Runtime that is installed has a kernel for it on the processor.

    An operator that its operator set defines by others needs none.
    """
    domain, _, kind = one.kind.rpartition(".")
    kernels = _kernels().get((domain, kind), ())
    since, is_function = _defined(kind, domain, one.version)
    return (
        is_function
        or one.kind == _FOLDED
        or any(
            first <= since <= last or (last == _OPEN and first == since) for first, last in kernels
        )
    )


@functools.cache
def _table() -> dict[str, int]:
    return msgspec.json.decode(TABLE.read_bytes(), type=dict[str, int])


@functools.cache
def _kernels() -> dict[tuple[str, str], tuple[tuple[int, int], ...]]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: dict[tuple[str, str], tuple[tuple[int, int], ...]] = {}
    for one in state.get_all_opkernel_def():
        if one.provider == _CPU:
            key = one.domain, one.op_name
            found[key] = (*found.get(key, ()), one.version_range)
    return found


def _defined(kind: str, domain: str, version: int) -> tuple[int, bool]:
    """Return since which operator set an operator is as it is, and whether others define it."""
    import onnx

    try:
        schema: Any = onnx.defs.get_schema(kind, version, domain)
    except onnx.defs.SchemaError:
        return version, False
    return int(schema.since_version), bool(schema.has_function)
