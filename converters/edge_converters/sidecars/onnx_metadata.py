"""What an ONNX file carries in ``metadata_props``: our own manifest, or names of classes."""

from __future__ import annotations

import ast
from typing import Any

import msgspec

from edge_converters.embed import KEY
from edge_converters.sidecars.manifest import from_manifest
from edge_converters.sidecars.sidecar import Sidecar

__all__ = ["read_onnx_metadata"]

# What exporters call them; the first one that fits counts.
_LABEL_KEYS = ("labels", "classes", "class_names", "names")


def read_onnx_metadata(model: bytes) -> Sidecar | None:
    """Read the manifest or the labels; None without either."""
    import onnx

    told = {one.key: one.value for one in onnx.load_from_string(model).metadata_props}
    if KEY in told:
        return from_manifest(told[KEY].encode(), "manifest in the file")
    for key in _LABEL_KEYS:
        labels = _labels(told.get(key, ""))
        if labels:
            return Sidecar(origin=f"ONNX metadata {key!r}", labels=labels)
    return None


def _labels(text: str) -> tuple[str, ...]:
    """Read a JSON list, a Python dict of numbers to names, or names between commas."""
    for read in (msgspec.json.decode, ast.literal_eval):
        try:
            return _names(read(text))
        except (msgspec.DecodeError, ValueError, SyntaxError, TypeError):
            continue
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, dict):
        return tuple(str(value[key]) for key in sorted(value, key=int))
    if isinstance(value, list):
        return tuple(str(one) for one in value)
    raise TypeError(type(value).__name__)
