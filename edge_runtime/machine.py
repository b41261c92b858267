"""What this machine is: processor, cores, memory, and the versions that decide speed."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

__all__ = ["RUNTIMES", "Machine", "cores", "installed_version", "memory_mb", "processor", "rss_mb"]

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


class Machine(msgspec.Struct, frozen=True):
    """What a measurement of speed depends on.

    Attributes:
        processor: Name of the processor, or of the board.
        cores: Processors the system has.
        architecture: Such as ``x86_64`` or ``aarch64``.
        runtimes: Version of each installed package of `RUNTIMES`.
    """

    processor: str
    cores: int
    architecture: str
    runtimes: dict[str, str]

    @classmethod
    def here(cls) -> Machine:
        """Describe the machine this process runs on."""
        found = {name: installed_version(name) for name in RUNTIMES}
        runtimes = {name: number for name, number in found.items() if number is not None}
        return cls(processor(), os.cpu_count() or 1, platform.machine(), runtimes)

    @property
    def key(self) -> str:
        """Hash of all of it, 12 hex digits: equal keys, comparable measurements."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:12]


def processor() -> str:
    """Return the name of the processor; on ARM boards, which name none, of the board."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = [line.partition(":") for line in lines]
    named = {name.strip().lower(): value.strip() for name, _, value in reversed(pairs)}
    return named.get("model name") or named.get("model") or platform.machine()


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


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
