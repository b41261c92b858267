"""Runs one job in a worker's environment: ``python -P harness.py REQUEST.json REPLY.json``.

Limits are set and the network is left before the job's framework is imported.
Standard library alone; the package that the jobs lie in is put together by hand, so
that nothing else of the parent's environment is found.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import sys
import traceback
import types
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PACKAGE = "edge_converters"


def main(request: Path, reply: Path) -> int:
    """Do what the request says and write what came of it."""
    asked = json.loads(request.read_text())
    _limit(asked["memory_mb"], asked["seconds"])
    network = _leave_network()
    _find_jobs()
    answer = _answered(asked["job"], asked["arguments"])
    answer |= {"network": network, "peak_rss_mb": _peak_rss_mb()}
    part = reply.with_suffix(".part")
    part.write_text(json.dumps(answer))
    part.replace(reply)
    return 0


def _limit(memory_mb: int, seconds: float) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_mb:
        resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    # Native code on several cores uses CPU time faster than wall time.
    cpu_s = int(seconds * (os.cpu_count() or 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))


def _leave_network() -> str:
    """Move into a network namespace without any device; say whether that worked."""
    if sys.platform != "linux":
        return "open: this system has no network namespaces"
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (_CLONE_NEWNET, _CLONE_NEWNET | _CLONE_NEWUSER):
        if libc.unshare(flags) == 0:
            return "none"
    return f"open: {os.strerror(ctypes.get_errno())}"


def _find_jobs() -> None:
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules[_PACKAGE] = package


def _answered(job: str, arguments: dict[str, object]) -> dict[str, object]:
    module, _, function = job.rpartition(".")
    try:
        result = getattr(importlib.import_module(module), function)(**arguments)
    except MemoryError:
        return {"failed": "MemoryError: the limit on memory was reached"}
    except Exception as error:
        if hasattr(error, "what"):
            return {"refused": _refused(error)}
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"[:2000]}
    return {"result": result}


def _refused(error: Exception) -> dict[str, object]:
    names = ("what", "expected", "remedy")
    told: dict[str, object] = {name: str(getattr(error, name, "")) for name in names}
    return told | {"exit_code": getattr(error, "exit_code", 1)}


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
