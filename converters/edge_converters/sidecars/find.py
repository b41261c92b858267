"""Finds what tells about a bare model: a file that is named, one beside it, or one inside."""

from __future__ import annotations

from pathlib import Path

from edge_converters.contracts import Format
from edge_converters.sidecars.micro_wake_word import read_micro_wake_word
from edge_converters.sidecars.onnx_metadata import read_onnx_metadata
from edge_converters.sidecars.sidecar import Sidecar
from edge_converters.sidecars.tflite_metadata import read_tflite_metadata

__all__ = ["Sidecar", "read_sidecar"]


def read_sidecar(model: Path, form: Format, named: Path | None) -> Sidecar | None:
    """Return what is told about a model, or None.

    Args:
        model: A ``.tflite`` or ``.onnx`` file that has been admitted.
        form: Which of the two.
        named: File that must be read; None looks for ``NAME.json`` beside the model.

    Raises:
        ConfigError: The file that was named is no sidecar.
        BundleError: The manifest inside the model is damaged.
    """
    if named is not None:
        return read_micro_wake_word(named)
    beside = model.with_suffix(".json")
    if form == "tflite" and _is_micro(beside):
        return read_micro_wake_word(beside)
    content = model.read_bytes()
    return read_tflite_metadata(content) if form == "tflite" else read_onnx_metadata(content)


def _is_micro(path: Path) -> bool:
    return path.is_file() and b'"wake_word"' in path.read_bytes()[: 1 << 16]
