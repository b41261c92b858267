"""What every backend says when a runtime, a model or a batch does not fit."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from edge_runtime.errors import EdgeError, MissingExtra, ModelError, ShapeError
from edge_runtime.types import TensorSpec

__all__ = [
    "cannot_load",
    "cannot_restore",
    "cannot_run",
    "check_batch",
    "check_tensor",
    "closed",
    "does_not_work",
    "import_runtime",
    "only_one_input",
    "open_axes",
]

_MESSAGE_LENGTH = 600


def import_runtime(backend: str, module: str, package: str, extra: str) -> ModuleType:
    """Import a runtime's module.

    Raises:
        MissingExtra: The package is not installed.
        ModelError: It is installed but cannot be imported on this machine.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise does_not_work(backend, package, error) from error
        raise MissingExtra.of(f"backend {backend!r}", package, extra) from error
    except Exception as error:
        raise does_not_work(backend, package, error) from error


def does_not_work(
    backend: str, package: str, error: object, remedy: str | None = None
) -> ModelError:
    """Say that a runtime is installed but fails on this machine."""
    return ModelError(
        f"{package} is installed but does not work here: {_brief(error)}",
        where=f"backend {backend!r}",
        expected="the built-in test model to run and to answer correctly",
        remedy=remedy or f"Reinstall {package}, or choose another backend.",
    )


def cannot_load(backend: str, kind: str, error: object, *, remedy: str = "") -> ModelError:
    """Say that the bytes are no model this runtime can run."""
    return ModelError(
        f"the model cannot be loaded: {_brief(error)}",
        where=f"backend {backend!r}",
        expected=f"a complete {kind} model whose operators this version knows",
        remedy=remedy or "Compare the file's digest with its origin's; convert the model again.",
    )


def cannot_run(backend: str, error: object) -> ModelError:
    """Say that a loaded model failed to answer."""
    return ModelError(
        f"the model failed: {_brief(error)}",
        where=f"backend {backend!r}",
        expected="an answer",
        remedy="Check the model with edge-runtime check; load it again before the next call.",
    )


def cannot_restore(backend: str, found: int, expected: int) -> ModelError:
    """Say that bytes are not the state of this model."""
    return ModelError(
        f"the model's state has {found} bytes",
        where=f"backend {backend!r}",
        expected=f"{expected}",
        remedy="Start without it; the model begins afresh.",
    )


def only_one_input(backend: str, names: list[str]) -> ModelError:
    """Say that a model has none or several inputs that nobody fills."""
    return ModelError(
        f"the model has {len(names)} inputs: {', '.join(names) or 'none'}",
        where=f"backend {backend!r}",
        expected="one input, and state or constants for all others",
        remedy="Name the others in bundle.yaml under state.tensors or state.constants.",
    )


def open_axes(backend: str, name: str, shape: Sequence[object]) -> ModelError:
    """Say that an input's size cannot be told, or not by the shape of the features."""
    axes = ", ".join(str(size) if isinstance(size, int) else "?" for size in shape)
    return ModelError(
        f"input {name!r} has the shape ({axes})",
        where=f"backend {backend!r}",
        expected="no free axis behind the first, or one that the shape of the features fills",
        remedy="Say that shape, as in check --shape 49,10; else export the model with fixed sizes.",
    )


def check_batch(backend: str, batch: np.ndarray, tensor: TensorSpec) -> None:
    """Check that a batch fits the input tensor.

    Raises:
        ShapeError: Shape or dtype is not the model's.
    """
    if batch.ndim and batch.shape[1:] == tensor.shape[1:] and batch.dtype == tensor.dtype:
        return
    axes = ", ".join(["n", *map(str, tensor.shape[1:])])
    raise ShapeError(
        f"the batch has shape {batch.shape} and dtype {batch.dtype}",
        where=f"backend {backend!r}, tensor {tensor.name!r}",
        expected=f"({axes}) and {tensor.dtype}",
        remedy="Quantise and reshape the features to the model's input tensor.",
    )


def check_tensor(backend: str, tensor: TensorSpec) -> None:
    """Check that a tensor holds one row of numbers.

    Raises:
        ModelError: It holds something else, or has no batch axis.
    """
    if tensor.shape[:1] == (1,) and np.dtype(tensor.dtype).kind in "biuf":
        return
    raise ModelError(
        f"the tensor has shape {tensor.shape} and dtype {tensor.dtype}",
        where=f"backend {backend!r}, tensor {tensor.name!r}",
        expected="numbers, with a first axis for the batch that is 1 or free",
        remedy="Convert the model again with a batch axis.",
    )


def closed(backend: str) -> ModelError:
    """Say that a session was closed before."""
    return ModelError(
        "the session is closed",
        where=f"backend {backend!r}",
        expected="an open one",
        remedy="Load the model again.",
    )


def _brief(error: object) -> str:
    """Return a runtime's message on one line and bounded."""
    text = str(error)
    if isinstance(error, EdgeError):
        text = error.what
    elif isinstance(error, UnicodeDecodeError):
        # A damaged name inside the model made the message undecodable.
        text = error.object.decode("utf-8", "replace")
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= _MESSAGE_LENGTH else text[:_MESSAGE_LENGTH] + " …"
