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
    Samples,
)
from edge_converters.quantise.onnx import OnnxQuantiser
from edge_converters.quantise.search import search
from edge_converters.quantise.tflite import TFLiteQuantiser
from edge_converters.report import operator_rows
from edge_runtime.errors import EdgeError

__all__ = ["make"]


def make(
    model: str,
    kind: str,
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
        folder: Where the files go.
        precisions: ``mixed`` starts a search on the windows of ``judged``.
        calib: ``.npy`` of windows that set the ranges, shape (n, …).
        judged: ``.npz`` with ``windows`` and, where known, ``truth``.
        budget: Fields of `Budget`.

    Returns:
        ``made``: precision, file, and the cures of its operators; ``failed``: precision and
        why; ``operators``: rows of the report, as if all were int8.
    """
    makers = {"onnx": OnnxQuantiser, "tflite": TFLiteQuantiser}
    quantiser: Quantiser = makers[kind](Path(model).read_bytes())
    calibration = None if calib is None else quantiser.calibrate(np.load(calib))
    samples = _samples(judged)
    judged_by = msgspec.convert(budget, Budget)
    ranking: tuple[Ranking, ...] = ()
    made: list[dict[str, object]] = []
    failed: list[dict[str, object]] = []
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
        cures = found.recipe.cures
        if precision == "mixed" and not cures and "int8" in precisions:
            failed.append({"precision": precision, "why": "nothing in it had to stay float"})
            continue
        file = Path(folder) / f"{Path(model).stem}-{precision}.{kind}"
        file.write_bytes(found.model)
        made.append({"precision": precision, "file": str(file), "cures": cures})
    rows = operator_rows(quantiser.operators, calibration, ranking, {})
    return {"made": made, "failed": failed, "operators": msgspec.to_builtins(rows)}


def _samples(judged: str | None) -> Samples | None:
    if judged is None:
        return None
    with np.load(judged) as arrays:
        return Samples(arrays["windows"], arrays.get("truth"))


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
