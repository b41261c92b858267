"""Asks a worker to do one job: JSON in, JSON out, within limits, whatever it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge_converters.contracts import Limits
from edge_converters.workers.hints import hint_of
from edge_runtime.backends import confined
from edge_runtime.errors import BundleError, ConfigError, EdgeError, ModelError, TrustError

__all__ = ["Answer", "Worker", "here"]

_HARNESS = Path(__file__).with_name("harness.py")
_JOBS = "edge_converters.workers.jobs"
_REFUSALS: dict[int, type[EdgeError]] = {2: ConfigError, 3: TrustError}
_TAIL_LINES = 12
_TAIL_BYTES = 1 << 16


class Worker(msgspec.Struct, frozen=True):
    """An environment that jobs run in.

    Attributes:
        name: For people.
        python: Its interpreter.
        is_foreign: Whether it is another environment than this one.
    """

    name: str
    python: Path
    is_foreign: bool = True


class Answer(msgspec.Struct, frozen=True):
    """What a job gave back.

    Attributes:
        result: Of its function.
        network: ``none``, or why it could not be taken away.
        peak_rss_mb: Largest resident memory, MiB.
        seconds: Wall time, the start included.
    """

    result: dict[str, Any]
    network: str
    peak_rss_mb: float
    seconds: float


class _Refused(msgspec.Struct):
    what: str
    expected: str = ""
    remedy: str = ""
    exit_code: int = 1


class _Reply(msgspec.Struct):
    network: str
    peak_rss_mb: float
    result: dict[str, Any] | None = None
    refused: _Refused | None = None
    failed: str | None = None


def here() -> Worker:
    """Return the worker that is this environment in a process of its own."""
    return Worker("core", Path(sys.executable), is_foreign=False)


def ask(
    worker: Worker,
    job: str,
    arguments: Mapping[str, object],
    limits: Limits,
    *,
    where: str,
    package: str = _JOBS,
) -> Answer:
    """Let a worker do one job, and wait for it.

    Args:
        worker: Where.
        job: ``module.function``.
        arguments: Of the function; anything JSON can say.
        limits: What it may take.
        where: The model it is about, for messages.
        package: Where the job's module lies.

    Raises:
        BundleError: The job refuses the model.
        ConfigError: The job refuses what came with it.
        TrustError: It would have to be trusted first.
        ModelError: It failed, crashed, or took too much; with the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="edge-convert-") as folder:
        request, reply, log = (Path(folder) / name for name in ("request", "reply", "log"))
        request.write_bytes(
            msgspec.json.encode(
                {
                    "job": f"{package}.{job}",
                    "arguments": arguments,
                    "memory_mb": limits.memory_mb,
                    "seconds": limits.seconds,
                }
            )
        )
        start = time.monotonic()
        death = _run(worker, [str(request), str(reply)], log, limits, Path(folder))
        seconds = time.monotonic() - start
        if death or not reply.exists():
            raise _died(worker, job, death or "it ended without an answer", log, where)
        answer = msgspec.json.decode(reply.read_bytes(), type=_Reply)
        if answer.result is None:
            raise _unanswered(worker, job, answer, log, where)
        return Answer(answer.result, answer.network, answer.peak_rss_mb, seconds)


def _run(worker: Worker, arguments: list[str], log: Path, limits: Limits, folder: Path) -> str:
    """Run the harness to its end; return how it died, or nothing."""
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - our own harness
            [str(worker.python), "-P", str(_HARNESS), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=_environment(worker, folder),
            start_new_session=True,
        )
        try:
            code = process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            return f"it took more than {limits.seconds:g} s of wall time"
        finally:
            _end(process)
    return _death_of(code)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started, also when this process is interrupted."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _death_of(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}" if code else ""
    known = {one.value: one.name for one in signal.Signals}
    return f"it was killed by {known.get(-code, -code)}"


def _environment(worker: Worker, folder: Path) -> dict[str, str]:
    """Return an environment without secrets and proxies; a foreign one finds only its own."""
    own = confined.environment() | {"TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    if worker.is_foreign:
        own.pop("PYTHONPATH")
    return own


def _unanswered(worker: Worker, job: str, answer: _Reply, log: Path, where: str) -> Exception:
    if answer.refused is None:
        return _died(worker, job, answer.failed or "it gave no answer", log, where)
    told = answer.refused
    kind = _REFUSALS.get(told.exit_code, BundleError)
    return kind(told.what, where=where, expected=told.expected, remedy=told.remedy)


def _died(worker: Worker, job: str, death: str, log: Path, where: str) -> ModelError:
    lines = _tail(log)
    quoted = "\n".join(f"    | {line[:200]}" for line in lines)
    remedy = hint_of("\n".join([death, *lines]))
    return ModelError(
        f"worker {worker.name!r} failed in {job}: {death}",
        where=where,
        expected="an answer",
        remedy=f"{remedy}\n  the end of its log:\n{quoted}" if lines else remedy,
    )


def _tail(log: Path) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    return [line for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
