"""Normalise: a float file in the form runtimes take, with a gate behind every step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_converters.contracts import Loaded, Parity, Request, Step
from edge_converters.outputs import further_outputs, led_by, state_of
from edge_converters.parity import FLOAT_GATE_DB, check_parity, parity_of
from edge_converters.stages.asking import ask_model
from edge_converters.workers.ask import ask, here
from edge_runtime.errors import EdgeError

__all__ = ["draw", "gate", "normalise_onnx"]


def gate(loaded: Loaded, request: Request) -> Step:
    """Compare a file that a worker made with the source it was made of.

    Raises:
        EdgeError: It does not run, or answers otherwise.
    """
    assert loaded.inputs is not None  # noqa: S101 - a worker wrote both
    assert loaded.outputs is not None  # noqa: S101
    asked = ask_model(loaded.file, loaded.format, loaded.inputs, limits=request.limits)
    parity = parity_of(np.load(loaded.outputs), asked.answers)
    check_parity(parity, FLOAT_GATE_DB, f"{request.model} → {loaded.file.name}")
    size = loaded.file.stat().st_size
    return Step(f"from {loaded.kind}", loaded.file, size, parity, loaded.notes, loaded.seconds)


def draw(file: Path, request: Request) -> Path:
    """Write windows that fit an ONNX file's input, and return where they are.

    Raises:
        BundleError: It is no ONNX model, or an axis is free.
    """
    inputs = file.with_name("drawn.npy")
    shape = list(request.shape) if request.shape else None
    arguments = {"model": str(file), "inputs": str(inputs), "shape": shape}
    ask(here(), "onnx_files.draw", arguments, request.limits, where=request.model)
    return inputs


def normalise_onnx(
    file: Path, inputs: Path, request: Request, *, is_folded: bool
) -> tuple[Step, ...]:
    """Strip, pin and fold an ONNX file; each step must leave the answers alone.

    Args:
        file: A float file; a quantised one is not folded.
        inputs: ``.npy`` of windows.
        request: Its limits and constants count.
        is_folded: Whether nodes may be joined.

    Returns:
        The steps that changed something, in order.

    Raises:
        EdgeError: The file is unsound, or a step changed an answer.
    """
    told = ask(
        here(),
        "onnx_files.normalise",
        {"model": str(file), "folder": str(file.parent), "is_folded": is_folded},
        request.limits,
        where=request.model,
    )
    made = told.result["steps"]
    files = [file, *(Path(one["file"]) for one in made)]
    answers = [_answers(one, inputs, request) for one in _each_output(files, request)]
    steps = []
    for number, one in enumerate(made):
        where = f"{request.model}: {one['name']}"
        parities = [_compared(found[number], found[number + 1], where) for found in answers]
        path = Path(one["file"])
        notes = tuple(one["notes"])
        steps.append(Step(one["name"], path, path.stat().st_size, _worst(parities), notes))
    return tuple(steps)


def _each_output(files: list[Path], request: Request) -> Iterator[list[Path]]:
    """Yield the files, and for every further output copies that answer with it."""
    yield files
    models = [one.read_bytes() for one in files]
    state = state_of("onnx", models[0], request.constants)
    for place in further_outputs("onnx", models[0], state).values():
        led = [one.with_name(f"{one.stem}-output-{place}.onnx") for one in files]
        for path, model in zip(led, models, strict=True):
            path.write_bytes(led_by("onnx", model, place))
        yield led


def _compared(before: np.ndarray | None, after: np.ndarray | None, where: str) -> Parity | None:
    if before is None or after is None:
        return None
    parity = parity_of(before, after)
    check_parity(parity, FLOAT_GATE_DB, where)
    return parity


def _worst(parities: list[Parity | None]) -> Parity | None:
    """Return the lowest of all outputs; None where the one that decides was not compared."""
    if parities[0] is None:
        return None
    known = [one for one in parities if one is not None and one.snr_db is not None]
    return min(known, key=lambda one: one.snr_db or 0.0, default=parities[0])


def _answers(files: list[Path], inputs: Path, request: Request) -> list[np.ndarray | None]:
    """Return what each file answers; None where nothing here can run it."""
    arguments = {
        "models": [str(file) for file in files],
        "kind": "onnx",
        "inputs": str(inputs),
        "constants": request.constants,
    }
    told = ask(here(), "answers.answer_each", arguments, request.limits, where=request.model)
    answers = [one and np.load(one) for one in told.result["found"]]
    if answers[0] is None:
        answers[0] = _reference(files[0], inputs, request)
    return answers


def _reference(file: Path, inputs: Path, request: Request) -> np.ndarray | None:
    outputs = file.with_name("reference-answers.npy")
    arguments = {"model": str(file), "inputs": str(inputs), "outputs": str(outputs)}
    try:
        ask(here(), "onnx_files.reference", arguments, request.limits, where=request.model)
    except EdgeError:
        return None
    return np.asarray(np.load(outputs))
