"""Candidates: quantised files of a float one, made in a process of their own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from edge_converters.contracts import Candidate, Request
from edge_converters.datasets import Dataset
from edge_converters.quantise.contracts import Budget, Samples
from edge_converters.quantise.contracts import Recipe as Quantised
from edge_converters.quantise.refit import Refit
from edge_converters.report import OperatorRow
from edge_converters.stages.before import Before
from edge_converters.stages.float_file import FloatFile
from edge_converters.workers.ask import ask, here
from edge_runtime.errors import ConfigError, ModelError

__all__ = ["Made", "budget_of", "quantised", "requantised", "wanted"]

_CALIBRATED = ("float16", "dynamic", "int8", "mixed")
# Their activations are floats, so that ranges can be measured.
_FLOAT_INSIDE = ("float32", "float16", "dynamic")
# Without labels. Sound int8 files of small nets measured 20 to 38 dB, broken ones 1 dB.
_SNR_DB = 20.0


def wanted(float_: FloatFile, request: Request, *, has_data: bool) -> tuple[str, ...]:
    """Return the precisions to make besides float: those asked for, or all the data allow.

    Raises:
        ConfigError: The file computes with integers already.
    """
    asked = tuple(one for one in request.precisions if one not in ("float32", "as-is"))
    if float_.precision not in _FLOAT_INSIDE:
        if asked and asked != (float_.precision,):
            raise ConfigError(
                f"the model is {float_.precision} already, and --precision says {', '.join(asked)}",
                where=request.model,
                expected="a float model to quantise",
                remedy="Convert the float model it was made of, or leave --precision out.",
            )
        return ()
    if request.precisions:
        return asked
    return tuple(one for one in _CALIBRATED if one != float_.precision) if has_data else ()


def budget_of(float_: FloatFile, request: Request) -> Budget:
    """Return what may be lost, and how it is told where nobody gave labels."""
    is_rebuilt = float_.described.spec.output.activation == "reconstruction"
    if request.metric is not None and request.eval is not None:
        scoring = "reconstruction" if is_rebuilt else "output"
        return Budget(request.metric, request.max_drop, scoring)  # type: ignore[arg-type]
    return Budget("snr", _SNR_DB)


class Made(msgspec.Struct, frozen=True):
    """What a quantiser made of one file.

    Attributes:
        candidates: Its files.
        notes: A sentence for each that could not be made.
        operators: Of the float file, as if all were int8.
        refit: What became of new weights; None without a file before.
        other: The file of new weights that was not chosen.
    """

    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]
    operators: tuple[OperatorRow, ...]
    refit: Refit | None = None
    other: Candidate | None = None


def quantised(
    float_: FloatFile,
    calib: Dataset | None,
    searched: Samples | None,
    request: Request,
) -> Made:
    """Make the candidates that are wanted.

    Args:
        float_: What they are made of.
        calib: Windows that set the ranges.
        searched: Windows as the model sees them, and their truth, for the search.
        request: Which precisions.

    Raises:
        EdgeError: The only one that was asked for cannot be made.
    """
    precisions = wanted(float_, request, has_data=calib is not None)
    if not precisions:
        return Made((), (), ())
    folder = float_.file.parent
    arguments: dict[str, object] = {
        "model": str(float_.file),
        "kind": float_.form,
        "state": msgspec.to_builtins(float_.described.spec.state),
        "folder": str(folder),
        "precisions": precisions,
        "calib": _saved(folder, float_.tensors(calib)) if calib is not None else None,
        "judged": _saved_samples(folder, searched),
        "budget": _fields(budget_of(float_, request)),
    }
    told = ask(here(), "quantised.make", arguments, request.limits, where=request.model).result
    notes = [f"{one['precision']} could not be made: {one['why']}" for one in told["failed"]]
    if not told["made"] and request.precisions and "float32" not in request.precisions:
        raise ModelError(
            "; ".join(notes),
            where=request.model,
            expected=f"a file of {', '.join(precisions)}",
            remedy="Nothing was written. Leave --precision out to get the best that can be made.",
        )
    return Made(
        tuple(_candidate(float_, one) for one in told["made"]),
        tuple(notes),
        msgspec.convert(told["operators"], tuple[OperatorRow, ...]),
    )


def requantised(float_: FloatFile, calib: Dataset, before: Before, request: Request) -> Made:
    """Make the one file that a refresh ships: the new weights, in the old scales if they fit.

    Args:
        float_: The new weights.
        calib: Windows that both files are asked.
        before: What devices have.
        request: Its limits count.

    Raises:
        EdgeError: It is another network, or cannot be quantised.
    """
    folder = float_.file.parent
    old = folder / f"before.{float_.form}"
    old.write_bytes(before.model)
    arguments: dict[str, object] = {
        "model": str(float_.file),
        "kind": float_.form,
        "state": msgspec.to_builtins(float_.described.spec.state),
        "folder": str(folder),
        "calib": _saved(folder, float_.tensors(calib)),
        "old": str(old),
        "before": msgspec.to_builtins(before.recipe),
    }
    told = ask(here(), "quantised.remake", arguments, request.limits, where=request.model).result
    return Made(
        tuple(_candidate(float_, one) for one in told["made"]),
        (),
        msgspec.convert(told["operators"], tuple[OperatorRow, ...]),
        msgspec.convert(told["refit"], Refit),
        _candidate(float_, told["other"]),
    )


def _candidate(float_: FloatFile, made: dict[str, object]) -> Candidate:
    file = Path(str(made["file"]))
    return Candidate(
        format=float_.form,
        precision=str(made["precision"]),
        file=file,
        size_bytes=file.stat().st_size,
        quantised=msgspec.convert(made["recipe"], Quantised),
    )


def _fields(budget: Budget) -> dict[str, object]:
    return {"metric": budget.metric, "max_drop": budget.max_drop, "scoring": budget.scoring}


def _saved(folder: Path, windows: np.ndarray) -> str:
    file = folder / "calib.npy"
    np.save(file, windows)
    return str(file)


def _saved_samples(folder: Path, searched: Samples | None) -> str | None:
    if searched is None:
        return None
    file = folder / "searched.npz"
    arrays = {"windows": searched.windows}
    arrays |= {} if searched.truth is None else {"truth": searched.truth}
    np.savez(file, allow_pickle=False, **arrays)
    return str(file)
