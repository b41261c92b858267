"""Load: whatever the model is, one file of a runtime's format comes out, and its answers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import numpy as np

from edge_converters.contracts import Format, Kind, Loaded, Request
from edge_converters.forests import isolation_forest
from edge_converters.paths import Route, route
from edge_converters.workers.ask import Answer, ask
from edge_converters.workers.environments import find_worker

__all__ = ["Facts", "load"]

_JOBS: dict[tuple[Kind, Format], str] = {
    ("sklearn", "onnx"): "sklearn_models.convert",
    ("keras", "tflite"): "keras_models.to_tflite",
    ("savedmodel", "tflite"): "keras_models.to_tflite",
    ("keras", "onnx"): "keras_models.to_onnx",
    ("savedmodel", "onnx"): "keras_models.to_onnx",
    ("tflite", "onnx"): "tflite_files.to_onnx",
}


class Facts(msgspec.Struct, frozen=True):
    """What the source says about the model that its converted file does not.

    Attributes:
        kind: ``classifier``, ``scorer`` or ``regressor``; None where nobody knows.
        labels: Names of its answers.
        channels: Names of its inputs, where a window is one row of them.
        threshold: Value from which a score counts as an anomaly.
    """

    kind: str | None = None
    labels: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    threshold: float | None = None


def load(
    request: Request, kind: Kind, form: Format, folder: Path, inputs: Path | None
) -> tuple[Loaded, Facts]:
    """Bring a model to a file of one format.

    Args:
        request: Names the model, and says whether it is trusted.
        kind: What it is.
        form: What it is to become.
        folder: Where files go.
        inputs: ``.npy`` of windows that the source answers, shape (n, …); None lets the
            worker draw them.

    Returns:
        The file, and what its source says about it.

    Raises:
        EdgeError: The path is refused, or the worker fails.
    """
    way = route(kind, form, request.model)
    if not way.worker:
        return _copied(request, kind, form, folder), Facts()
    worker = find_worker(way.worker, request.model)
    told = ask(
        worker,
        _JOBS[kind, form],
        {
            "model": str(Path(request.model).resolve()),
            "folder": str(folder),
            "is_trusted": request.is_trusted,
            "inputs": str(inputs) if inputs else None,
        },
        request.limits,
        where=request.model,
    )
    return _loaded(request, way, folder, told), _facts(told)


def _copied(request: Request, kind: Kind, form: Format, folder: Path) -> Loaded:
    file = folder / f"{_stem(request.model)}.{form}"
    shutil.copyfile(request.model, file)
    return Loaded(kind, form, file, "", None, None, (), 0.0)


def _loaded(request: Request, way: Route, folder: Path, told: Answer) -> Loaded:
    file = folder / f"{_stem(request.model)}.{way.format}"
    content = Path(told.result["file"])
    if told.result.get("emitter") == "isolation-forest":
        rows = np.load(folder / "inputs.npy", mmap_mode="r")
        file.write_bytes(isolation_forest(content, rows.shape[1]))
    elif content != file:
        content.rename(file)
    notes = [f"converted by {told.result['version']} in the worker {way.worker}"]
    if told.network != "none":
        notes.append(f"the worker's network could not be taken away: {told.network}")
    return Loaded(
        way.source,
        way.format,
        file,
        way.worker,
        folder / "inputs.npy",
        folder / "outputs.npy",
        tuple(notes),
        told.seconds,
    )


def _facts(told: Answer) -> Facts:
    return Facts(
        told.result.get("kind"),
        tuple(told.result.get("labels", ())),
        tuple(told.result.get("channels", ())),
        told.result.get("threshold"),
    )


def _stem(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(model).stem).strip("-") or "model"
