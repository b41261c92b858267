"""Verify: a file is asked on every runtime version of the target, and timed on this machine."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edge_converters.contracts import Candidate, Latency, Parity, Request, Verified
from edge_converters.metrics import GARBAGE_DB
from edge_converters.parity import FLOAT_GATE_DB, parity_of
from edge_converters.stages.asking import ask_model, ask_others
from edge_converters.stages.float_file import FloatFile
from edge_converters.targets import Runtime, Target
from edge_converters.workers.environments import environment
from edge_runtime.errors import EdgeError

__all__ = ["verified"]


def verified(
    candidate: Candidate, float_: FloatFile, request: Request, target: Target
) -> Candidate:
    """Ask a candidate on every runtime of the target that runs its format.

    Every output is compared, the one that decides and the others.

    Args:
        candidate: What is tried.
        float_: The windows that it is asked, and what float says to them.
        request: Its limits and constants count.
        target: Names the runtimes.

    Returns:
        The candidate with what was found; never raises for anything it does.
    """
    found: list[Verified] = []
    latency = candidate.latency
    for runtime in target.runtimes_of(candidate.format):
        one, taken = _on(runtime, candidate, float_, request)
        latency = latency or taken
        found.append(one)
    return msgspec.structs.replace(candidate, verified=tuple(found), latency=latency)


def _on(
    runtime: Runtime, candidate: Candidate, float_: FloatFile, request: Request
) -> tuple[Verified, Latency | None]:
    if runtime.worker and not environment(runtime.worker).is_ready:
        return _unproven(runtime), None
    form, limits, constants = candidate.format, request.limits, request.constants
    try:
        asked = ask_model(
            candidate.file,
            form,
            float_.inputs,
            runtime=runtime,
            limits=limits,
            is_timed=True,
            constants=constants,
        )
        parity = parity_of(float_.answers, asked.answers)
        answers = ask_others(
            candidate.file, form, float_.inputs, runtime=runtime, limits=limits, constants=constants
        )
        pairs = zip(float_.others.items(), answers.values(), strict=True)
        others = {name: parity_of(wanted, one) for (name, wanted), one in pairs}
    except EdgeError as error:
        return Verified(runtime.name, False, error.what.split(chr(10))[0]), None
    least = FLOAT_GATE_DB if candidate.precision == "float32" else GARBAGE_DB
    reason = _why_not({"": parity} | others, least)
    told = Verified(asked.runtime, not reason, reason, parity, others, asked.peak_rss_mb)
    return told, asked.latency


def _why_not(parities: Mapping[str, Parity], least_db: float) -> str:
    """Return which outputs are too far from float; empty if none is."""
    return "; ".join(
        f"{f'output {name!r}: ' if name else ''}{one.snr_db:.1f} dB, "
        f"at least {least_db:g} dB expected"
        for name, one in parities.items()
        if one.snr_db is not None and one.snr_db < least_db
    )


def _unproven(runtime: Runtime) -> Verified:
    return Verified(
        runtime.name,
        False,
        f"nobody could ask it: edge-runtime convert env sync {runtime.worker}",
    )
