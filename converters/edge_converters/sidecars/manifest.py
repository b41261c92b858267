"""Our own manifest, as the converter puts it into files."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_converters.sidecars.sidecar import Sidecar
from edge_runtime.errors import BundleError
from edge_runtime.spec import ArtefactSpec, ModelSpec

__all__ = ["from_manifest"]

_ANY = ArtefactSpec("tflite", "model.tflite", "float32")


def from_manifest(content: bytes, origin: str) -> Sidecar:
    """Return what a manifest decides: everything but the files.

    Raises:
        BundleError: It is damaged, or of a newer runtime.
    """
    try:
        told: dict[str, Any] = msgspec.json.decode(content, type=dict[str, Any])
        told["artefacts"] = [msgspec.to_builtins(_ANY)]
        spec = msgspec.convert(told, ModelSpec)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
        raise BundleError(
            f"the manifest in the file cannot be read: {error}",
            expected="what edge-runtime convert wrote there",
            remedy="Upgrade edge-runtime; or say everything yourself with --spec bundle.yaml.",
        ) from error
    fields = msgspec.structs.asdict(spec)
    changes = {name: value for name, value in fields.items() if name not in ("artefacts", "golden")}
    return Sidecar(origin=origin, changes=changes)
