"""Admission: a new base must prove itself in a child process before it may serve.

Native runtimes can corrupt the heap, hang or eat memory on a bad file, and no
``except`` catches that. The child has limits on address space, CPU, wall time
and files; it loads the bundle, asks every golden question twice, in a batch and
one by one, and prints its verdict as one line of JSON. Whatever else happens to
it is a refusal with a reason, never an exception here.

The first word of a reason is one of ``bundle``, ``missing``, ``load``, ``nan``,
``repeat``, ``batch``, ``golden``, ``memory``, ``time``, ``crash`` or ``spawn``.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from edge_runtime import registry
from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.errors import BundleError, EdgeError, MissingExtra, ModelError
from edge_runtime.pipeline import BATCH, Pipeline
from edge_runtime.ports import Backend, Choice
from edge_runtime.update.proof import golden_windows

__all__ = ["Admission", "admit"]

_SINGLES = 64
_OUTPUT_BYTES = 64 * 1024
_OPEN_FILES = 64
_DEFAULT = {"tflite": "litert"}
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HOME", "LANG", "TMPDIR")
# Thread pools reserve address space and, on two cores, only cost time.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class Admission(msgspec.Struct, frozen=True):
    """The verdict about one bundle.

    Attributes:
        is_admitted: Whether it may serve.
        reason: Why not; empty if it may.
        seconds: Wall time of the child.
        peak_rss_mb: Its largest resident memory, MiB.
        worst_difference: Largest distance to a golden output, in reported units.
    """

    is_admitted: bool
    reason: str = ""
    seconds: float = 0.0
    peak_rss_mb: float = 0.0
    worst_difference: float = 0.0


def admit(
    bundle_path: Path, backend: str | None = None, *, limit_mb: int = 1024, limit_s: float = 30.0
) -> Admission:
    """Prove a bundle in a child process.

    Blocks for about half a second, ``limit_s`` at most; call it off the
    threads that must not wait. Never raises for anything the bundle does.

    Args:
        bundle_path: Archive or folder whose hash has been verified.
        backend: As in the device's configuration; None for the bundle's default.
        limit_mb: Address space the model may add to the loaded runtime, MiB.
        limit_s: Wall time, and CPU time, of the child.
    """
    start = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            code = _spawn(
                [str(bundle_path), backend or "", str(limit_mb), str(limit_s)], out, err, limit_s
            )
        except subprocess.TimeoutExpired:
            verdict = Admission(False, f"time: no verdict within {limit_s:g} s")
        except OSError as error:
            verdict = Admission(False, f"spawn: {error}")
        else:
            verdict = _verdict(code, _tail(out), _tail(err))
    return msgspec.structs.replace(verdict, seconds=time.monotonic() - start)


def _spawn(arguments: list[str], out: IO[bytes], err: IO[bytes], limit_s: float) -> int:
    environment = {key: os.environ[key] for key in _KEPT_ENVIRONMENT if key in os.environ}
    # The child finds modules where this process finds them, and nowhere else.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.run(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-m", "edge_runtime.update.admission", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        env=environment | _ENVIRONMENT | {"PYTHONPATH": path},
        timeout=limit_s,
        check=False,
    ).returncode


def _tail(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_OUTPUT_BYTES).decode("utf-8", "replace")


def _verdict(code: int, out: str, err: str) -> Admission:
    # A child that dies after its verdict has a broken heap: the verdict is void.
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return Admission(False, f"{'time' if name == 'SIGXCPU' else 'crash'}: killed by {name}")
    lines = out.strip().splitlines()
    try:
        verdict = msgspec.json.decode(lines[-1] if lines else b"", type=Admission)
    except msgspec.DecodeError:
        last = (err.strip().splitlines() or ["no output"])[-1]
        return Admission(False, f"crash: exit code {code}: {last[:200]}")
    return verdict if code == 0 else Admission(False, f"crash: exit code {code}")


# --- in the child -------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Judge one bundle in this process and print the verdict; for `admit` alone."""
    path, backend, limit_mb, limit_s = arguments
    _limit(limit_s=float(limit_s))
    try:
        worst = _judge(Path(path), backend or None, int(limit_mb))
        verdict = Admission(True, peak_rss_mb=_peak_rss_mb(), worst_difference=worst)
    except MemoryError:
        verdict = Admission(False, f"memory: more than {limit_mb} MiB", peak_rss_mb=_peak_rss_mb())
    except EdgeError as error:
        verdict = Admission(False, _reason(error), peak_rss_mb=_peak_rss_mb())
    sys.stdout.write(msgspec.json.encode(verdict).decode() + "\n")
    sys.stdout.flush()
    return 0


def _judge(path: Path, backend: str | None, limit_mb: int) -> float:
    bundle = load_bundle(path)
    _warm_up(bundle, backend)
    _limit_memory(limit_mb)
    session = open_session(bundle, Choice(backend=backend))
    try:
        return _replay(bundle, Pipeline(bundle.spec, session, base=bundle.digest))
    finally:
        session.close()


def _replay(bundle: Bundle, pipeline: Pipeline) -> float:
    """Ask every golden question three ways; return the largest distance to its answer."""
    golden = bundle.golden()
    # Whole batches, so that the batched shape is asked even with few golden windows.
    repeats = -(-len(golden) // BATCH) * BATCH
    inputs = np.resize(golden.inputs, (repeats, *golden.inputs.shape[1:]))
    first, second = (pipeline.score_windows(golden_windows(inputs)).score for _ in range(2))
    if not np.isfinite(first).all():
        raise ModelError("nan: an answer to a golden window is not finite")
    if first.tobytes() != second.tobytes():
        raise ModelError("repeat: the same question got two answers; the model keeps state")
    count = min(len(golden), _SINGLES)
    singles = [
        pipeline.score_windows(golden_windows(inputs[i : i + 1])).score for i in range(count)
    ]
    if np.concatenate(singles).tobytes() != first[:count].tobytes():
        raise ModelError("batch: a window alone and in a batch got two answers")
    return _distance(first[: len(golden)], golden.outputs, bundle.spec.tolerance)


def _distance(answers: np.ndarray, golden: np.ndarray, tolerance: float) -> float:
    if answers.shape != golden.shape:
        raise ModelError(f"golden: answers have shape {answers.shape}, outputs {golden.shape}")
    worst = float(np.abs(answers - golden).max())
    if worst > tolerance:
        raise ModelError(f"golden: an answer differs by {worst:g} > {tolerance:g}")
    return worst


def _reason(error: EdgeError) -> str:
    words = {MissingExtra: "missing", ModelError: "load", BundleError: "bundle"}
    word = next((word for kind, word in words.items() if isinstance(error, kind)), "load")
    return error.what if re.match(r"[a-z]+: ", error.what) else f"{word}: {error.what}"


def _limit(*, limit_s: float) -> None:
    cpu_s = int(limit_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Output goes to files of the parent, so this bounds it too.
    resource.setrlimit(resource.RLIMIT_FSIZE, (_OUTPUT_BYTES, _OUTPUT_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))


def _warm_up(bundle: Bundle, backend: str | None) -> None:
    """Load the runtime before the limit on memory: what it reserves is not the model's."""
    kind = bundle.artefact(backend)[0].backend
    runtime: Backend = registry.create("backends", backend or _DEFAULT.get(kind, kind), {})
    runtime.probe()


def _limit_memory(limit_mb: int) -> None:
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + limit_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _peak_rss_mb() -> float:
    # ru_maxrss would count the parent's memory, from before exec; VmHWM does not.
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
