"""A bundle around a bare model file: what the file tells, and what had to be assumed."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.backends import load_session
from edge_runtime.bundle import Bundle, Golden, write_golden
from edge_runtime.bundle.bundle import MANIFEST, assemble
from edge_runtime.config.document import dump_yaml
from edge_runtime.errors import BundleError
from edge_runtime.pipeline import Pipeline
from edge_runtime.plural import counted
from edge_runtime.ports import SessionOptions
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    ModelSpec,
    OutputSpec,
    StreamSpec,
    WindowSpec,
    as_builtins,
)
from edge_runtime.types import TensorSpec, Windows
from edge_runtime.update.bare import Findings, ModelQuestion, admit_model, refusal

__all__ = ["Derived", "derive_bundle"]

_GOLDEN_WINDOWS = 8
# More than any wake word looks back; what plays them takes a few milliseconds.
_WARM_UP = 100
_MOST_LABELS = 1 << 14
_KINDS = {".tflite": "tflite", ".onnx": "onnx", ".npz": "reference"}


class Derived(msgspec.Struct, frozen=True, eq=False):
    """A bundle made of one file.

    Attributes:
        bundle: It answers as the file does: no features, no calibration, no limits.
        assumed: What the file does not tell, a sentence each.
    """

    bundle: Bundle
    assumed: tuple[str, ...]


def derive_bundle(
    path: Path,
    question: ModelQuestion | None = None,
    *,
    rate_hz: float = 1.0,
    warm_up: int | None = None,
) -> Derived:
    """Admit a bare model file and put a bundle around it.

    The last axis of the input becomes the channels, those before it the samples of a
    window; windows follow each other without overlap. The golden vectors are answers
    to windows drawn at random over the range that the input tensor can take.

    Args:
        path: A ``.tflite``, ``.onnx`` or ``.npz`` file.
        question: How it is judged, and the values of further inputs.
        rate_hz: Samples a second.
        warm_up: Windows that decide the state of a model whose state cannot be read; None
            takes 100 for such a model.

    Raises:
        BundleError: The file is refused, or answers more than can have labels.
    """
    verdict = admit_model(path, question)
    if verdict.findings is None:
        raise refusal(path, verdict)
    found = verdict.findings
    if warm_up is None:
        warm_up = _WARM_UP if found.state_kind == "resources" else 0
    spec = _spec(path, found, rate_hz, warm_up)
    model = path.read_bytes()
    if hashlib.sha256(model).hexdigest() != found.digest:
        raise BundleError(
            "the file has changed since it was admitted",
            where=str(path),
            expected=f"SHA-256 {found.digest}",
            remedy="Wait until it is complete, and try again.",
        )
    golden = _golden(spec, found, model)
    files = {
        MANIFEST: dump_yaml(as_builtins(spec)).encode(),
        spec.artefacts[0].file: model,
        spec.golden: write_golden(golden),
    }
    return Derived(assemble(files, str(path)), _assumptions(spec, rate_hz, warm_up, found))


def _spec(path: Path, found: Findings, rate_hz: float, warm_up: int) -> ModelSpec:
    length, channels = _window_of(found.inputs[0])
    labels, output = _labels_of(path, found.inputs[0], found.outputs[0])
    kind = _KINDS[path.suffix]
    return ModelSpec(
        name=_name_of(path),
        version="0",
        kind="scorer" if output.activation == "reconstruction" else "regressor",
        stream=StreamSpec(tuple(ChannelSpec(f"c{i}") for i in range(channels)), rate_hz),
        window=WindowSpec(length, length),
        artefacts=(ArtefactSpec(kind, path.name, found.precision or "float32"),),
        state=msgspec.structs.replace(found.state, warm_up=warm_up),
        labels=labels,
        output=output,
    )


def _window_of(tensor: TensorSpec) -> tuple[int, int]:
    """Return length and channels: a line of an image is a sample."""
    shape = [max(1, axis) for axis in tensor.shape[1:]] or [1]
    if len(shape) == 1:
        return shape[0], 1
    return shape[0], math.prod(shape[1:])


def _labels_of(
    path: Path, asked: TensorSpec, answer: TensorSpec
) -> tuple[tuple[str, ...], OutputSpec]:
    size = math.prod(max(1, axis) for axis in answer.shape[1:])
    if size > 1 and answer.shape[1:] == asked.shape[1:]:
        return ("error",), OutputSpec(activation="reconstruction")
    if size > _MOST_LABELS:
        raise BundleError(
            f"the model answers {size} numbers",
            where=str(path),
            expected=f"at most {_MOST_LABELS}",
            remedy="Such answers (masks, boxes) come later; add a reduction to the model.",
        )
    return ("value",) if size == 1 else tuple(f"out_{i}" for i in range(size)), OutputSpec()


def _name_of(path: Path) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_")[:63] or "model"


def _golden(spec: ModelSpec, found: Findings, model: bytes) -> Golden:
    options = SessionOptions(
        state=spec.state, shape=(spec.window.length, len(spec.stream.channels))
    )
    session = load_session(found.backend, spec.artefacts[0].backend, model, options)
    try:
        windows = _drawn(spec, found.inputs[0])
        at = np.arange(len(windows), dtype=np.int64)
        pipeline = Pipeline(spec, session, base="0" * 64)
        return Golden(windows, pipeline.score_windows(Windows(at, at, at, windows)).score)
    finally:
        session.close()


def _drawn(spec: ModelSpec, tensor: TensorSpec) -> np.ndarray:
    """Draw windows over the range of a quantised input, or standard normal ones."""
    dice = np.random.default_rng(0)
    shape = (_GOLDEN_WINDOWS, spec.window.length, len(spec.stream.channels))
    if tensor.scale is None or tensor.zero_point is None:
        return dice.normal(size=shape).astype(np.float32)
    limits = np.iinfo(tensor.dtype)
    steps = dice.integers(limits.min, limits.max, shape, endpoint=True)
    return ((steps - tensor.zero_point) * tensor.scale).astype(np.float32)


def _assumptions(spec: ModelSpec, rate_hz: float, warm_up: int, found: Findings) -> tuple[str, ...]:
    window = spec.window
    said: Sequence[str] = (
        f"a window is {counted(window.length, 'sample')} of "
        f"{counted(len(spec.stream.channels), 'channel')}, "
        "without overlap, fed to the model as it is",
        f"samples come at {rate_hz:g} Hz",
        f"{len(spec.labels)} outputs are reported as they are, and decide nothing",
    )
    if found.state_kind == "resources":
        said = (
            *said,
            f"after a restart the last {warm_up} windows are played to the model again, "
            "because its state cannot be read",
        )
    return tuple(said)
