"""Child processes of ours that run foreign models: how they start, and what binds them."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["command", "environment", "limit_memory"]

# The last one is a processor, where there is none but an emulated one: a model would
# answer otherwise on another.
_KEPT_ENVIRONMENT = (
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HOME", "LANG", "TMPDIR"),
    "QEMU_CPU",
)
# Thread pools reserve address space and, on two cores, only cost time.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def command(module: str, arguments: Sequence[str]) -> list[str]:
    """Return the command line that runs a module of ours with this interpreter."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Return an environment without secrets: nothing of this process but where things are."""
    kept = {key: os.environ[key] for key in _KEPT_ENVIRONMENT if key in os.environ}
    # The child finds modules where this process finds them, and nowhere else.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return kept | _ENVIRONMENT | {"PYTHONPATH": path}


def limit_memory(limit_mb: int) -> None:
    """Let this process reserve so much address space on top of what it has now.

    Without effect where the system does not tell what it has.
    """
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + limit_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
