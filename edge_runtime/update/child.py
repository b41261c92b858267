"""A child process with limits: it judges files that may take a whole process down.

Native runtimes can corrupt the heap, hang or eat memory on a bad file, and no
``except`` catches that. The child has limits on address space, CPU, wall time
and files, an environment without secrets, and prints one line of JSON per
verdict. `ask` is the parent's side; the rest runs in the child.
"""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec

from edge_runtime.backends import confined
from edge_runtime.errors import BundleError, EdgeError, MissingExtra, ModelError

__all__ = [
    "Answer",
    "ask",
    "forget_peak",
    "limit_process",
    "limited",
    "peak_rss_mb",
    "reason_of",
    "tell",
]

_OUTPUT_BYTES = 256 * 1024
_OPEN_FILES = 64
# What the runtimes say when an allocation fails; they have no type for it.
_NO_MEMORY = re.compile(r"bad[_ ]alloc|allocate memory|out of memory|memory allocation", re.I)


class Answer(msgspec.Struct, frozen=True):
    """What became of a child.

    Attributes:
        lines: What it printed, one verdict a line.
        death: Why its verdicts do not count, beginning with ``crash``, ``time``
            or ``spawn``; empty if it ended as it should. A child that dies after
            a verdict has a broken heap, so that verdict is void.
    """

    lines: tuple[str, ...] = ()
    death: str = ""


def ask(module: str, arguments: list[str], *, limit_s: float) -> Answer:
    """Run a module of ours in a child and return what it printed. Never raises.

    Args:
        module: Run as ``python -P -m module``; it calls `limit_process` first.
        arguments: For that module.
        limit_s: Wall time of the child.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            code = _spawn(module, arguments, out, err, limit_s)
        except subprocess.TimeoutExpired:
            return Answer(death=f"time: no verdict within {limit_s:g} s")
        except OSError as error:
            return Answer(death=f"spawn: {error}")
        return _answer(code, _tail(out), _tail(err))


def _spawn(
    module: str, arguments: list[str], out: IO[bytes], err: IO[bytes], limit_s: float
) -> int:
    return subprocess.run(  # noqa: S603 - our own interpreter and module
        confined.command(module, arguments),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        env=confined.environment(),
        timeout=limit_s,
        check=False,
    ).returncode


def _tail(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_OUTPUT_BYTES).decode("utf-8", "replace")


def _answer(code: int, out: str, err: str) -> Answer:
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        word = "time" if name in {"SIGALRM", "SIGXCPU"} else "crash"
        return Answer(death=f"{word}: killed by {name}")
    lines = tuple(out.strip().splitlines())
    if code == 0 and lines:
        return Answer(lines)
    last = (err.strip().splitlines() or ["no output"])[-1]
    return Answer(death=f"crash: exit code {code}: {last[:200]}")


# --- in the child -------------------------------------------------------------------


def tell(verdict: msgspec.Struct) -> None:
    """Print a verdict for the parent."""
    sys.stdout.write(msgspec.json.encode(verdict).decode() + "\n")
    sys.stdout.flush()


def limit_process() -> None:
    """Set what stays the same for all that this process judges."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Output goes to files of the parent, so this bounds it too.
    resource.setrlimit(resource.RLIMIT_FSIZE, (_OUTPUT_BYTES, _OUTPUT_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))


def limited(judge: Callable[[], None], *, limit_mb: int, limit_s: float) -> EdgeError | None:
    """Do something within limits; return why it was refused, or None.

    Args:
        judge: Raises `EdgeError` with a reason.
        limit_mb: Address space it may add to what this process has now, MiB.
        limit_s: Wall time and CPU time; beyond it the kernel ends the process,
            even inside a native loop.
    """
    _limit_time(limit_s)
    confined.limit_memory(limit_mb)
    try:
        judge()
    except MemoryError:
        return ModelError(f"memory: more than {limit_mb} MiB")
    except EdgeError as error:
        if _NO_MEMORY.search(error.what):
            return ModelError(f"memory: more than {limit_mb} MiB: {error.what}")
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    return None


def reason_of(error: EdgeError | None) -> str:
    """Say in one line why something was refused, beginning with one word; empty for None."""
    if error is None:
        return ""
    words = {MissingExtra: "missing", ModelError: "load", BundleError: "bundle"}
    word = next((word for kind, word in words.items() if isinstance(error, kind)), "load")
    return error.what if re.match(r"[a-z]+: ", error.what) else f"{word}: {error.what}"


def _limit_time(limit_s: float) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = int(used.ru_utime + used.ru_stime + limit_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, resource.RLIM_INFINITY))


def forget_peak() -> None:
    """Let `peak_rss_mb` start anew; without effect where the system cannot."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, MiB."""
    # ru_maxrss would count the parent's memory, from before exec; VmHWM does not.
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0
