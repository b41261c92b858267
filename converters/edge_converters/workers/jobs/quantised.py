"""Makes quantised files of a float one; a crash of the quantiser stays in its process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_converters.quantise.contracts import (
    Budget,
    Calibration,
    Candidate,
    Precision,
    Quantiser,
    Ranking,
    Recipe,
    Samples,
)
from edge_converters.quantise.onnx import OnnxQuantiser
from edge_converters.quantise.refit import refit
from edge_converters.quantise.search import search
from edge_converters.quantise.tflite import TFLiteQuantiser
from edge_converters.report import operator_rows
from edge_runtime.errors import EdgeError, ModelError
from edge_runtime.ports import SessionOptions
from edge_runtime.spec import StateSpec

__all__ = ["make", "remake"]


def make(
    model: str,
    kind: str,
    state: dict[str, object],
    folder: str,
    precisions: Sequence[Precision],
    calib: str | None,
    judged: str | None,
    budget: dict[str, object],
) -> dict[str, object]:
    """Make one file for each precision.

    Args:
        model: The float file.
        kind: ``tflite`` or ``onnx``.
        state: Fields of `StateSpec`; with state, windows are sequences.
        folder: Where the files go.
        precisions: ``mixed`` starts a search on the windows of ``judged``.
        calib: ``.npy`` of windows that set the ranges, shape (n, …).
        judged: ``.npz`` with ``windows`` and, where known, ``truth``.
        budget: Fields of `Budget`.

    Returns:
        ``made``: precision, file, and its recipe; ``failed``: precision and
        why; ``operators``: rows of the report, as if all were int8.
    """
    told = msgspec.convert(state, StateSpec)
    try:
        quantiser = _quantiser(model, kind, told)
    except ModelError as error:
        why = f"{error.what}; {error.remedy}"
        failed = [{"precision": one, "why": why} for one in precisions]
        return {"made": [], "failed": failed, "operators": []}
    calibration = None if calib is None else quantiser.calibrate(np.load(calib))
    samples = _samples(judged, is_stream=bool(told.tensors))
    judged_by = msgspec.convert(budget, Budget)
    ranking: tuple[Ranking, ...] = ()
    made: list[dict[str, object]] = []
    failed = []
    for precision in precisions:
        try:
            if precision == "mixed":
                found, ranking = _searched(quantiser, calibration, samples, judged_by)
            else:
                found = _made(quantiser, precision, calibration)
        except EdgeError as error:
            failed.append({"precision": precision, "why": error.what})
            continue
        if found is None:
            failed.append({"precision": precision, "why": "every operator had to stay float"})
            continue
        if precision == "mixed" and not found.recipe.cures and "int8" in precisions:
            failed.append({"precision": precision, "why": "nothing in it had to stay float"})
            continue
        made.append(_written(found, model, folder))
    rows = operator_rows(quantiser.operators, calibration, ranking, {})
    return {"made": made, "failed": failed, "operators": msgspec.to_builtins(rows)}


def remake(
    model: str,
    kind: str,
    state: dict[str, object],
    folder: str,
    calib: str,
    old: str,
    before: dict[str, object],
) -> dict[str, object]:
    """Quantise new weights of a network that devices have.

    Args:
        model: The float file with the new weights.
        kind: ``tflite`` or ``onnx``.
        state: Fields of `StateSpec`; with state, windows are sequences.
        folder: Where the file goes.
        calib: ``.npy`` of windows, shape (n, …).
        old: The file that devices have.
        before: Its recipe.

    Returns:
        ``made`` and ``operators`` as of `make`; ``other``: the file that was not chosen;
        ``refit``: the grounds.
    """
    quantiser = _quantiser(model, kind, msgspec.convert(state, StateSpec))
    windows = np.load(calib)
    found, other, told = refit(
        msgspec.convert(before, Recipe), Path(old).read_bytes(), quantiser, windows
    )
    rows = operator_rows(quantiser.operators, quantiser.calibrate(windows), (), found.recipe.cures)
    return {
        "made": [_written(found, model, folder)],
        "other": _written(other, model, str(Path(folder) / "other")),
        "operators": msgspec.to_builtins(rows),
        "refit": msgspec.to_builtins(told),
    }


def _written(found: Candidate, model: str, folder: str) -> dict[str, object]:
    recipe = found.recipe
    file = Path(folder) / f"{Path(model).stem}-{recipe.precision}.{recipe.format}"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(found.model)
    return {
        "precision": recipe.precision,
        "file": str(file),
        "recipe": msgspec.to_builtins(recipe),
    }


def _quantiser(model: str, kind: str, state: StateSpec) -> Quantiser:
    content = Path(model).read_bytes()
    if kind == "tflite":
        return TFLiteQuantiser(content)
    return OnnxQuantiser(content, SessionOptions(state=state))


def _samples(judged: str | None, *, is_stream: bool) -> Samples | None:
    if judged is None:
        return None
    with np.load(judged) as arrays:
        return Samples(arrays["windows"], arrays.get("truth"), is_stream)


def _made(quantiser: Quantiser, precision: Precision, calibration: Calibration | None) -> Candidate:
    recipe = quantiser.recipe(precision, calibration, {})
    return Candidate(recipe=recipe, model=quantiser.quantise(recipe))


def _searched(
    quantiser: Quantiser,
    calibration: Calibration | None,
    samples: Samples | None,
    budget: Budget,
) -> tuple[Candidate | None, tuple[Ranking, ...]]:
    assert calibration is not None  # noqa: S101 - the parent sees to both
    assert samples is not None  # noqa: S101
    result = search(quantiser, calibration, samples, budget)
    return result.chosen if result.is_within_budget else None, result.ranking
