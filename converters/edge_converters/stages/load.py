"""Load: whatever the model is, one file of a runtime's format comes out, and its answers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_converters.chains import chain
from edge_converters.contracts import Format, Kind, Loaded, Origin, Request
from edge_converters.datasets import sha256_of
from edge_converters.forests import isolation_forest
from edge_converters.paths import Route, route
from edge_converters.recipes import check_origin
from edge_converters.workers.ask import Answer, ask
from edge_converters.workers.borrowed import find_worker

__all__ = ["Facts", "load", "stem_of"]

_JOBS: dict[tuple[Kind, Format], str] = {
    ("sklearn", "onnx"): "sklearn_models.convert",
    ("keras", "tflite"): "keras_models.to_tflite",
    ("savedmodel", "tflite"): "keras_models.to_tflite",
    ("keras", "onnx"): "keras_chains.whole_to_onnx",
    ("savedmodel", "onnx"): "keras_models.to_onnx",
    ("tflite", "onnx"): "tflite_files.to_onnx",
    ("torch-export", "onnx"): "torch_models.convert",
    ("torch-module", "onnx"): "torch_models.convert_module",
    ("torch-pickle", "onnx"): "torch_models.convert_pickle",
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
    asked = _asked(request, kind, folder, inputs)
    told = ask(worker, _job_of(request, way), asked, request.limits, where=request.model)
    origin = Origin(told.result.get("sha256") or _digest_of(request), told.result["version"])
    check_origin(request.origin, origin, request.model)
    return _loaded(request, way, folder, told, origin), _facts(told)


def _job_of(request: Request, way: Route) -> str:
    """Return the job; what is to be cut must be a chain of layers."""
    if way.source == "keras" and request.hop is not None:
        return "keras_chains.to_onnx"
    return _JOBS[way.source, way.format]


def _asked(request: Request, kind: Kind, folder: Path, inputs: Path | None) -> dict[str, object]:
    """Return the arguments of the job."""
    is_file = kind != "torch-module"
    common: dict[str, object] = {
        "model": str(Path(request.model).resolve()) if is_file else request.model,
        "folder": str(folder),
        "is_trusted": request.is_trusted,
        "inputs": str(inputs) if inputs else None,
    }
    if not kind.startswith("torch"):
        return common
    # Where the tool was started, and beside a file: there its own modules lie.
    beside = [str(Path(request.model).resolve().parent)] if is_file else []
    shape = list(request.shape) if request.shape else None
    return common | {"shape": shape, "roots": [*beside, str(Path.cwd())]}


def _digest_of(request: Request) -> str:
    return sha256_of(Path(request.model)) or ""


def _copied(request: Request, kind: Kind, form: Format, folder: Path) -> Loaded:
    file = folder / f"{stem_of(request.model)}.{form}"
    shutil.copyfile(request.model, file)
    origin = Origin(_digest_of(request))
    return Loaded(kind, origin, form, file, "", None, None, (), 0.0)


def _loaded(request: Request, way: Route, folder: Path, told: Answer, origin: Origin) -> Loaded:
    file = folder / f"{stem_of(request.model)}.{way.format}"
    content = Path(told.result["file"])
    _write(file, content, told.result)
    notes = [f"converted by {origin.worker} in the worker {way.worker}"]
    notes += told.result.get("notes", ())
    if told.network != "none":
        notes.append(f"the worker's network could not be taken away: {told.network}")
    return Loaded(
        way.source,
        origin,
        way.format,
        file,
        way.worker,
        folder / "inputs.npy",
        folder / "outputs.npy",
        tuple(notes),
        told.seconds,
    )


def _write(file: Path, content: Path, told: dict[str, Any]) -> None:
    """Put what the worker made in place; of plain arrays, the graph is made here."""
    match told.get("emitter"):
        case "isolation-forest":
            rows = np.load(content.with_name("inputs.npy"), mmap_mode="r")
            file.write_bytes(isolation_forest(content, rows.shape[1]))
        case "chain":
            file.write_bytes(chain(content, told["parts"], told["shape"], told.get("batch")))
        case _:
            content.rename(file)


def _facts(told: Answer) -> Facts:
    return Facts(
        told.result.get("kind"),
        tuple(told.result.get("labels", ())),
        tuple(told.result.get("channels", ())),
        told.result.get("threshold"),
    )


def stem_of(model: str) -> str:
    """Return what files that are made of a model are called: letters, digits, ``_`` and ``-``."""
    name = Path(model).stem if Path(model).exists() else model.rpartition(":")[2]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "model"
