"""Opens a PyTorch model, writes it as ONNX and says what it answers.

Runs in the worker ``torch``. An exported program is data, as long as nothing in it is
pickled; a pickled module and a module by import path are programs, and need trust.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edge_converters.workers.jobs.torch_archives import check_archive, check_operators
from edge_converters.workers.refusal import Refusal

__all__ = ["convert", "convert_module", "convert_pickle"]

_WINDOWS = 16
_OPSET = 20
_LONGEST = 300
# The tensors of a window that nobody gave are standard normal, or over these integers.
_INTEGERS = 0, 2
# What goes into the batch that shows torch.export which axis is free.
_EXAMPLES = 2


def convert(
    model: str,
    folder: str,
    is_trusted: bool,
    inputs: str | None,
    shape: list[int] | None,
    roots: Sequence[str],
) -> dict[str, object]:
    """Convert an exported program, and answer windows with the original.

    Args:
        model: A ``.pt2`` file of ``torch.export.save``.
        folder: Where ``model.onnx``, ``inputs.npy`` and ``outputs.npy`` go.
        is_trusted: Whether pickles in it may be opened.
        inputs: ``.npy`` of windows to be asked, shape (n, …); None draws them.
        shape: Of one window, for free axes.
        roots: Folders in which a pickle's modules are looked for.

    Returns:
        ``file``, ``version`` and ``notes``.

    Raises:
        Refusal: It is not trusted, does not load, or has no ONNX form.
    """
    with _found_in(roots if is_trusted else ()):
        program = _loaded(model, is_trusted)
    return _written(program, Path(folder), inputs, shape, [])


def convert_pickle(
    model: str,
    folder: str,
    is_trusted: bool,
    inputs: str | None,
    shape: list[int] | None,
    roots: Sequence[str],
) -> dict[str, object]:
    """Convert a pickled module; as `convert`, but nothing is opened without trust."""
    _check_trust(is_trusted, "a pickled module is a program: opening it runs whatever it says")
    import torch

    with _found_in(roots):
        try:
            found = torch.load(model, map_location="cpu", weights_only=False)
        except Exception as error:
            raise Refusal(
                f"the pickle does not open: {_told(error)}",
                f"a module that PyTorch {torch.__version__} can open here",
                "Run the command in the folder its classes are imported from.",
            ) from error
        return _of_module(_network(found, "the file"), Path(folder), inputs, shape)


def convert_module(
    model: str,
    folder: str,
    is_trusted: bool,
    inputs: str | None,
    shape: list[int] | None,
    roots: Sequence[str],
) -> dict[str, object]:
    """Convert what ``package.module:name`` is or returns; as `convert`, but with trust alone.

    Returns:
        Also ``sha256``: over the source file of the module and all weights.
    """
    _check_trust(is_trusted, "importing a module runs whatever it says")
    place, _, name = model.partition(":")
    with _found_in(roots):
        source, found = _imported(place, name)
        told = _of_module(found, Path(folder), inputs, shape)
    digest = hashlib.sha256(Path(source).read_bytes())
    for key, tensor in sorted(found.state_dict().items()):
        digest.update(key.encode() + tensor.detach().cpu().numpy().tobytes())
    return told | {"sha256": digest.hexdigest()}


def _check_trust(is_trusted: bool, why: str) -> None:
    if not is_trusted:
        raise Refusal(
            why,
            "code whose origin you trust",
            "If you trust it, say so: --trust. A .pt2 of torch.export.save needs no trust.",
            exit_code=3,
        )


# --- opening ------------------------------------------------------------------------


@contextmanager
def _found_in(roots: Sequence[str]) -> Iterator[None]:
    """Let modules be found in these folders, after those of the environment."""
    before = list(sys.path)
    sys.path.extend(roots)
    try:
        yield
    finally:
        sys.path[:] = before


def _loaded(model: str, is_trusted: bool) -> Any:
    check_archive(model, is_trusted=is_trusted)
    import torch

    watch, swallowed = _Watch(), _Swallowed()
    if not is_trusted:
        sys.addaudithook(watch)
    logging.getLogger("torch.export").addHandler(swallowed)
    try:
        return torch.export.load(model)
    except Exception as error:
        if watch.seen:
            raise Refusal(
                f"the archive holds a pickle of {watch.seen}: opening it can run any code",
                "an archive of plain tensors",
                "Export a model of plain weights; or, if you made it, say so: --trust.",
                exit_code=3,
            ) from error
        raise _unopened(swallowed.error or error, torch.__version__) from error
    finally:
        watch.is_on = False
        logging.getLogger("torch.export").removeHandler(swallowed)


class _Swallowed(logging.Handler):
    """Keeps the error that ``torch.export.load`` logs before it raises a vaguer one."""

    error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and self.error is None:
            self.error = record.exc_info[1]


class _Watch:
    """Stops whatever looks up a class or function for a pickle; an audit hook stays for ever."""

    def __init__(self) -> None:
        self.is_on = True
        self.seen = ""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_on and event == "pickle.find_class":
            self.seen = ".".join(map(str, arguments))
            raise PermissionError(f"a pickle of {self.seen}")


def _unopened(error: BaseException, torch_version: str) -> Refusal:
    return Refusal(
        f"PyTorch {torch_version} cannot open it: {_told(error)}",
        "a complete file of torch.export.save, of this version or an older one",
        "Export it again with that version; or name a Python with yours: "
        "edge-runtime convert env use torch PYTHON.",
    )


def _imported(place: str, name: str) -> tuple[str, Any]:
    """Return the source file of a module, and the network that its name is or returns."""
    try:
        module = importlib.import_module(place)
        found = getattr(module, name)
        network = found if _is_network(found) else found()
    except Exception as error:
        raise Refusal(
            f"gives no network: {_told(error)}",
            "a torch.nn.Module, or a function or class that returns one without arguments",
            "Run the command in the folder the package lies in, and write a function that builds "
            "the network and loads its weights.",
        ) from error
    return str(getattr(module, "__file__", None) or __file__), _network(network, f"{place}:{name}")


def _is_network(found: Any) -> bool:
    import torch

    return isinstance(found, torch.nn.Module)


def _network(found: Any, what: str) -> Any:
    import torch

    if isinstance(found, torch.jit.ScriptModule):
        raise Refusal(
            f"{what} is TorchScript, which torch.export does not take",
            "a torch.nn.Module of Python",
            "Export the module that it was scripted from.",
        )
    if isinstance(found, dict):
        raise Refusal(
            f"{what} holds weights and no network",
            "a whole torch.nn.Module",
            "Write a function that builds the network and loads them, and name it: "
            "edge-runtime convert package.module:function --trust --shape N,N.",
        )
    if not isinstance(found, torch.nn.Module):
        raise Refusal(
            f"{what} is {type(found).__module__}.{type(found).__qualname__}",
            "a torch.nn.Module",
            "Name a module, or a function that returns one.",
        )
    return found


# --- exporting ----------------------------------------------------------------------


def _of_module(
    network: Any, folder: Path, inputs: str | None, shape: list[int] | None
) -> dict[str, object]:
    network.eval()
    axes = shape or _shape_of(inputs)
    program, notes = _exported(network, axes)
    return _written(program, folder, inputs, shape, notes)


def _shape_of(inputs: str | None) -> list[int]:
    """Return the shape of one of the windows that were given."""
    if inputs is None:
        raise Refusal(
            "a module does not tell what it takes",
            "the shape of one window",
            "Say it: --shape 128,3; or give windows: --calib windows.npz.",
        )
    return list(np.load(inputs, mmap_mode="r").shape[1:])


def _exported(network: Any, axes: Sequence[int]) -> tuple[Any, list[str]]:
    """Export with a free batch axis, or with a batch of one where the network fixes it."""
    import torch

    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    try:
        example = torch.zeros(_EXAMPLES, *axes)
        return torch.export.export(network, (example,), dynamic_shapes=({0: batch},)), []
    except Exception:
        notes = ["the network fixes its batch, so it was exported for one window"]
    try:
        return torch.export.export(network, (torch.zeros(1, *axes),)), notes
    except Exception as error:
        raise Refusal(
            f"torch.export cannot follow the network: {_told(error)}",
            f"a forward that takes one float32 tensor of shape (batch, {', '.join(map(str, axes))})"
            " and does not branch on its values",
            "Correct --shape; or replace branches on values by torch.where, torch.cond or "
            "arithmetic, and loops on values by fixed ones.",
        ) from error


def _written(
    program: Any, folder: Path, inputs: str | None, shape: list[int] | None, notes: list[str]
) -> dict[str, object]:
    import torch

    check_operators(_targets_of(program))
    windows = _windows(_entry_of(program), inputs, shape)
    np.save(folder / "inputs.npy", windows)
    np.save(folder / "outputs.npy", _answers(program, windows))
    file = folder / "model.onnx"
    file.write_bytes(_as_onnx(program))
    tools = f"onnx {version('onnx')}, onnxscript {version('onnxscript')}"
    told = f"torch {torch.__version__}, {tools}, Python {platform.python_version()}"
    return {"file": str(file), "version": told, "notes": notes}


def _targets_of(program: Any) -> list[str]:
    nodes = [one for one in program.graph.nodes if one.op == "call_function"]
    return [f"torch.ops.{one.target}" for one in nodes if hasattr(one.target, "namespace")]


def _entry_of(program: Any) -> Any:
    """Return the fake tensor of the one input; its first axis is the batch."""
    signature = program.graph_signature
    for what, names in (("inputs", signature.user_inputs), ("outputs", signature.user_outputs)):
        if len(names) != 1:
            raise Refusal(
                f"the model has {len(names)} {what}: {', '.join(map(str, names))[:200]}",
                "one window in and one answer out",
                "Export a module that takes and gives one tensor. A cell with its state as further "
                "inputs and outputs: torch.onnx.export it with names such as h_in and h_out.",
            )
    node = next(one for one in program.graph.nodes if one.name == signature.user_inputs[0])
    entry = node.meta["val"]
    _check_batch(entry)
    return entry


def _check_batch(entry: Any) -> None:
    size = entry.shape[0] if len(entry.shape) else None
    if size is None or (isinstance(size, int) and size != 1):
        raise Refusal(
            f"the model takes a tensor of shape {_axes_of(entry)}: its batch is fixed",
            "a first axis that is free, or 1",
            "Export it again with a free batch: torch.export.export(model, (example,), "
            'dynamic_shapes=({0: torch.export.Dim("batch")},)).',
        )


def _axes_of(entry: Any) -> list[int | str]:
    return [axis if isinstance(axis, int) else "?" for axis in entry.shape]


def _windows(entry: Any, inputs: str | None, shape: list[int] | None) -> np.ndarray:
    """Return windows in the tensor's own dtype, shape (n, …)."""
    import torch

    dtype = torch.empty(0, dtype=entry.dtype).numpy().dtype
    axes = [one if isinstance(one, int) else 0 for one in entry.shape[1:]]
    if inputs is not None:
        given = np.load(inputs)
        sizes = axes if 0 not in axes else list(given.shape[1:])
        return np.asarray(given.reshape(len(given), *sizes)).astype(dtype)
    if 0 in axes and (shape is None or len(shape) != len(axes)):
        raise Refusal(
            f"the model's input has the free axes {_axes_of(entry)}",
            "a window of fixed length",
            "Say how long it is: --shape N,N; or export with fixed axes but the first.",
        )
    fixed = [one or given for one, given in zip(axes, shape or axes, strict=True)]
    dice = np.random.default_rng(0)
    if dtype.kind != "f":
        return dice.integers(*_INTEGERS, (_WINDOWS, *fixed)).astype(dtype)
    return dice.normal(size=(_WINDOWS, *fixed)).astype(dtype)


