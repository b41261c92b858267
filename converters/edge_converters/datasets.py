"""Windows and labels that a conversion is calibrated and judged on."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.errors import ConfigError

__all__ = ["Dataset", "check_labels", "check_windows", "load_dataset", "sha256_of"]

_INPUTS = ("inputs", "x", "windows", "features")
_LABELS = ("labels", "y", "targets", "truth")
_REMEDY = "Write it with numpy.savez(path, inputs=windows, labels=labels)."


class Dataset(msgspec.Struct, frozen=True, eq=False):
    """Windows as the model takes them, and what is true of each.

    Attributes:
        inputs: Shape (n, …), as in the file.
        labels: Shape (n,); None where the file has none.
        where: The file.
    """

    inputs: np.ndarray
    labels: np.ndarray | None
    where: str


def load_dataset(path: Path) -> Dataset:
    """Load ``.npz`` with ``inputs`` and ``labels``, or ``.npy`` with inputs alone.

    Raises:
        ConfigError: It cannot be read, has no windows, or values that are not finite.
    """
    where = str(path)
    arrays = _arrays(path)
    name = next((one for one in _INPUTS if one in arrays), None)
    if name is None:
        raise ConfigError(
            f"holds the arrays {sorted(arrays)}",
            where=where,
            expected=f"one of {', '.join(_INPUTS)}",
            remedy=_REMEDY,
        )
    labels = next((arrays[one] for one in _LABELS if one in arrays), None)
    found = Dataset(arrays[name], labels, where)
    _check(found)
    return found


def check_windows(dataset: Dataset, shape: tuple[int, ...]) -> np.ndarray:
    """Return the windows in the shape the model takes, float32 or as they are if integers.

    Args:
        dataset: Of any shape with as many values a window.
        shape: Of the model's input without its batch axis.

    Raises:
        ConfigError: A window has another number of values.
    """
    inputs = dataset.inputs
    if int(np.prod(inputs.shape[1:])) != int(np.prod(shape)):
        raise ConfigError(
            f"windows have shape {inputs.shape[1:]}",
            where=dataset.where,
            expected=f"{int(np.prod(shape))} values a window, as in {shape}",
            remedy="Cut the windows as in training; features and scaling are part of it, "
            "unless --spec computes them.",
        )
    shaped = inputs.reshape(len(inputs), *shape)
    return np.asarray(shaped, np.float32) if inputs.dtype.kind == "f" else shaped


def check_labels(dataset: Dataset, outputs: int, metric: str) -> np.ndarray:
    """Return labels that the metric can be computed with.

    Raises:
        ConfigError: There are none, too few kinds, or classes the model does not have.
    """
    labels = dataset.labels
    if labels is None:
        raise _unfit(dataset, "has no labels", f"labels of every window for --metric {metric}")
    if metric == "mae":
        return np.asarray(labels, np.float64)
    classes = np.unique(labels)
    if len(classes) < 2:
        raise _unfit(dataset, f"has the one label {classes.tolist()}", "at least two classes")
    if metric in ("auc", "f1") and not set(classes.tolist()) <= {0, 1}:
        raise _unfit(dataset, f"has the labels {classes[:8].tolist()}", f"0 and 1 for {metric}")
    is_integer = labels.dtype.kind in "iub"
    if not is_integer or (metric == "accuracy" and not 0 <= classes[0] <= classes[-1] < outputs):
        raise _unfit(
            dataset,
            f"has labels of {labels.dtype} from {classes[0]} to {classes[-1]}",
            f"class numbers from 0 to {outputs - 1}",
        )
    return labels


def sha256_of(path: Path | None) -> str | None:
    """Return the SHA-256 of a file, or over the sorted files of a folder; None for None."""
    if path is None:
        return None
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        told = f"{sha256_of(file)}  {file.relative_to(path).as_posix()}\n"
        digest.update(told.encode())
    return digest.hexdigest()


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {_INPUTS[0]: found}
        with found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"cannot be read: {error}",
            where=str(path),
            expected="an .npz with inputs and labels, or an .npy with inputs",
            remedy=_REMEDY,
        ) from error


def _check(dataset: Dataset) -> None:
    inputs, labels = dataset.inputs, dataset.labels
    if inputs.dtype.kind not in "iufb" or inputs.ndim < 2 or not len(inputs):
        raise _unfit(
            dataset,
            f"has inputs of {inputs.dtype} with shape {inputs.shape}",
            "numbers of shape (windows, …), at least one window",
        )
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        bad = np.flatnonzero(~np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1))
        raise _unfit(
            dataset,
            f"{len(bad)} of {len(inputs)} windows hold NaN or infinities, window {bad[0]} first",
            "finite values",
        )
    if labels is not None and (labels.ndim != 1 or len(labels) != len(inputs)):
        raise _unfit(
            dataset,
            f"has {len(inputs)} windows and labels of shape {labels.shape}",
            "one label for each window",
        )


def _unfit(dataset: Dataset, what: str, expected: str) -> ConfigError:
    return ConfigError(what, where=dataset.where, expected=expected, remedy=_REMEDY)
