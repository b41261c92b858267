"""Describe: the ``bundle.yaml`` of a converted file, and what had to be assumed for it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from edge_converters.contracts import Format, Request
from edge_converters.sidecars import Sidecar, read_sidecar
from edge_converters.stages.load import Facts
from edge_runtime.backends.onnx_graph import read_graph
from edge_runtime.config.convert import load_yaml
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.spec import ChannelSpec, Limit, ModelSpec, Raw, WindowSpec
from edge_runtime.update.bare import ModelQuestion
from edge_runtime.update.derived import derive_bundle

__all__ = ["Described", "describe"]


class Described(msgspec.Struct, frozen=True, eq=False):
    """What a bundle of a file says.

    Attributes:
        spec: Its artefact is the file that was looked at.
        probe: Tensors over the range of the model's input, shape (n, …).
        assumed: What nobody told, a sentence each.
        notes: What a sidecar told.
    """

    spec: ModelSpec
    probe: np.ndarray
    assumed: tuple[str, ...]
    notes: tuple[str, ...] = ()


def describe(file: Path, form: Format, facts: Facts, request: Request) -> Described:
    """Admit a file in a child process, and say what a bundle of it needs and promises.

    Args:
        file: ``.tflite`` or ``.onnx``.
        form: Which of the two.
        facts: What its source said.
        request: ``spec``, ``sidecar``, ``name``, ``version``, ``labels`` and ``rate_hz`` count.

    Raises:
        BundleError: The file is refused, or what is said does not fit it.
        ConfigError: A spec or sidecar cannot be read.
    """
    question = ModelQuestion(
        constants=request.constants,
        shape=request.shape,
        limit_mb=min(request.limits.memory_mb, 4096),
        limit_s=min(request.limits.seconds, 60.0),
    )
    try:
        derived = derive_bundle(file, question, rate_hz=request.rate_hz, warm_up=request.warm_up)
    except EdgeError as error:
        error.where = error.where.replace(str(file), request.model)
        raise
    spec, assumed = derived.bundle.spec, derived.assumed
    sidecar = _sidecar(file, form, request)
    if request.spec is not None:
        spec, assumed = _given(request.spec, spec, request.hop), ()
    elif sidecar is not None:
        spec, assumed = sidecar.applied_to(spec), ()
    spec = _told(spec, facts, request)
    if request.spec is None and facts.channels:
        spec, assumed = _as_rows(spec, facts.channels), assumed[1:]
    notes = (*_notes(sidecar), *_order_of_axes(file, form))
    return Described(spec, derived.bundle.golden().inputs, assumed, notes)


def _sidecar(file: Path, form: Format, request: Request) -> Sidecar | None:
    if request.spec is not None:
        return None
    original = Path(request.model)
    return read_sidecar(original if original.suffix == file.suffix else file, form, request.sidecar)


def _notes(sidecar: Sidecar | None) -> tuple[str, ...]:
    return (f"described by {sidecar.origin}", *sidecar.notes) if sidecar is not None else ()


def _order_of_axes(file: Path, form: Format) -> tuple[str, ...]:
    """Warn of a model that would take the samples of a window for its channels."""
    if form != "onnx":
        return ()
    graph = read_graph(file.read_bytes())
    return tuple(
        f"{port.name} goes straight into a convolution, which reads channels first; windows "
        "of a stream have samples first: transpose them in the model, before its first layer"
        for port in graph.inputs
        if "Conv" in graph.readers_of(port.name) and port.shape[1] != 1
    )


def _given(path: Path, derived: ModelSpec, hop: int | None) -> ModelSpec:
    given = load_yaml(path, ModelSpec)
    if given.cascade:
        raise ConfigError(
            "the spec has a cascade",
            where=str(path),
            expected="the spec of one model",
            remedy="Convert each model by itself, and put the cascade together afterwards.",
        )
    if hop is not None:
        _check_cell(path, given, hop)
        given = msgspec.structs.replace(given, state=derived.state)
    return msgspec.structs.replace(given, artefacts=derived.artefacts, golden=derived.golden)


def _check_cell(path: Path, given: ModelSpec, hop: int) -> None:
    """Stop at a spec that does not hand a cell its samples as they are."""
    window = given.window
    is_plain = given.features == (Raw(),) and given.normalise is None
    if (window.length, window.hop) != (hop, hop) or not is_plain:
        raise ConfigError(
            f"the window is {window.length} samples, every {window.hop}"
            + ("" if is_plain else ", with features or a normaliser"),
            where=str(path),
            expected=f"window {{length: {hop}, hop: {hop}}} and raw samples, as --stream says",
            remedy="Correct the spec; scaling belongs into the network.",
        )


def _told(spec: ModelSpec, facts: Facts, request: Request) -> ModelSpec:
    changes: dict[str, object] = {"version": request.version or "1"}
    if request.spec is not None:
        changes = {}
    if request.name is not None:
        changes["name"] = request.name
    if request.spec is None and facts.kind is not None:
        changes["kind"] = facts.kind
    labels = request.labels or (facts.labels if request.spec is None else ())
    if labels:
        changes["labels"] = _checked(labels, spec)
    if facts.threshold is not None and request.spec is None:
        changes["limits"] = (Limit(labels[0], facts.threshold, facts.threshold),)
    return msgspec.structs.replace(spec, **changes)


def _as_rows(spec: ModelSpec, channels: tuple[str, ...]) -> ModelSpec:
    """Make a window one sample with a channel for each input."""
    stream = msgspec.structs.replace(spec.stream, channels=tuple(map(ChannelSpec, channels)))
    return msgspec.structs.replace(spec, stream=stream, window=WindowSpec(1, 1))


def _checked(labels: tuple[str, ...], spec: ModelSpec) -> tuple[str, ...]:
    if len(labels) != len(spec.labels):
        raise ConfigError(
            f"there are {len(labels)} labels",
            where="--labels",
            expected=f"{len(spec.labels)}, one for each output",
            remedy="Name every output of the model, in order.",
        )
    return labels