def _answers(program: Any, windows: np.ndarray) -> np.ndarray:
    """Return what the original answers to each window alone, shape (n, …), float32."""
    import torch
    from torch.utils._pytree import tree_leaves

    call = program.module()
    rows = []
    with torch.no_grad():
        for window in windows:
            try:
                answer = tree_leaves(call(torch.from_numpy(window[None])))[0]
            except Exception as error:
                raise Refusal(
                    f"the model does not take a window of shape {window.shape}: {_told(error)}",
                    "windows as the model takes them",
                    "Export it again with a batch of one that is free; correct --shape.",
                ) from error
            rows.append(answer.detach().to(torch.float32).numpy())
    return np.concatenate([row.reshape(1, *row.shape[1:]) for row in rows])


def _as_onnx(program: Any) -> bytes:
    import torch

    try:
        made = torch.onnx.export(
            program, (), dynamo=True, opset_version=_OPSET, external_data=False, verbose=False
        )
    except Exception as error:
        raise Refusal(
            f"the model has no ONNX form: {_told(error)}",
            "operators that torch.onnx knows",
            "Replace the operator it names, or do that step in the features of the bundle.",
        ) from error
    return bytes(made.model_proto.SerializeToString())


# --- words --------------------------------------------------------------------------


def _told(error: BaseException) -> str:
    """Return the innermost reason in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:_LONGEST]
