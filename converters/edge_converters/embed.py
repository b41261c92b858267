"""One canonical manifest inside the model file, so that the file alone still tells what it is."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_converters.contracts import Format
from edge_converters.tflite_file import read_file, write_file
from edge_runtime.spec import ModelSpec, as_builtins

__all__ = ["KEY", "embed", "manifest_of", "read_manifest"]

KEY = "edge_runtime.manifest"
_LEFT_OUT = frozenset({"artefacts", "golden"})


def manifest_of(spec: ModelSpec) -> bytes:
    """Return what a file says of itself: ``bundle.yaml`` as JSON, without files.

    Equal specs give equal bytes.
    """
    told = {name: value for name, value in as_builtins(spec).items() if name not in _LEFT_OUT}
    return msgspec.json.encode(told, order="deterministic")


def embed(model: bytes, form: Format, manifest: bytes) -> bytes:
    """Put a manifest into a file; one that is there already is replaced."""
    return _into_onnx(model, manifest) if form == "onnx" else _into_tflite(model, manifest)


def read_manifest(model: bytes, form: Format) -> bytes | None:
    """Return the manifest in a file, or None."""
    if form == "onnx":
        import onnx

        proto = onnx.load_from_string(model)
        found = [one.value.encode() for one in proto.metadata_props if one.key == KEY]
        return found[0] if found else None
    parsed = read_file(model)
    entry = _entry(parsed)
    return bytes(parsed.buffers[entry.buffer].data) if entry is not None else None


def _into_onnx(model: bytes, manifest: bytes) -> bytes:
    import onnx

    proto = onnx.load_from_string(model)
    kept = [(one.key, one.value) for one in proto.metadata_props if one.key != KEY]
    del proto.metadata_props[:]
    for key, value in [*kept, (KEY, manifest.decode())]:
        proto.metadata_props.add(key=key, value=value)
    return bytes(proto.SerializeToString(deterministic=True))


def _into_tflite(model: bytes, manifest: bytes) -> bytes:
    from ai_edge_litert import schema_py_generated as schema

    parsed = read_file(model)
    entry = _entry(parsed)
    if entry is None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = KEY, len(parsed.buffers)
        parsed.buffers.append(schema.BufferT())
        parsed.metadata = [*(parsed.metadata or []), entry]
    parsed.buffers[entry.buffer].data = list(manifest)
    return write_file(parsed)


def _entry(parsed: Any) -> Any:
    named = [one for one in parsed.metadata or [] if _text(one.name) == KEY]
    return named[0] if named else None


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
