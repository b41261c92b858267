"""Looks into finished files: operators, what they cost, and who knows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_converters.operations.delegated import delegated_operators
from edge_converters.operations.known import (
    TFLITE_RUNTIME,
    Knows,
    knows_litert,
    knows_onnxruntime,
    knows_tflite_runtime,
    marked,
)
from edge_converters.operations.onnx import read_onnx
from edge_converters.operations.operation import Operation
from edge_converters.operations.tflite import read_tflite
from edge_runtime.backends import backend_of

__all__ = ["examine"]


def examine(models: Sequence[str], kinds: Sequence[str]) -> dict[str, object]:
    """Read files.

    Args:
        models: Files.
        kinds: ``tflite`` or ``onnx`` for each.

    Returns:
        ``operations``: for each file its operators, in order of execution; ``runtimes``:
        for each file the runtimes that were asked.
    """
    found = [
        _examined(Path(model).read_bytes(), kind) for model, kind in zip(models, kinds, strict=True)
    ]
    return {
        "operations": msgspec.to_builtins([one for one, _ in found]),
        "runtimes": [names for _, names in found],
    }


def _examined(model: bytes, kind: str) -> tuple[tuple[Operation, ...], list[str]]:
    if kind == "onnx":
        runtimes: dict[str, Knows] = {_named("onnx", kind): knows_onnxruntime}
        return marked(read_onnx(model), runtimes, None), list(runtimes)
    runtimes = {_named("litert", kind): knows_litert, TFLITE_RUNTIME: knows_tflite_runtime}
    return marked(read_tflite(model), runtimes, _delegated(model)), list(runtimes)


def _delegated(model: bytes) -> tuple[bool, ...] | None:
    try:
        return delegated_operators(model)
    except (RuntimeError, ValueError):
        # The runtime refuses the file; which operators it lacks is found one by one.
        return None


def _named(backend: str, kind: str) -> str:
    runtime = backend_of(backend, kind)
    return f"{runtime.name} {runtime.probe()}"
