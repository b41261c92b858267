"""Verify: a file is asked on every runtime version of the target, and timed on this machine."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from edge_converters.contracts import Candidate, Latency, Request, Verified
from edge_converters.parity import FLOAT_GATE_DB, parity_of
from edge_converters.stages.asking import ask_model
from edge_converters.targets import Runtime, Target
from edge_converters.workers.environments import environment
from edge_runtime.errors import EdgeError

__all__ = ["verified"]

_QUANTISED_GATE_DB = 10.0
"""Below it a file is garbage, whatever it was meant to be: wrong kernels gave 1 dB."""


def verified(
    candidate: Candidate,
    inputs: Path,
    expected: np.ndarray | None,
    request: Request,
    target: Target,
) -> Candidate:
    """Ask a candidate on every runtime of the target that runs its format.

    Args:
        candidate: What is tried.
        inputs: ``.npy`` of windows.
        expected: The float answers; None takes what the first runtime answers.
        request: Its limits and constants count.
        target: Names the runtimes.

    Returns:
        The candidate with what was found; never raises for anything it does.
    """
    found: list[Verified] = []
    latency = candidate.latency
    for runtime in target.runtimes_of(candidate.format):
        one, answers, taken = _on(runtime, candidate, inputs, expected, request)
        expected = answers if expected is None else expected
        latency = latency or taken
        found.append(one)
    return msgspec.structs.replace(candidate, verified=tuple(found), latency=latency)


def _on(
    runtime: Runtime,
    candidate: Candidate,
    inputs: Path,
    expected: np.ndarray | None,
    request: Request,
) -> tuple[Verified, np.ndarray | None, Latency | None]:
    if runtime.worker and not environment(runtime.worker).is_ready:
        return _unproven(runtime), None, None
    try:
        asked = ask_model(
            candidate.file,
            candidate.format,
            inputs,
            runtime=runtime,
            limits=request.limits,
            is_timed=True,
            constants=request.constants,
        )
        parity = parity_of(asked.answers if expected is None else expected, asked.answers)
    except EdgeError as error:
        return Verified(runtime.name, False, error.what.split(chr(10))[0]), None, None
    least = FLOAT_GATE_DB if candidate.precision == "float32" else _QUANTISED_GATE_DB
    is_sound = parity.snr_db is None or parity.snr_db >= least
    reason = "" if is_sound else f"{parity.snr_db:.1f} dB, at least {least:g} dB expected"
    told = Verified(asked.runtime, is_sound, reason, parity, asked.peak_rss_mb)
    return told, asked.answers, asked.latency


def _unproven(runtime: Runtime) -> Verified:
    return Verified(
        runtime.name,
        False,
        f"nobody could ask it: edge-runtime convert env sync {runtime.worker}",
    )
