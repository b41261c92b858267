"""Brings a float ONNX file to the form that runtimes in the field take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edge_converters.workers.refusal import Refusal

__all__ = ["NEWEST_IR", "NEWEST_OPSET", "draw", "normalise", "reference"]

NEWEST_IR = 10
NEWEST_OPSET = 20
"""What onnxruntime 1.31 takes for certain; exporters write newer ones."""
_WINDOWS = 16
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

_Change = Callable[[Any], tuple[Any, list[str]]]


def normalise(model: str, folder: str, is_folded: bool) -> dict[str, object]:
    """Strip, pin and fold a file in steps, each a file of its own.

    Args:
        model: The ``.onnx`` file.
        folder: Where the results go.
        is_folded: Whether constants and batch normalisations are folded.

    Returns:
        ``steps``: name, file and notes of each step that changed something.

    Raises:
        Refusal: It is no ONNX model, or uses what no runtime here has.
    """
    proto = _read(Path(model))
    _check(proto)
    steps: list[dict[str, object]] = []
    changes: list[tuple[str, _Change]] = [("strip", _strip), ("pin", _pin)]
    for name, change in changes + [("fold", _fold)] * is_folded:
        changed, notes = change(proto)
        if not notes:
            continue
        proto = changed
        file = Path(folder) / f"{len(steps)}-{name}.onnx"
        file.write_bytes(proto.SerializeToString(deterministic=True))
        steps.append({"name": name, "file": str(file), "notes": notes})
    return {"steps": steps}


def draw(model: str, inputs: str, shape: list[int] | None) -> dict[str, object]:
    """Draw windows that fit the model's first input: standard normal, or over its integers.

    Args:
        model: The ``.onnx`` file.
        inputs: Where they go, ``.npy``, shape (n, …).
        shape: Of one window, for free axes.

    Raises:
        Refusal: An axis is free, and no shape was given.
    """
    proto = _read(Path(model))
    constants = {one.name for one in proto.graph.initializer}
    source = next((one for one in proto.graph.input if one.name not in constants), None)
    if source is None or not source.type.HasField("tensor_type"):
        raise Refusal("the model takes no tensor", "one window in", "Export it with an input.")
    tensor = source.type.tensor_type
    dims = [dim.dim_value for dim in tensor.shape.dim][1:]
    if 0 in dims and (shape is None or len(shape) != len(dims)):
        told = [dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim]
        raise Refusal(
            f"input {source.name!r} has the free axes {told}",
            "a window of fixed length",
            "Say how long it is: --shape N,N; or export with fixed axes but the first.",
        )
    fixed = [dim or given for dim, given in zip(dims, shape or dims, strict=True)]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    np.save(inputs, _drawn(np.dtype(dtype), fixed))
    return {}


def _drawn(dtype: np.dtype, shape: list[int]) -> np.ndarray:
    dice = np.random.default_rng(0)
    if dtype.kind == "f":
        return dice.normal(size=(_WINDOWS, *shape)).astype(dtype)
    if dtype.itemsize > 2 or dtype.kind not in "iu":
        return dice.integers(0, 2, (_WINDOWS, *shape)).astype(dtype)
    limits = np.iinfo(dtype)
    return dice.integers(limits.min, limits.max, (_WINDOWS, *shape), dtype, endpoint=True)


def reference(model: str, inputs: str, outputs: str) -> dict[str, object]:
    """Answer windows with onnx's own evaluator: it runs versions no runtime has yet.

    Raises:
        Refusal: The evaluator cannot run it.
    """
    from onnx.reference import ReferenceEvaluator

    windows = np.load(inputs, allow_pickle=False)
    try:
        evaluator = ReferenceEvaluator(model)
        name = evaluator.input_names[0]
        rows = [evaluator.run(None, {name: window[None]})[0] for window in windows]
    except Exception as error:
        raise Refusal(
            f"the reference evaluator cannot run it: {type(error).__name__}: {error}"[:300],
            "operators of ONNX alone",
            "Export it with opset 20 or older.",
        ) from error
    np.save(outputs, np.concatenate(rows).astype(np.float32))
    return {}


def _read(path: Path) -> Any:
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise Refusal(
            f"the file cannot be read as ONNX: {error}",
            "a complete ONNX model",
            "Export it again; compare its size with its origin's.",
        ) from error
    if not proto.graph.node:
        raise Refusal(
            "the model has no operators", "a graph with at least one node", "Export it again."
        )
    return proto


def _check(proto: Any) -> None:
    foreign = sorted({one.domain for one in _nodes(proto.graph)} - _DOMAINS)
    if foreign:
        kinds = sorted({one.op_type for one in _nodes(proto.graph) if one.domain in foreign})
        raise Refusal(
            f"operators {', '.join(kinds)} are of the domains {', '.join(foreign)}",
            "operators of ai.onnx, ai.onnx.ml or com.microsoft",
            "Replace them before exporting; no runtime on the device has them.",
        )
    _check_operators(proto)


def _check_operators(proto: Any) -> None:
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        text = str(error).strip().splitlines()[0]
        raise Refusal(
            f"the model is not valid: {text[:300]}",
            "a model that onnx.checker accepts",
            "Export it again; an operator that its opset does not know must be replaced.",
        ) from error


def _strip(proto: Any) -> tuple[Any, list[str]]:
    """Drop traces with source paths, comments, and constants that are listed as inputs."""
    before = proto.ByteSize()
    for node in _nodes(proto.graph):
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for part in (proto, proto.graph):
        part.ClearField("doc_string")
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    for weight in proto.graph.initializer:
        weight.ClearField("doc_string")
    moved = _unlist_constants(proto.graph)
    dropped = before - proto.ByteSize()
    if not dropped:
        return proto, []
    notes = [f"{dropped} bytes of traces and comments were dropped"]
    return proto, notes + ([f"{moved} constants were listed as inputs"] if moved else [])


def _unlist_constants(graph: Any) -> int:
    constants = {one.name for one in graph.initializer}
    kept = [one for one in graph.input if one.name not in constants]
    moved = len(graph.input) - len(kept)
    if moved:
        del graph.input[:]
        graph.input.extend(kept)
    return moved


def _pin(proto: Any) -> tuple[Any, list[str]]:
    notes = []
    opset = next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset > NEWEST_OPSET:
        proto = _older(proto, opset)
        notes.append(f"opset {opset} became {NEWEST_OPSET}")
    if proto.ir_version > NEWEST_IR:
        notes.append(f"IR version {proto.ir_version} became {NEWEST_IR}")
        proto.ir_version = NEWEST_IR
    return proto, notes


def _older(proto: Any, opset: int) -> Any:
    try:
        return onnx.version_converter.convert_version(proto, NEWEST_OPSET)
    except Exception as error:
        raise Refusal(
            f"opset {opset} cannot be brought to {NEWEST_OPSET}: {error}"[:400],
            f"opset {NEWEST_OPSET} or older",
            f"Export it again with opset_version={NEWEST_OPSET}.",
        ) from error


def _fold(proto: Any) -> tuple[Any, list[str]]:
    """Fold constants and batch normalisations; what onnxslim cannot do is left alone."""
    import onnxslim

    before = len(proto.graph.node)
    slim = onnxslim.slim(onnx.ModelProto.FromString(proto.SerializeToString()))
    if len(slim.graph.node) >= before:
        return proto, []
    return slim, [f"{before} nodes became {len(slim.graph.node)}"]


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
