"""Asks files the same windows on any runtime, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from edge_converters.contracts import Format, Latency, Limits
from edge_converters.outputs import further_outputs, led_by, state_of
from edge_converters.targets import Runtime
from edge_converters.workers.ask import ask, here
from edge_converters.workers.borrowed import find_worker

__all__ = ["Asked", "ask_model", "ask_others"]


class Asked(msgspec.Struct, frozen=True, eq=False):
    """What a file answered.

    Attributes:
        runtime: Name and version.
        answers: Real values, shape (n, …), float32.
        shape: Of the model's input without its batch axis; empty where nobody said.
        latency: Of one call; None where it was not timed.
        peak_rss_mb: Of the process that asked, MiB.
    """

    runtime: str
    answers: np.ndarray
    shape: tuple[int, ...]
    latency: Latency | None
    peak_rss_mb: float


def ask_model(
    file: Path,
    form: Format,
    inputs: Path,
    *,
    runtime: Runtime | None = None,
    limits: Limits,
    is_timed: bool = False,
    constants: dict[str, float] | None = None,
) -> Asked:
    """Ask a file windows, one by one from fresh state.

    Args:
        file: The model.
        form: Of the file.
        inputs: ``.npy``, shape (n, …), real values or the model's own dtype.
        runtime: Which one; None takes the usual one for the format, in this environment.
        limits: Of the process.
        is_timed: Whether calls are timed too.
        constants: Values of further inputs.

    Raises:
        EdgeError: It does not load or run, or kills its process.
    """
    outputs = file.with_name(f"{file.stem}-{file.suffix[1:]}-answers.npy")
    common: dict[str, object] = {"model": str(file), "inputs": str(inputs), "outputs": str(outputs)}
    if runtime is not None and runtime.worker:
        worker, job, more = find_worker(runtime.worker, file.name), "legacy.answer", {}
    else:
        backend = runtime.name if runtime else {"tflite": "litert", "onnx": "onnx"}[form]
        worker, job = here(), "answers.answer"
        more = {
            "kind": form,
            "backend": backend,
            "is_timed": is_timed,
            "constants": constants or {},
        }
    told = ask(worker, job, common | more, limits, where=file.name)
    us = told.result.get("us")
    return Asked(
        told.result["runtime"],
        np.load(outputs, allow_pickle=False),
        tuple(told.result.get("shape", ())),
        Latency(*us) if us else None,
        told.peak_rss_mb,
    )


def ask_others(
    file: Path,
    form: Format,
    inputs: Path,
    *,
    runtime: Runtime | None = None,
    limits: Limits,
    constants: dict[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """Ask a file for its outputs beside the one that decides and those of state.

    Arguments and errors are those of `ask_model`.

    Returns:
        What each answers, shape (n, …), by its name.
    """
    model = file.read_bytes()
    places = further_outputs(form, model, state_of(form, model, constants or {}))
    found = {}
    for name, place in places.items():
        led = file.with_name(f"{file.stem}-output-{place}{file.suffix}")
        led.write_bytes(led_by(form, model, place))
        told = ask_model(led, form, inputs, runtime=runtime, limits=limits, constants=constants)
        found[name] = told.answers
        led.unlink()
    return found
