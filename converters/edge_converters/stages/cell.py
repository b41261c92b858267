"""Cell: a recurrent network over a sequence becomes one of a few steps, with explicit state."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from edge_converters.contracts import Request, Step
from edge_converters.parity import FLOAT_GATE_DB, check_parity, parity_of
from edge_converters.stages.asking import ask_model
from edge_converters.workers.ask import ask, here
from edge_runtime.errors import ConfigError

__all__ = ["check_cell", "cut"]


def cut(file: Path, inputs: Path, hop: int, request: Request) -> Step:
    """Cut a network into a cell, and step it over the sequences that the whole is asked.

    Each sequence begins with fresh state, so that the second one also shows that a
    reset leaves nothing of the first.

    Args:
        file: A float ONNX file that has passed its gates.
        inputs: ``.npy`` of sequences, shape (n, steps, …), n at least 1.
        hop: Steps that the cell takes in one call.
        request: Its limits count.

    Raises:
        BundleError: It is not recurrent, reads backwards, or looks at several steps at once.
        ModelError: The cell answers otherwise than the whole.
    """
    start = time.monotonic()
    cell = file.with_name("cell.onnx")
    shape = list(np.load(inputs, mmap_mode="r").shape[1:])
    arguments = {"model": str(file), "file": str(cell), "hop": hop, "shape": shape}
    told = ask(here(), "cells.cut", arguments, request.limits, where=request.model).result
    whole = ask_model(file, "onnx", inputs, limits=request.limits).answers
    steps = ask_model(cell, "onnx", inputs, limits=request.limits).answers
    steps = steps.reshape(len(whole), told["steps"] // hop, -1)
    found = steps if told["is_sequence"] else steps[:, -1]
    parity = parity_of(whole.reshape(len(whole), -1), found.reshape(len(whole), -1))
    check_parity(parity, FLOAT_GATE_DB, f"{request.model}: cut")
    seconds = time.monotonic() - start
    return Step("cut", cell, cell.stat().st_size, parity, tuple(told["notes"]), seconds)


def check_cell(request: Request) -> None:
    """Stop at what does not go together with a cell.

    Raises:
        ConfigError: Another format or a file as it is was asked for.
    """
    asked = {
        f"--to {', '.join(request.formats)}": set(request.formats) - {"onnx"},
        "--precision as-is": "as-is" in request.precisions,
    }
    for option, is_other in asked.items():
        if is_other:
            raise ConfigError(
                f"--stream with {option}",
                where="the command line",
                expected="an ONNX cell: sessions of TFLite files take no state as tensors, and "
                "a file that is taken as it is is not cut",
                remedy="Leave one of the two out.",
            )
