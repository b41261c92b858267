"""Examine: operators of every candidate, who knows them, and how long a board may take."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from edge_converters.contracts import Candidate, Request
from edge_converters.latency import Answer, BoardFile, TargetLatency, estimate, refined
from edge_converters.operations import Operation
from edge_converters.stages.before import Before
from edge_converters.targets import Target
from edge_converters.workers.ask import ask, here
from edge_runtime.boards import BOARDS

__all__ = ["examined", "on_target"]

# What people convert on: their time is measured, not guessed.
_MEASURED_HERE = frozenset({"desktop", "gateway"})


def examined(candidates: Sequence[Candidate], request: Request) -> list[Candidate]:
    """Read the operators of every candidate, in a process of its own.

    Raises:
        EdgeError: A file cannot be read.
    """
    arguments: dict[str, object] = {
        "models": [str(one.file) for one in candidates],
        "kinds": [one.format for one in candidates],
    }
    told = ask(here(), "examined.examine", arguments, request.limits, where=request.model).result
    read = msgspec.convert(told["operations"], list[tuple[Operation, ...]])
    return [
        msgspec.structs.replace(one, operations=operations, asked=tuple(runtimes))
        for one, operations, runtimes in zip(candidates, read, told["runtimes"], strict=True)
    ]


def on_target(
    candidates: Sequence[Candidate],
    answers: Sequence[Answer],
    target: Target,
    before: Before | None = None,
) -> list[Candidate]:
    """Say how long a window takes on the target: as it answered, else as is estimated.

    Args:
        candidates: With their operators.
        answers: Of the target.
        target: A target that is no board, and a machine like this one, get nothing
            unless they have answered.
        before: What a refresh replaces: boards that ran it have answered for its successor.
    """
    if target.name not in BOARDS or (target.name in _MEASURED_HERE and not answers):
        return list(candidates)
    estimates = [estimate(target.name, one.format, one.operations) for one in candidates]
    told = refined(estimates, [_file(one, target, before) for one in candidates], answers)
    return [_with(one, found) for one, found in zip(candidates, told, strict=True)]


def _file(one: Candidate, target: Target, before: Before | None) -> BoardFile:
    """Return the runtime that would run a file there, and the file that it replaces."""
    board = BOARDS[target.name]
    usual = {runtime.format: runtime.name for runtime in reversed(target.runtimes)}
    prefers = [each.name for each in target.runtimes_of(one.format) if each.name == board.backend]
    backend = prefers[0] if prefers else usual[one.format]
    replaces = before is not None and before.is_alike(one.format, one.precision)
    return BoardFile(
        backend,
        hashlib.sha256(one.file.read_bytes()).hexdigest(),
        hashlib.sha256(before.model).hexdigest() if before and replaces else "",
    )


def _with(one: Candidate, found: TargetLatency) -> Candidate:
    return msgspec.structs.replace(one, target=found)
