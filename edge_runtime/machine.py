"""What this machine is: processor, cores, memory, and the versions that decide speed."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

import msgspec

from edge_runtime.distributions import installed_version

__all__ = [
    "RUNTIMES",
    "Machine",
    "cores",
    "memory_mb",
    "processor",
    "rss_mb",
    "vectors",
]

RUNTIMES = (
    "numpy",
    "ai-edge-litert",
    "tflite-runtime",
    "onnxruntime",
    "onnxruntime-cann",
    "onnxruntime-directml",
    "onnxruntime-gpu",
    "onnxruntime-migraphx",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
)
"""Packages whose version decides how fast a model runs, and with which numbers."""

_VECTORS = (
    "amx_int8",
    "asimd",
    "asimddp",
    "avx2",
    "avx512_vnni",
    "avx512f",
    "avx_vnni",
    "i8mm",
    "sve",
)


class Machine(msgspec.Struct, frozen=True):
    """What a measurement of speed depends on.

    Attributes:
        processor: Name of the processor, or of the board.
        cores: Processors the system has.
        architecture: Such as ``x86_64`` or ``aarch64``.
        vectors: Vector instructions that kernels for float and int8 are chosen by:
            two machines of one name may differ in them.
        runtimes: Version of each installed package of `RUNTIMES`.
    """

    processor: str
    cores: int
    architecture: str
    vectors: tuple[str, ...]
    runtimes: dict[str, str]

    @classmethod
    def here(cls) -> Machine:
        """Describe the machine this process runs on."""
        found = {name: installed_version(name) for name in RUNTIMES}
        runtimes = {name: number for name, number in found.items() if number is not None}
        return cls(
            processor=processor(),
            cores=os.cpu_count() or 1,
            architecture=platform.machine(),
            vectors=vectors(),
            runtimes=runtimes,
        )

    @property
    def key(self) -> str:
        """Hash of all of it, 12 hex digits: equal keys, comparable measurements."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:12]


def processor() -> str:
    """Return the name of the processor; on ARM boards, which name none, of the board."""
    told = _cpuinfo()
    return told.get("model name") or told.get("model") or platform.processor() or platform.machine()


def vectors() -> tuple[str, ...]:
    """Return the vector instructions this machine has, of those that kernels ask for."""
    told = _cpuinfo()
    flags = (told.get("flags") or told.get("features") or "").split()
    return tuple(name for name in _VECTORS if name in flags)


def _cpuinfo() -> dict[str, str]:
    """Return the first value of each line of ``/proc/cpuinfo``, by name in lower case."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":") for line in lines]
    return {name.strip().lower(): value.strip() for name, _, value in reversed(pairs)}


def cores() -> int:
    """Return how many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_mb() -> int:
    """Return the machine's memory, MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def rss_mb() -> float:
    """Return the resident memory of this process, MiB; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
